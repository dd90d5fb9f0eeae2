// What the kernels see of the caller's arrays: pointers, sizes and strides in elements, checked by whoever made them.
#pragma once

#include <cstddef>
#include <cstdint>

namespace gemlora {

constexpr std::int64_t panel_size = 16;   // outputs per panel of a packed matrix, and lanes of a vector
constexpr std::int64_t block_inputs = 32; // inputs of an integer matrix are padded to a multiple
constexpr std::int64_t spread_inputs = 128; // those of a spread matrix that are spread over each other and share a scale
constexpr float unspread_divisor = 16;      // of products and of weights spread back: those stored are divided by 8 already

// The weights of 4 bits of a spread matrix, 128 added: LEVELS of src/gemlora/kernels/matrix.py.
alignas(16) constexpr std::uint8_t levels[16] = {1,   32,  53,  70,  84,  97,  110, 122,
                                                 134, 146, 159, 172, 186, 203, 224, 255};

constexpr std::int64_t ceil_divide(std::int64_t number, std::int64_t by) { return (number + by - 1) / by; }

struct Half {
    std::uint16_t bits;
};

struct Bfloat {
    std::uint16_t bits;
};

// Whole numbers, −127 … 127, and what they are multiplied by.
struct ScaledBytes {
    static constexpr std::int64_t size = 64;

    Bfloat scale;
    std::int8_t numbers[size];
};
static_assert(sizeof(ScaledBytes) == 66 && alignof(ScaledBytes) == 2);

// [rows, columns], the last dimension contiguous.
template <class Number>
struct Rows {
    Number* data;
    std::int64_t rows, columns, stride;

    [[gnu::always_inline]] Number* row(std::int64_t index) const { return data + index * stride; }
};

// [rows, heads, size], the last dimension contiguous.
template <class Number>
struct Heads {
    Number* data;
    std::int64_t rows, heads, size, row_stride, head_stride;

    [[gnu::always_inline]] Number* at(std::int64_t row, std::int64_t head) const {
        return data + row * row_stride + head * head_stride;
    }
};

template <class Number>
struct Span {
    const Number* data;
    std::int64_t size;

    [[gnu::always_inline]] const Number& operator[](std::int64_t index) const { return data[index]; }
};

// Numbers of a float type, or an adapter's in `ScaledBytes`.
enum class Stored : std::uint8_t { float32 = 0, bfloat16 = 1, float16 = 2, scaled_bytes = 3 };

struct Numbers {
    const void* data = nullptr;
    Stored type = Stored::float32;

    Numbers from(std::int64_t index) const {
        const std::int64_t bytes = type == Stored::float32 ? 4 : 2;
        return {data == nullptr ? nullptr : static_cast<const std::byte*>(data) + index * bytes, type};
    }
};

// A matrix in the layout that src/gemlora/kernels/matrix.py describes.
struct PackedMatrix {
    std::int64_t rows, columns;
    int bits;              // of whole numbers with scales, 8 or 4; 0 for floats of type `values.type`
    Numbers values;
    Numbers scales, minimums;
    std::int64_t group;    // inputs per scale
    bool quantize_activations;

    bool integers() const { return bits != 0; }
    bool spread() const { return group == spread_inputs; }
    // What is subtracted from a stored whole number.
    int zero_point() const { return bits == 8 || spread() ? 128 : minimums.data == nullptr ? 8 : 0; }
    std::int64_t panels() const { return ceil_divide(rows, panel_size); }
    // Inputs with padding.
    std::int64_t inputs() const {
        const std::int64_t multiple = !integers() ? 1 : group > block_inputs ? group : block_inputs;
        return ceil_divide(columns, multiple) * multiple;
    }
    std::int64_t groups() const { return inputs() / group; }
    std::int64_t panel_bytes() const { return inputs() * panel_size * bits / 8; }
    // The matrix of its panels begin … end − 1.
    PackedMatrix between(std::int64_t begin, std::int64_t end) const {
        PackedMatrix result = *this;
        const std::int64_t first = begin * panel_size, left = rows - first, most = (end - begin) * panel_size;
        result.rows = left < most ? left : most;
        if (integers()) {
            result.values.data = static_cast<const std::byte*>(values.data) + begin * panel_bytes();
            result.scales = scales.from(first * groups());
            result.minimums = minimums.from(first * groups());
        } else {
            result.values = values.from(first * inputs());
        }
        return result;
    }
};

// One layer's paged cache [blocks, 2, heads, …] of floats or whole numbers; a head of a block holds
// floats: keys [size, block size], values [block size, size];
// whole numbers, biased by 128, `padded_size` of them a position, behind which each position's scale (float) follows:
// keys [padded size / 4, block size, 4], values [block size / 4, padded size, 4], scales [block size].
// Other layers' may lie between its blocks.
constexpr std::int64_t most_integer_head = 1024; // numbers of a head

struct Cache {
    void* data;
    bool integers;
    std::int64_t blocks, heads, block_size, size;
    std::int64_t stride; // numbers from one block to the next

    std::int64_t padded_size() const { return ceil_divide(size, 32) * 32; }
    // Floats or bytes of a position.
    std::int64_t position_numbers() const { return integers ? padded_size() + std::int64_t{sizeof(float)} : size; }
    std::int64_t head_numbers() const { return block_size * position_numbers(); }
    std::int64_t keys(std::int64_t block, std::int64_t head) const { return block * stride + head * head_numbers(); }
    std::int64_t values(std::int64_t block, std::int64_t head) const { return keys(block, head) + heads * head_numbers(); }
};

// Which cached positions belong to which row.
struct Paging {
    Rows<const std::int32_t> tables;         // [sequences, blocks]
    Span<std::int32_t> sequence_of_row;      // [T]
    Span<std::int32_t> positions;            // [T]
};

// One adapter's change of one matrix: a in panels of 16 inputs [ceil(inputs / 16), rank, 16], or [inputs, rank] for an
// embedding, and b in panels of 16 outputs [ceil(outputs / 16), rank, 16]; zeros past the last input or output. With
// `ScaledBytes` panels have 64 inputs or outputs, [ceil(inputs / 64), rank] and [ceil(outputs / 64), rank].
struct LowRank {
    Numbers a, b;
    std::int64_t rank, inputs, outputs;
    float scale;
    const float* output_scale; // [outputs] or null
};

// The weights W + left · right of a matrix [N, K]: left [N, rank], right [rank, K].
struct Changed {
    const PackedMatrix* matrix;
    Rows<const float> left, right;
};

// Rows first … first + count − 1 use `change`; its outputs begin with `column`.
struct LowRankRows {
    const LowRank* change;
    std::int64_t first, count, column;
};

} // namespace gemlora
