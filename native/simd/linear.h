// out = x · Wᵀ. A tile is some rows × some panels whose sums stay in registers; every lane sums its own output in the
// order of the inputs, so the tiling does not show in the result.
#pragma once

#include "../inputs.h"
#include "functions.h"

#include <bit>
#include <type_traits>

namespace gemlora::simd {

// Lays out the rows of one block, with zeros past the columns of x.
template <class Isa>
void gather_inputs(const Rows<const float>& x, const FloatInputs& to, std::int64_t block) {
    const std::int64_t first = to.blocks.start(block), rows = to.blocks.size(block);
    float* const numbers = to.numbers + first * to.inputs;
    for (std::int64_t row = 0; row < rows; ++row) {
        const float* const from = x.row(first + row);
        for (std::int64_t k = 0; k < to.inputs; ++k) {
            numbers[k * rows + row] = k < x.columns ? from[k] : 0.0f;
        }
    }
}

// The inputs of one block, as the tiles read them.
template <class Isa>
struct IntegerBlock {
    std::int32_t* words;
    float* scales;
    std::int32_t *bias_32, *bias_16;
    float *scaled_sums_32, *scaled_sums_16;
    std::int64_t rows;

    IntegerBlock(const IntegerInputs& inputs, std::int64_t block) : rows(inputs.blocks.size(block)) {
        const std::int64_t first = inputs.blocks.start(block);
        const std::int64_t groups = inputs.inputs / block_inputs;
        words = inputs.words + first * (inputs.inputs / 4) * Isa::DotInput::words;
        scales = inputs.scales + first * groups;
        bias_32 = inputs.bias_32 + first * groups;
        bias_16 = inputs.bias_16 + first * groups * 2;
        scaled_sums_32 = inputs.scaled_sums_32 + first * groups;
        scaled_sums_16 = inputs.scaled_sums_16 + first * groups * 2;
    }
};

// Quantises 32 inputs of one row of a block.
template <class Isa>
void quantise_group(typename Isa::Vector low, typename Isa::Vector high, const IntegerBlock<Isa>& to,
                    std::int64_t group, std::int64_t row) {
    using Vector = typename Isa::Vector;
    using Integers = typename Isa::Integers;
    // Compared as integers, a NaN is the largest and reaches the scale, and with it the outputs.
    const float most = std::bit_cast<float>(largest(max(bits(absolute(low)), bits(absolute(high)))));
    const bool usable = most >= 0x1p-100f && most < __builtin_inff();
    const Vector inverse = Vector::broadcast(usable ? 127.0f / most : 0.0f);
    const Integers first = usable ? round_to_integers(low * inverse) : Integers::broadcast(0);
    const Integers second = usable ? round_to_integers(high * inverse) : Integers::broadcast(0);

    std::int32_t words[8 * Isa::DotInput::words];
    pack_dot_inputs(first, second, words);
    for (std::int64_t i = 0; i < 8; ++i) {
        for (std::int64_t word = 0; word < Isa::DotInput::words; ++word) {
            to.words[((group * 8 + i) * to.rows + row) * Isa::DotInput::words + word] =
                words[i * Isa::DotInput::words + word];
        }
    }
    const float scale = most / 127.0f;
    const std::int32_t sums[2] = {sum(first), sum(second)};
    to.scales[group * to.rows + row] = scale;
    to.bias_32[group * to.rows + row] = -128 * (sums[0] + sums[1]);
    to.scaled_sums_32[group * to.rows + row] = scale * static_cast<float>(sums[0] + sums[1]);
    for (std::int64_t half = 0; half < 2; ++half) {
        to.bias_16[(group * 2 + half) * to.rows + row] = -128 * sums[half];
        to.scaled_sums_16[(group * 2 + half) * to.rows + row] = scale * static_cast<float>(sums[half]);
    }
}

// Quantises the rows of one block, with zeros past the columns of x.
template <class Isa>
void quantise_inputs(const Rows<const float>& x, const IntegerInputs& inputs, std::int64_t block) {
    using Vector = typename Isa::Vector;
    const IntegerBlock<Isa> to(inputs, block);
    for (std::int64_t row = 0; row < to.rows; ++row) {
        const float* const from = x.row(inputs.blocks.start(block) + row);
        for (std::int64_t group = 0; group * block_inputs < inputs.inputs; ++group) {
            Vector halves[2];
            for (std::int64_t half = 0; half < 2; ++half) {
                const std::int64_t start = group * block_inputs + half * 16;
                const std::int64_t left = x.columns - start;
                halves[half] = left >= 16 ? Vector::load(from + start)
                               : left > 0 ? Vector::load(from + start, left)
                                          : Vector::zero();
            }
            quantise_group<Isa>(halves[0], halves[1], to, group, row);
        }
    }
}

// Where the results of a tile go: consecutive panels of consecutive rows, cut at the last column.
struct Tile {
    float* data;
    std::int64_t stride, columns;
};

template <class Vector, int panels, int rows>
inline void store_tile(const Vector (&sums)[panels][rows], const Tile& out) {
    for (int p = 0; p < panels; ++p) {
        const std::int64_t left = out.columns - p * panel_size;
        for (int r = 0; r < rows; ++r) {
            store(sums[p][r], out.data + r * out.stride + p * panel_size, left < 16 ? left : 16);
        }
    }
}

// `ahead` is the distance to the weights to fetch into the second-level cache meanwhile.
template <class Isa, class Weight, int panels, int rows>
void float_tile(const Weight* weights, std::int64_t inputs, std::int64_t ahead, const float* x, const Tile& out) {
    using Vector = typename Isa::Vector;
    Vector sums[panels][rows];
#pragma GCC unroll 16
    for (int p = 0; p < panels; ++p) {
#pragma GCC unroll 16
        for (int r = 0; r < rows; ++r) {
            sums[p][r] = Vector::zero();
        }
    }
    for (std::int64_t k = 0; k < inputs; ++k) {
        Vector w[panels];
#pragma GCC unroll 16
        for (int p = 0; p < panels; ++p) {
            const Weight* const from = weights + (p * inputs + k) * panel_size;
            w[p] = Vector::load(from);
            __builtin_prefetch(from + ahead, 0, 2);
        }
#pragma GCC unroll 16
        for (int r = 0; r < rows; ++r) {
            const Vector input = Vector::broadcast(x[k * rows + r]);
#pragma GCC unroll 16
            for (int p = 0; p < panels; ++p) {
                sums[p][r] = fma(w[p], input, sums[p][r]);
            }
        }
    }
    store_tile<Vector, panels, rows>(sums, out);
}

// The weights of consecutive panels; scales and (negated) minimums are widened, [panels, groups, 16].
struct IntegerPanels {
    const std::uint8_t* values;
    std::int64_t inputs, group;
    const float* scales;
    const float* negative_minimums; // or null
    std::int64_t ahead;             // bytes from a weight to the one to fetch into the second-level cache meanwhile
};

template <class Isa, int panels, int rows>
void integer_tile(const IntegerPanels& weights, const IntegerBlock<Isa>& x, const Tile& out) {
    using Vector = typename Isa::Vector;
    using Integers = typename Isa::Integers;
    using DotInput = typename Isa::DotInput;
    using DotWeights = typename Isa::DotWeights;
    const std::int64_t groups = weights.inputs / weights.group, steps = weights.group / 4;
    const std::int64_t panel_bytes = weights.inputs * panel_size, panel_scales = groups * panel_size;
    const bool by_32 = weights.group == block_inputs;
    const std::int32_t* const bias = by_32 ? x.bias_32 : x.bias_16;
    const float* const scaled_sums = by_32 ? x.scaled_sums_32 : x.scaled_sums_16;
    const std::uint8_t* values = weights.values;
    const std::int32_t* words = x.words;

    Vector sums[panels][rows];
#pragma GCC unroll 16
    for (int p = 0; p < panels; ++p) {
#pragma GCC unroll 16
        for (int r = 0; r < rows; ++r) {
            sums[p][r] = Vector::zero();
        }
    }
    for (std::int64_t g = 0; g < groups; ++g) {
        Integers dots[panels][rows];
#pragma GCC unroll 16
        for (int r = 0; r < rows; ++r) {
            const Integers start = Integers::broadcast(bias[g * rows + r]);
#pragma GCC unroll 16
            for (int p = 0; p < panels; ++p) {
                dots[p][r] = start;
            }
        }
        for (std::int64_t step = 0; step < steps; ++step) {
            DotWeights w[panels];
#pragma GCC unroll 16
            for (int p = 0; p < panels; ++p) {
                w[p] = DotWeights::load(values + p * panel_bytes);
                __builtin_prefetch(values + p * panel_bytes + weights.ahead, 0, 2);
            }
#pragma GCC unroll 16
            for (int r = 0; r < rows; ++r) {
                const DotInput input = DotInput::load(words + r * DotInput::words);
#pragma GCC unroll 16
                for (int p = 0; p < panels; ++p) {
                    dots[p][r] = dot(dots[p][r], w[p], input);
                }
            }
            values += 4 * panel_size;
            words += rows * DotInput::words;
        }
        const float* const input_scales = x.scales + (by_32 ? g : g / 2) * rows;
#pragma GCC unroll 16
        for (int p = 0; p < panels; ++p) {
            const Vector scale = Vector::load(weights.scales + p * panel_scales + g * panel_size);
#pragma GCC unroll 16
            for (int r = 0; r < rows; ++r) {
                sums[p][r] = fma(to_floats(dots[p][r]), scale * Vector::broadcast(input_scales[r]), sums[p][r]);
            }
        }
        if (weights.negative_minimums != nullptr) {
#pragma GCC unroll 16
            for (int p = 0; p < panels; ++p) {
                const Vector minimum = Vector::load(weights.negative_minimums + p * panel_scales + g * panel_size);
#pragma GCC unroll 16
                for (int r = 0; r < rows; ++r) {
                    sums[p][r] = fma(minimum, Vector::broadcast(scaled_sums[g * rows + r]), sums[p][r]);
                }
            }
        }
    }
    store_tile<Vector, panels, rows>(sums, out);
}

// tile(Constant<panels>, Constant<rows>, panel, block) for all panels and blocks; the weights of the panels are
// prepared once by ready(panel, panels).
template <int most_rows, class Panels, class Ready, class Compute>
inline void for_each_tile(const RowBlocks& blocks, std::int64_t begin, std::int64_t end, Panels panels_for,
                          Ready&& ready, Compute&& compute) {
    with_constant<most_rows>(blocks.size(0), [&](auto longest) {
        constexpr int rows = decltype(longest)::value;
        constexpr int most_panels = panels_for(rows);
        const auto all_blocks = [&](auto panels, std::int64_t panel) {
            ready(panel, decltype(panels)::value);
            for (std::int64_t block = 0; block < blocks.count; ++block) {
                if (blocks.size(block) == rows) {
                    compute(panels, Constant<rows>{}, panel, block);
                } else if constexpr (rows > 1) {
                    compute(panels, Constant<rows - 1>{}, panel, block);
                }
            }
        };
        std::int64_t panel = begin;
        for (; panel + most_panels <= end; panel += most_panels) {
            all_blocks(Constant<most_panels>{}, panel);
        }
        for (; panel < end; ++panel) {
            all_blocks(Constant<1>{}, panel);
        }
    });
}

// Widens `count` numbers, a multiple of 16, and multiplies them by ±1.
template <class Isa>
void widen(const Numbers& numbers, std::int64_t start, std::int64_t count, float sign, float* to) {
    using Vector = typename Isa::Vector;
    with_type(numbers.type, [&](auto type) {
        const auto* const from = static_cast<decltype(type)>(numbers.data) + start;
        for (std::int64_t i = 0; i < count; i += 16) {
            (Vector::load(from + i) * Vector::broadcast(sign)).store(to + i);
        }
    });
}

// The float32 weights of one panel, [inputs, 16].
template <class Isa>
void dequantise_panel(const PackedMatrix& matrix, std::int64_t panel, float* to) {
    using Vector = typename Isa::Vector;
    const std::int64_t inputs = matrix.inputs(), groups = matrix.groups();
    const auto* values = static_cast<const std::uint8_t*>(matrix.values.data) + panel * inputs * panel_size;
    for (std::int64_t g = 0; g < groups; ++g) {
        float scales[16] = {}, minimums[16] = {};
        widen<Isa>(matrix.scales, (panel * groups + g) * panel_size, 16, 1.0f, scales);
        if (matrix.minimums.data != nullptr) {
            widen<Isa>(matrix.minimums, (panel * groups + g) * panel_size, 16, 1.0f, minimums);
        }
        const Vector scale = Vector::load(scales), minimum = Vector::load(minimums);
        for (std::int64_t step = 0; step < matrix.group / 4; ++step) {
            Vector weights[4];
            Isa::DotWeights::load(values).unpack(weights);
            for (const Vector& weight : weights) {
                (scale * weight - minimum).store(to);
                to += panel_size;
            }
            values += 4 * panel_size;
        }
    }
}

// Panels begin … end of a float matrix, or of an int8 matrix dequantised into `scratch` (inputs · 16 floats a panel).
template <class Isa>
void float_linear(const PackedMatrix& matrix, const FloatInputs& x, const Rows<float>& out, std::int64_t begin,
                  std::int64_t end, float* scratch) {
    const std::int64_t inputs = matrix.inputs();
    const auto run = [&](auto weights_of, auto ready) {
        for_each_tile<Isa::float_rows>(
            x.blocks, begin, end, [](int rows) { return Isa::float_panels(rows); }, ready,
            [&](auto panels, auto rows, std::int64_t panel, std::int64_t block) {
                const auto* const weights = weights_of(panel);
                const std::int64_t first = x.blocks.start(block), column = panel * panel_size;
                using Weight = std::remove_cvref_t<decltype(*weights)>;
                const bool streams = block == 0 && !matrix.integers;
                const std::int64_t ahead = streams ? decltype(panels)::value * inputs * panel_size : 0;
                float_tile<Isa, Weight, decltype(panels)::value, decltype(rows)::value>(
                    weights, inputs, ahead, x.numbers + first * x.inputs,
                    {out.row(first) + column, out.stride, matrix.rows - column});
            });
    };
    if (matrix.integers) {
        run([&](std::int64_t) { return static_cast<const float*>(scratch); },
            [&](std::int64_t panel, std::int64_t panels) {
                for (std::int64_t p = 0; p < panels; ++p) {
                    dequantise_panel<Isa>(matrix, panel + p, scratch + p * inputs * panel_size);
                }
            });
        return;
    }
    with_type(matrix.values.type, [&](auto type) {
        const auto* const values = static_cast<decltype(type)>(matrix.values.data);
        run([&](std::int64_t panel) { return values + panel * inputs * panel_size; },
            [](std::int64_t, std::int64_t) {});
    });
}

// Panels begin … end of an int8 matrix; `scratch` holds 2 · inputs floats a panel.
template <class Isa>
void integer_linear(const PackedMatrix& matrix, const IntegerInputs& x, const Rows<float>& out, std::int64_t begin,
                    std::int64_t end, float* scratch) {
    const std::int64_t inputs = matrix.inputs(), panel_scales = matrix.groups() * panel_size;
    IntegerPanels weights{nullptr, inputs, matrix.group, scratch, nullptr, 0};
    const auto ready = [&](std::int64_t panel, std::int64_t panels) {
        const std::int64_t start = panel * panel_scales, count = panels * panel_scales;
        weights.values = static_cast<const std::uint8_t*>(matrix.values.data) + panel * inputs * panel_size;
        widen<Isa>(matrix.scales, start, count, 1.0f, scratch);
        if (matrix.minimums.data != nullptr) {
            widen<Isa>(matrix.minimums, start, count, -1.0f, scratch + count);
            weights.negative_minimums = scratch + count;
        }
    };
    for_each_tile<Isa::integer_rows>(
        x.blocks, begin, end, [](int rows) { return Isa::integer_panels(rows); }, ready,
        [&](auto panels, auto rows, std::int64_t panel, std::int64_t block) {
            const std::int64_t first = x.blocks.start(block), column = panel * panel_size;
            // The first block reads the panels from memory; while it computes, the next ones come into the cache.
            weights.ahead = block == 0 ? decltype(panels)::value * inputs * panel_size : 0;
            integer_tile<Isa, decltype(panels)::value, decltype(rows)::value>(
                weights, IntegerBlock<Isa>(x, block), {out.row(first) + column, out.stride, matrix.rows - column});
        });
}

} // namespace gemlora::simd
