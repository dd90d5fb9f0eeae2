// Runs every kernel on the same numbers with every instruction set that the processor has, and prints a digest of the
// results: "instruction set, kernel, digest" a line. All builds on all processors must print the same digests.
#include "half.h"
#include "kernels.h"

#include <bit>
#include <cinttypes>
#include <cmath>
#include <cstdio>
#include <map>
#include <string>

namespace {

using namespace gemlora;

// Pseudo-random numbers (splitmix64, Steele, Lea and Flood 2014) without any function of a library.
class Random {
public:
    explicit Random(std::uint64_t seed) : state_(seed) {}

    std::uint64_t bits() {
        state_ += 0x9E3779B97F4A7C15;
        std::uint64_t mixed = (state_ ^ (state_ >> 30)) * 0xBF58476D1CE4E5B9;
        mixed = (mixed ^ (mixed >> 27)) * 0x94D049BB133111EB;
        return mixed ^ (mixed >> 31);
    }
    std::int64_t below(std::int64_t end) { return static_cast<std::int64_t>(bits() % static_cast<std::uint64_t>(end)); }
    // In −1 … 1.
    float number() { return static_cast<float>(static_cast<std::int32_t>(bits() >> 32)) * 0x1p-31f; }
    // Of any sign and size, not finite or no number among them.
    float any() { return std::bit_cast<float>(static_cast<std::uint32_t>(bits() >> 32)); }

    std::vector<float> numbers(std::int64_t count, float size = 1) {
        std::vector<float> result(static_cast<std::size_t>(count));
        for (float& number : result) {
            number = size * this->number();
        }
        return result;
    }

private:
    std::uint64_t state_;
};

// FNV-1a. Processors differ in the sign and the payload of a NaN that they make, so all NaNs are one.
class Digest {
public:
    void add(std::uint32_t word) { state_ = (state_ ^ word) * 0x100000001B3; }
    void add(float number) { add(number != number ? 0x7FC00000u : std::bit_cast<std::uint32_t>(number)); }
    template <class Number>
    void add(const std::vector<Number>& numbers) {
        for (const Number number : numbers) {
            if constexpr (std::is_integral_v<Number>) {
                add(static_cast<std::uint32_t>(number));
            } else {
                add(widen(number));
            }
        }
    }
    std::uint64_t value() const { return state_; }

private:
    std::uint64_t state_ = 0xCBF29CE484222325;
};

// Cut off to a half; what is below its smallest normal number becomes zero.
std::uint16_t cut_to_half(float number) {
    const std::uint32_t bits = std::bit_cast<std::uint32_t>(number), magnitude = bits & 0x7FFFFFFF;
    const std::uint32_t half = magnitude < 0x38800000 ? 0 : (magnitude - 0x38000000) >> 13;
    return static_cast<std::uint16_t>((bits >> 16 & 0x8000) | half);
}

// Memory for numbers of a stored type.
class StoredNumbers {
public:
    StoredNumbers(Stored type, const std::vector<float>& numbers) : type_(type), floats_(numbers) {
        for (const float number : numbers) {
            const std::uint32_t bits = std::bit_cast<std::uint32_t>(number);
            shorts_.push_back(type == Stored::float16 ? cut_to_half(number) : static_cast<std::uint16_t>(bits >> 16));
        }
    }
    // The 16-bit numbers with all patterns of bits, in order.
    explicit StoredNumbers(Stored type) : type_(type) {
        for (std::uint32_t bits = 0; bits < 1u << 16; ++bits) {
            shorts_.push_back(static_cast<std::uint16_t>(bits));
        }
    }
    Numbers view() const {
        return {type_ == Stored::float32 ? static_cast<const void*>(floats_.data()) : shorts_.data(), type_};
    }

private:
    Stored type_;
    std::vector<float> floats_;
    std::vector<std::uint16_t> shorts_;
};

Rows<float> rows_of(std::vector<float>& numbers, std::int64_t rows) {
    const std::int64_t columns = static_cast<std::int64_t>(numbers.size()) / rows;
    return {numbers.data(), rows, columns, columns};
}
Heads<float> heads_of(std::vector<float>& numbers, std::int64_t rows, std::int64_t heads) {
    const std::int64_t size = static_cast<std::int64_t>(numbers.size()) / (rows * heads);
    return {numbers.data(), rows, heads, size, heads * size, size};
}
template <class Number>
Rows<const Number> constant(const Rows<Number>& rows) { return {rows.data, rows.rows, rows.columns, rows.stride}; }
template <class Number>
Heads<const Number> constant(const Heads<Number>& heads) {
    return {heads.data, heads.rows, heads.heads, heads.size, heads.row_stride, heads.head_stride};
}
template <class Number>
Span<Number> span_of(const std::vector<Number>& numbers) {
    return {numbers.data(), static_cast<std::int64_t>(numbers.size())};
}

constexpr Stored stored_types[] = {Stored::float32, Stored::bfloat16, Stored::float16};
constexpr float epsilon = 1e-6f;

// How whole numbers are stored.
struct IntegerKind {
    int bits;
    std::int64_t group;
    Stored scales;
    bool minimums;
};
constexpr IntegerKind integer_kinds[] = {
    {8, 32, Stored::float16, false},  {8, 32, Stored::float32, true},   {8, 16, Stored::float32, false},
    {8, 16, Stored::float16, true},   {8, 128, Stored::float16, false}, {8, 128, Stored::float32, false},
    {4, 32, Stored::float16, false},  {4, 32, Stored::float32, false},  {4, 32, Stored::float32, true},
    {4, 32, Stored::float16, true},   {4, 128, Stored::float16, false}, {4, 128, Stored::float32, false},
};

// Matrices of all formats with 75 outputs and 100 inputs: neither fills its panels or groups.
class Matrices {
public:
    static constexpr std::int64_t rows = 75, columns = 100, inputs = 128, outputs = 80;

    explicit Matrices(Random& random) {
        for (const Stored type : stored_types) {
            const Numbers values = keep(StoredNumbers(type, random.numbers(outputs * columns)));
            all_.push_back({rows, columns, 0, values, {}, {}, 0, false});
        }
        for (const IntegerKind& kind : integer_kinds) {
            std::vector<std::uint8_t>& bytes = bytes_.emplace_back(inputs * outputs * kind.bits / 8);
            for (std::uint8_t& byte : bytes) {
                byte = static_cast<std::uint8_t>(random.bits());
            }
            const std::int64_t scales = outputs * inputs / kind.group;
            PackedMatrix matrix{rows, columns, kind.bits, {bytes.data()}, {}, {}, kind.group, false};
            matrix.scales = keep(StoredNumbers(kind.scales, random.numbers(scales)));
            if (kind.minimums) {
                matrix.minimums = keep(StoredNumbers(kind.scales, random.numbers(scales)));
            }
            if (!matrix.spread()) {
                all_.push_back(matrix);
            }
            if (kind.bits == 4 || matrix.spread()) {
                matrix.quantize_activations = true;
                all_.push_back(matrix);
            }
        }
    }

    const std::vector<PackedMatrix>& all() const { return all_; }
    std::vector<const PackedMatrix*> pointers() const {
        std::vector<const PackedMatrix*> result;
        for (const PackedMatrix& matrix : all_) {
            result.push_back(&matrix);
        }
        return result;
    }

private:
    Numbers keep(StoredNumbers numbers) {
        kept_.push_back(std::move(numbers));
        return kept_.back().view();
    }

    std::vector<PackedMatrix> all_;
    std::vector<StoredNumbers> kept_;
    std::vector<std::vector<std::uint8_t>> bytes_;
};

void linear(Kernels& kernels, Random& random, Digest& digest) {
    const Matrices matrices(random);
    const std::int64_t outputs = Matrices::rows * static_cast<std::int64_t>(matrices.all().size());
    for (const std::int64_t rows : {1, 2, 3, 4, 5, 6, 7, 8, 13}) {
        std::vector<float> x = random.numbers(rows * Matrices::columns, 3), out(static_cast<std::size_t>(rows * outputs));
        kernels.linear(constant(rows_of(x, rows)), matrices.pointers(), rows_of(out, rows));
        digest.add(out);
    }
    // Rows with zeros, tiny, huge, infinite and no numbers.
    constexpr float strange[] = {0, 0x1p-110f, 0x1p-149f, 0x1p120f, __builtin_inff(), __builtin_nanf("")};
    std::vector<float> x, out(static_cast<std::size_t>(std::ssize(strange) * outputs));
    for (const float size : strange) {
        for (std::int64_t i = 0; i < Matrices::columns; ++i) {
            x.push_back(i % 5 == 0 ? size * random.number() : random.number() * 0x1p-100f);
        }
    }
    kernels.linear(constant(rows_of(x, std::ssize(strange))), matrices.pointers(), rows_of(out, std::ssize(strange)));
    digest.add(out);
}

void widening(Kernels& kernels, Random&, Digest& digest) {
    for (const Stored type : {Stored::bfloat16, Stored::float16}) {
        const StoredNumbers values(type);
        const PackedMatrix matrix{1 << 16, 1, 0, values.view(), {}, {}, 0, false};
        std::vector<float> one = {1}, out(1 << 16);
        kernels.linear(constant(rows_of(one, 1)), {&matrix}, rows_of(out, 1));
        digest.add(out);
    }
}

void embed(Kernels& kernels, Random& random, Digest& digest) {
    const Matrices matrices(random);
    const std::vector<std::int32_t> tokens = {0, 74, 3, 41, 16};
    for (const PackedMatrix& matrix : matrices.all()) {
        std::vector<float> out(tokens.size() * Matrices::columns);
        kernels.embed(matrix, span_of(tokens), 0x1.94p4f, rows_of(out, std::ssize(tokens)));
        digest.add(out);
    }
}

void rms_norm(Kernels& kernels, Random& random, Digest& digest) {
    for (const std::int64_t size : {5, 16, 100, 256, 300}) {
        std::vector<float> x = random.numbers(6 * size, 4), out(x.size());
        const std::vector<float> weight = random.numbers(size);
        kernels.rms_norm(constant(heads_of(x, 3, 2)), weight.data(), epsilon, heads_of(out, 3, 2));
        digest.add(out);
    }
}

void add_branch(Kernels& kernels, Random& random, Digest& digest) {
    constexpr std::int64_t rows = 3, size = 77;
    const std::vector<float> first_norm = random.numbers(size), second_norm = random.numbers(size);
    for (const float* const norm : {static_cast<const float*>(nullptr), first_norm.data()}) {
        std::vector<float> stream = random.numbers(rows * size), branch = random.numbers(rows * size), normed(rows * size);
        kernels.add_branch(rows_of(stream, rows), {rows_of(branch, rows), norm}, second_norm.data(), epsilon,
                           rows_of(normed, rows));
        digest.add(stream);
        digest.add(normed);
    }
}

void rotate(Kernels& kernels, Random& random, Digest& digest) {
    constexpr std::int64_t rows = 3, size = 84;
    std::vector<float> queries = random.numbers(rows * 4 * size), keys = random.numbers(rows * 2 * size);
    std::vector<float> cosines = random.numbers(5 * size / 2), sines = random.numbers(5 * size / 2);
    const std::vector<float> norm = random.numbers(size);
    const std::vector<std::int32_t> positions = {0, 4, 2};
    kernels.rotate({heads_of(queries, rows, 4), norm.data()}, {heads_of(keys, rows, 2), nullptr}, epsilon,
                   constant(rows_of(cosines, 5)), constant(rows_of(sines, 5)), span_of(positions));
    digest.add(queries);
    digest.add(keys);
}

// Two sequences of 70 and 45 positions whose blocks are mixed in the cache.
struct Pages {
    static constexpr std::int64_t blocks = 7, block_size = 32;

    std::vector<std::int32_t> tables = {4, 0, 6, 5, 2, 1}, sequences, positions;

    Pages() {
        for (std::int32_t position = 0; position < 70; ++position) {
            add(0, position);
        }
        for (std::int32_t position = 0; position < 45; ++position) {
            add(1, position);
        }
    }
    // The last positions of both sequences.
    Pages(std::int32_t first, std::int32_t second) {
        for (std::int32_t position = 70 - first; position < 70; ++position) {
            add(0, position);
        }
        for (std::int32_t position = 45 - second; position < 45; ++position) {
            add(1, position);
        }
    }
    std::int64_t rows() const { return std::ssize(positions); }
    Paging paging() const { return {{tables.data(), 2, 3, 3}, span_of(sequences), span_of(positions)}; }

private:
    void add(std::int32_t sequence, std::int32_t position) {
        sequences.push_back(sequence);
        positions.push_back(position);
    }
};

// A cache for two heads of the given size.
template <class Cached>
struct CacheMemory {
    std::vector<Cached> numbers;
    Cache cache;

    explicit CacheMemory(std::int64_t size)
        : cache{nullptr, std::is_same_v<Cached, std::uint8_t>, Pages::blocks, 2, Pages::block_size, size, 0} {
        cache.stride = 2 * 2 * cache.head_numbers();
        numbers.resize(static_cast<std::size_t>(Pages::blocks * 2 * 2 * cache.head_numbers()));
        cache.data = numbers.data();
    }

    void fill(Kernels& kernels, std::vector<float>& keys, std::vector<float>& values) {
        const Pages pages;
        kernels.store_kv(constant(heads_of(keys, pages.rows(), 2)), constant(heads_of(values, pages.rows(), 2)), cache,
                         pages.paging());
    }
};

template <class Cached>
void store_kv_as(Kernels& kernels, Random& random, Digest& digest) {
    constexpr std::int64_t size = 40;
    std::vector<float> numbers;
    for (std::int64_t i = 0; i < Pages().rows() * 2 * size; ++i) {
        // Any number as float; the scales of bytes would hold NaNs of this processor's own kind.
        const bool any = std::is_same_v<Cached, float> && i % 2 == 0;
        numbers.push_back(any ? random.any() : random.number() * (i % 3 == 0 ? 0x1p-13f : 70000.0f));
    }
    CacheMemory<Cached> memory(size);
    memory.fill(kernels, numbers, numbers);
    digest.add(memory.numbers);
}

void store_kv(Kernels& kernels, Random& random, Digest& digest) {
    store_kv_as<float>(kernels, random, digest);
    store_kv_as<std::uint8_t>(kernels, random, digest);
}

template <class Cached>
void attend_as(Kernels& kernels, Random& random, Digest& digest, std::int64_t size, const Pages& pages) {
    CacheMemory<Cached> memory(size);
    const std::int64_t cached = Pages().rows() * 2 * size;
    std::vector<float> keys = random.numbers(cached, 2), values = random.numbers(cached);
    memory.fill(kernels, keys, values);
    for (const std::int64_t heads : {2, 6}) {
        std::vector<float> queries = random.numbers(pages.rows() * heads * size, 4), out(queries.size());
        for (const std::int64_t window : {20, 1000}) {
            for (const std::optional<float> softcap : {std::optional<float>(), std::optional<float>(5.0f)}) {
                kernels.attend({constant(heads_of(queries, pages.rows(), heads)), memory.cache, pages.paging(), 0.25f,
                                window, softcap, heads_of(out, pages.rows(), heads)});
                digest.add(out);
            }
        }
    }
}

void attend(Kernels& kernels, Random& random, Digest& digest) {
    for (const std::int64_t size : {40, 64}) {
        for (const Pages& pages : {Pages(1, 1), Pages(70, 1), Pages(5, 45)}) {
            attend_as<float>(kernels, random, digest, size, pages);
            attend_as<std::uint8_t>(kernels, random, digest, size, pages);
        }
    }
}

// Numbers of ordinary size, then any.
std::vector<float> wide_numbers(Random& random, std::int64_t count) {
    std::vector<float> numbers = random.numbers(count, 12);
    for (std::int64_t i = count / 2; i < count; ++i) {
        numbers[static_cast<std::size_t>(i)] = random.any();
    }
    return numbers;
}

void gelu_gate(Kernels& kernels, Random& random, Digest& digest) {
    constexpr std::int64_t rows = 40, size = 123;
    std::vector<float> gate_up = wide_numbers(random, rows * 2 * size), out(rows * size);
    kernels.gelu_gate(constant(rows_of(gate_up, rows)), rows_of(out, rows));
    digest.add(out);
}

void softcap(Kernels& kernels, Random& random, Digest& digest) {
    std::vector<float> x = wide_numbers(random, 40 * 123);
    kernels.softcap(rows_of(x, 40), 7.0f);
    digest.add(x);
}

// `embedded` is A of an embedding, [inputs, rank].
void adapt_by(Kernels& kernels, Random& random, Digest& digest, const Numbers& a, const Numbers& b,
              const Numbers& embedded, std::int64_t rank) {
    constexpr std::int64_t rows = 9, inputs = 75, outputs = 150;
    const std::vector<float> scales = random.numbers(outputs);
    const LowRank lora{a, b, rank, inputs, outputs, 0.75f, nullptr};
    const LowRank dora{a, b, rank, inputs, outputs, 1.5f, scales.data()};
    const LowRank embedding{embedded, b, rank, inputs, outputs, 0.75f, nullptr};
    std::vector<float> x = random.numbers(rows * inputs), out = random.numbers(rows * (outputs + 4));
    kernels.adapt(constant(rows_of(x, rows)), rows_of(out, rows), {{&lora, 0, 1, 0}, {&dora, 2, 7, 3}});
    digest.add(out);
    const std::vector<std::int32_t> tokens = {5, 0, 74, 3, 3, 9, 12, 60, 1};
    kernels.adapt_embedding(span_of(tokens), 2.5f, rows_of(out, rows), {{&embedding, 1, 4, 2}});
    digest.add(out);
}

std::vector<ScaledBytes> scaled_bytes(Random& random, std::int64_t count) {
    std::vector<ScaledBytes> result(static_cast<std::size_t>(count));
    for (ScaledBytes& each : result) {
        each.scale.bits = static_cast<std::uint16_t>(std::bit_cast<std::uint32_t>(random.numbers(1)[0]) >> 16);
        for (std::int8_t& number : each.numbers) {
            number = static_cast<std::int8_t>(std::fmod(random.numbers(1)[0] * 1000.0f, 128.0f));
        }
    }
    return result;
}

void adapt(Kernels& kernels, Random& random, Digest& digest) {
    constexpr std::int64_t panels_of_16 = 5, output_panels_of_16 = 10, panels_of_64 = 2, output_panels_of_64 = 3;
    for (const std::int64_t rank : {1, 6, 15}) {
        for (const Stored type : stored_types) {
            const StoredNumbers a(type, random.numbers(panels_of_16 * rank * panel_size));
            const StoredNumbers b(type, random.numbers(output_panels_of_16 * rank * panel_size));
            adapt_by(kernels, random, digest, a.view(), b.view(), a.view(), rank);
        }
        const std::vector<ScaledBytes> a = scaled_bytes(random, panels_of_64 * rank);
        const std::vector<ScaledBytes> b = scaled_bytes(random, output_panels_of_64 * rank);
        const StoredNumbers embedded(Stored::bfloat16, random.numbers(75 * rank));
        adapt_by(kernels, random, digest, {a.data(), Stored::scaled_bytes}, {b.data(), Stored::scaled_bytes},
                 embedded.view(), rank);
    }
}

void norms(Kernels& kernels, Random& random, Digest& digest) {
    const Matrices matrices(random);
    constexpr std::int64_t rank = 5;
    std::vector<float> left = random.numbers(Matrices::rows * rank), right = random.numbers(rank * Matrices::columns);
    for (const PackedMatrix& matrix : matrices.all()) {
        const Changed changed{&matrix, constant(rows_of(left, Matrices::rows)), constant(rows_of(right, rank))};
        std::vector<float> by_row(Matrices::rows), by_column(Matrices::columns);
        kernels.row_norms(changed, by_row.data());
        kernels.column_norms(changed, by_column.data());
        digest.add(by_row);
        digest.add(by_column);
    }
}

void sample(Kernels& kernels, Random& random, Digest& digest) {
    constexpr std::int64_t rows = 24, vocabulary = 5003;
    std::vector<float> logits = random.numbers(rows * vocabulary, 15);
    const auto row = [&](std::int64_t index) { return logits.data() + index * vocabulary; };
    row(20)[4999] = __builtin_nanf("");
    row(21)[17] = __builtin_inff();
    row(22)[5002] = -__builtin_inff();
    std::fill(row(23), row(23) + vocabulary, -__builtin_inff());
    std::vector<float> temperature, top_p, repetition, frequency, presence;
    std::vector<std::int32_t> top_k, tokens, counts, drawn(rows);
    std::vector<std::uint64_t> seed, index;
    std::vector<std::int64_t> ends;
    for (std::int64_t i = 0; i < rows; ++i) {
        temperature.push_back(static_cast<float>(i % 4) * 0.75f);
        top_k.push_back(i % 3 == 0 ? 40 : 0);
        top_p.push_back(i % 2 == 0 ? 0.9f : 1.0f);
        repetition.push_back(i % 5 == 0 ? 1.25f : 1.0f);
        frequency.push_back(i % 5 == 1 ? 0.5f : 0.0f);
        presence.push_back(i % 5 == 2 ? 0.25f : 0.0f);
        seed.push_back(random.bits());
        index.push_back(static_cast<std::uint64_t>(i));
        for (int token = 0; token < 10; ++token) {
            tokens.push_back(static_cast<std::int32_t>(random.below(vocabulary)));
            counts.push_back(static_cast<std::int32_t>(random.below(4)));
        }
        ends.push_back(std::ssize(tokens));
    }
    kernels.sample(rows_of(logits, rows),
                   {span_of(temperature), span_of(top_k), span_of(top_p), span_of(seed), span_of(index),
                    span_of(repetition), span_of(frequency), span_of(presence), span_of(tokens), span_of(counts),
                    span_of(ends)},
                   drawn.data());
    digest.add(drawn);
    digest.add(logits);
}

using Run = void (*)(Kernels& kernels, Random& random, Digest& digest);
const std::map<std::string, Run> runs = {
    {"add_branch", add_branch}, {"adapt", adapt},       {"attend", attend},     {"embed", embed},
    {"gelu_gate", gelu_gate},   {"linear", linear},     {"norms", norms},       {"rms_norm", rms_norm},
    {"rotate", rotate},         {"sample", sample},     {"softcap", softcap},   {"store_kv", store_kv},
    {"widening", widening},
};

} // namespace

int main() {
    const gemlora::KernelTables tables = gemlora::available_tables();
    for (int i = 0; i < tables.count; ++i) {
        const gemlora::KernelTable& table = *tables.tables[i];
        gemlora::Kernels kernels(2, table);
        for (const auto& [kernel, run] : runs) {
            Random random(1);
            Digest digest;
            run(kernels, random, digest);
            std::printf("%s %s %016" PRIx64 "\n", std::string(table.name).c_str(), kernel.c_str(), digest.value());
        }
    }
}
