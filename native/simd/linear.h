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
    std::int64_t rows;
    std::int32_t* words;
    float* scales;
    GroupSums by_32, by_16;

    IntegerBlock(const IntegerInputs& inputs, std::int64_t block)
        : rows(inputs.blocks.size(block)),
          words(inputs.words + inputs.blocks.start(block) * (inputs.inputs / 4) * Isa::DotInput::words),
          scales(inputs.scales + inputs.blocks.start(block) * inputs.spans()),
          by_32(from(inputs.by_32, inputs.blocks.start(block) * (inputs.inputs / 32))),
          by_16(from(inputs.by_16, inputs.blocks.start(block) * (inputs.inputs / 16))) {}

    // Notes the sum of the whole numbers of one group and row in the arrays that are there.
    void set_sum(const GroupSums& groups, std::int64_t group, std::int64_t row, std::int32_t sum) const {
        const std::int64_t place = group * rows + row;
        if (groups.sums != nullptr) {
            groups.sums[place] = static_cast<float>(sum);
        }
        if (groups.minus_128_sums != nullptr) {
            groups.minus_128_sums[place] = -128 * sum;
        }
        if (groups.minus_8_sums != nullptr) {
            groups.minus_8_sums[place] = -8 * sum;
        }
    }

private:
    static GroupSums from(const GroupSums& groups, std::int64_t start) {
        const auto moved = [&](auto* numbers) { return numbers == nullptr ? nullptr : numbers + start; };
        return {moved(groups.sums), moved(groups.minus_128_sums), moved(groups.minus_8_sums)};
    }
};

// Quantises 32 inputs of one row of a block.
template <class Isa>
void quantise_group(typename Isa::Vector low, typename Isa::Vector high, typename Isa::Vector inverse,
                    const IntegerBlock<Isa>& to, std::int64_t group, std::int64_t row) {
    using Integers = typename Isa::Integers;
    const Integers first = round_to_integers(low * inverse), second = round_to_integers(high * inverse);
    std::int32_t words[8 * Isa::DotInput::words];
    pack_dot_inputs(first, second, words);
    for (std::int64_t i = 0; i < 8; ++i) {
        for (std::int64_t word = 0; word < Isa::DotInput::words; ++word) {
            to.words[((group * 8 + i) * to.rows + row) * Isa::DotInput::words + word] =
                words[i * Isa::DotInput::words + word];
        }
    }
    if (to.by_16.any()) {
        to.set_sum(to.by_16, 2 * group, row, sum(first));
        to.set_sum(to.by_16, 2 * group + 1, row, sum(second));
    }
    if (to.by_32.any()) {
        to.set_sum(to.by_32, group, row, sum(first + second));
    }
}

// Quantises one span of one row: `count` inputs, of which those from `columns` on are padding.
template <class Isa>
void quantise_span(const float* from, std::int64_t count, std::int64_t columns, const IntegerBlock<Isa>& to,
                   std::int64_t span, std::int64_t row) {
    using Vector = typename Isa::Vector;
    using Integers = typename Isa::Integers;
    Vector inputs[span_inputs / 16];
    // Compared as integers, a NaN is the largest and reaches the scale, and with it the outputs.
    Integers most = Integers::broadcast(0);
    for (std::int64_t i = 0; i < count / 16; ++i) {
        const std::int64_t left = columns - i * 16;
        inputs[i] = left >= 16 ? Vector::load(from + i * 16)
                    : left > 0 ? Vector::load(from + i * 16, left)
                               : Vector::zero();
        most = max(most, bits(absolute(inputs[i])));
    }
    const float largest_input = std::bit_cast<float>(largest(most));
    const bool usable = largest_input >= 0x1p-100f && largest_input < __builtin_inff();
    to.scales[span * to.rows + row] = largest_input / 127.0f;
    const Vector inverse = Vector::broadcast(usable ? 127.0f / largest_input : 0.0f);
    for (std::int64_t i = 0; i < count / 16; i += 2) {
        const Vector low = usable ? inputs[i] : Vector::zero(), high = usable ? inputs[i + 1] : Vector::zero();
        quantise_group<Isa>(low, high, inverse, to, (span * span_inputs + i * 16) / block_inputs, row);
    }
}

// Quantises the rows of one block, with zeros past the columns of x.
template <class Isa>
void quantise_inputs(const Rows<const float>& x, const IntegerInputs& inputs, std::int64_t block) {
    const IntegerBlock<Isa> to(inputs, block);
    for (std::int64_t row = 0; row < to.rows; ++row) {
        const float* const from = x.row(inputs.blocks.start(block) + row);
        for (std::int64_t span = 0; span < inputs.spans(); ++span) {
            const std::int64_t start = span * span_inputs, left = inputs.inputs - start;
            quantise_span<Isa>(from + start, left < span_inputs ? left : span_inputs, x.columns - start, to, span, row);
        }
    }
}

// Where the results of a tile go: consecutive panels of consecutive rows, cut at the last column.
struct Tile {
    float* data;
    std::int64_t stride, columns;
};

template <class Vector, int panels, int rows>
inline void load_tile(Vector (&sums)[panels][rows], const Tile& out) {
#pragma GCC unroll 16
    for (int p = 0; p < panels; ++p) {
        const std::int64_t left = out.columns - p * panel_size;
#pragma GCC unroll 16
        for (int r = 0; r < rows; ++r) {
            const float* const from = out.data + r * out.stride + p * panel_size;
            sums[p][r] = load<Vector>(from, left < 16 ? left : 16);
        }
    }
}

template <class Vector, int panels, int rows>
inline void store_tile(const Vector (&sums)[panels][rows], const Tile& out) {
#pragma GCC unroll 16
    for (int p = 0; p < panels; ++p) {
        const std::int64_t left = out.columns - p * panel_size;
#pragma GCC unroll 16
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

// How an integer matrix is stored, known to the compiler.
template <int bits_, int zero_point_, std::int64_t group_, class Scale_>
struct IntegerFormat {
    static constexpr int bits = bits_, zero_point = zero_point_;
    static constexpr std::int64_t group = group_;
    using Scale = Scale_;

    static const GroupSums& sums(const auto& inputs) { return group == 32 ? inputs.by_32 : inputs.by_16; }
    static const std::int32_t* start(const GroupSums& sums) {
        return zero_point == 128 ? sums.minus_128_sums : sums.minus_8_sums;
    }
};

// The spans of inputs of which a tile takes the sums, on top of those of the spans before.
struct SpanRange {
    std::int64_t begin, end;
};

// Of longer panels, the weights of one turn and those fetched for the next one would not stay in the second-level cache.
constexpr std::int64_t most_spans = 8192 / span_inputs;

// The blocks of rows that go through the same panels share the fetching of the next weights into the second-level cache:
// this one fetches every `every`-th group from `first` on, `ahead` bytes behind the weights that it reads.
struct Fetching {
    std::int64_t first, every, ahead;
};

// Consecutive panels of an integer matrix.
template <class Format>
struct IntegerPanels {
    const std::uint8_t* values;
    const typename Format::Scale *scales, *minimums; // [panels, groups, 16]; minimums may be null
    std::int64_t inputs;

    std::int64_t panel_bytes() const { return inputs * panel_size * Format::bits / 8; }
    std::int64_t panel_scales() const { return inputs / Format::group * panel_size; }
};

// Four weights of each of 16 outputs: step `step` of the values.
template <class Isa, int bits>
typename Isa::DotWeights dot_weights(const std::uint8_t* values, std::int64_t step) {
    using DotWeights = typename Isa::DotWeights;
    if constexpr (bits == 8) {
        return DotWeights::load(values + step * 4 * panel_size);
    } else {
        const std::uint8_t* const pair = values + step / 2 * 4 * panel_size;
        return step % 2 == 0 ? DotWeights::load_low_halves(pair) : DotWeights::load_high_halves(pair);
    }
}

// A span has one or two groups of weights; its inputs share a scale.
template <class Isa, class Format, int panels, int rows>
void integer_tile(const IntegerPanels<Format>& weights, const SpanRange& spans, const Fetching& fetching,
                  const IntegerBlock<Isa>& x, const Tile& out) {
    using Vector = typename Isa::Vector;
    using Integers = typename Isa::Integers;
    using DotInput = typename Isa::DotInput;
    using DotWeights = typename Isa::DotWeights;
    constexpr std::int64_t groups = span_inputs / Format::group, steps = Format::group / 4;
    constexpr std::int64_t group_bytes = Format::group * panel_size * Format::bits / 8;
    const std::int64_t panel_bytes = weights.panel_bytes(), panel_scales = weights.panel_scales();
    const GroupSums& group_sums = Format::sums(x);
    const std::int32_t* const starts = Format::start(group_sums);
    const std::uint8_t* values = weights.values + spans.begin * groups * group_bytes;
    const std::int32_t* words = x.words + spans.begin * groups * steps * rows * DotInput::words;
    std::int64_t next_fetched = spans.begin * groups + fetching.first;
    // Lines that are not in the cache when they are written would hold up the next tiles.
#pragma GCC unroll 16
    for (int r = 0; r < rows; ++r) {
#pragma GCC unroll 16
        for (int p = 0; p < panels; ++p) {
            __builtin_prefetch(out.data + r * out.stride + p * panel_size, 1, 3);
        }
    }

    Vector totals[panels][rows];
#pragma GCC unroll 16
    for (int p = 0; p < panels; ++p) {
#pragma GCC unroll 16
        for (int r = 0; r < rows; ++r) {
            totals[p][r] = Vector::zero();
        }
    }
    if (spans.begin > 0) {
        load_tile<Vector, panels, rows>(totals, out);
    }
    for (std::int64_t span = spans.begin; span < spans.end; ++span) {
        Vector sums[panels][rows];
#pragma GCC unroll 16
        for (int p = 0; p < panels; ++p) {
#pragma GCC unroll 16
            for (int r = 0; r < rows; ++r) {
                sums[p][r] = Vector::zero();
            }
        }
        const std::int64_t first = span * groups, left = weights.inputs / Format::group - first;
        const std::int64_t end = groups == 1 || left >= groups ? first + groups : first + left;
        for (std::int64_t g = first; g < end; ++g) {
            if (g == next_fetched) {
                next_fetched += fetching.every;
#pragma GCC unroll 16
                for (int p = 0; p < panels; ++p) {
#pragma GCC unroll 8
                    for (std::int64_t line = 0; line < group_bytes; line += 64) {
                        __builtin_prefetch(values + p * panel_bytes + fetching.ahead + line, 0, 2);
                    }
                }
            }
            Integers dots[panels][rows];
#pragma GCC unroll 16
            for (int r = 0; r < rows; ++r) {
                const Integers start = Integers::broadcast(Format::zero_point == 0 ? 0 : starts[g * rows + r]);
#pragma GCC unroll 16
                for (int p = 0; p < panels; ++p) {
                    dots[p][r] = start;
                }
            }
#pragma GCC unroll 8
            for (std::int64_t step = 0; step < steps; ++step) {
                DotWeights w[panels];
#pragma GCC unroll 16
                for (int p = 0; p < panels; ++p) {
                    w[p] = dot_weights<Isa, Format::bits>(values + p * panel_bytes, step);
                }
#pragma GCC unroll 16
                for (int r = 0; r < rows; ++r) {
                    const DotInput input = DotInput::load(words + (step * rows + r) * DotInput::words);
#pragma GCC unroll 16
                    for (int p = 0; p < panels; ++p) {
                        dots[p][r] = dot(dots[p][r], w[p], input);
                    }
                }
            }
            values += group_bytes;
            words += steps * rows * DotInput::words;
#pragma GCC unroll 16
            for (int p = 0; p < panels; ++p) {
                const Vector scale = Vector::load(weights.scales + p * panel_scales + g * panel_size);
#pragma GCC unroll 16
                for (int r = 0; r < rows; ++r) {
                    sums[p][r] = fma(to_floats(dots[p][r]), scale, sums[p][r]);
                }
            }
            if (weights.minimums != nullptr) {
#pragma GCC unroll 16
                for (int p = 0; p < panels; ++p) {
                    const Vector minimum =
                        Vector::zero() - Vector::load(weights.minimums + p * panel_scales + g * panel_size);
#pragma GCC unroll 16
                    for (int r = 0; r < rows; ++r) {
                        sums[p][r] = fma(minimum, Vector::broadcast(group_sums.sums[g * rows + r]), sums[p][r]);
                    }
                }
            }
        }
#pragma GCC unroll 16
        for (int p = 0; p < panels; ++p) {
#pragma GCC unroll 16
            for (int r = 0; r < rows; ++r) {
                totals[p][r] = fma(sums[p][r], Vector::broadcast(x.scales[span * rows + r]), totals[p][r]);
            }
        }
    }
    store_tile<Vector, panels, rows>(totals, out);
}

// compute(Constant<panels>, Constant<rows>, panel, turn, block) for all panels and blocks of a part, so many times; the
// weights of the panels are prepared once by ready(panel, panels).
template <int most_rows, class Panels, class Ready, class Compute>
inline void for_each_tile(const RowBlocks& blocks, const LinearPart& part, std::int64_t turns, Panels panels_for,
                          Ready&& ready, Compute&& compute) {
    with_constant<most_rows>(blocks.size(0), [&](auto longest) {
        constexpr int rows = decltype(longest)::value;
        constexpr int most_panels = panels_for(rows);
        const auto all_blocks = [&](auto panels, std::int64_t panel) {
            ready(panel, decltype(panels)::value);
            for (std::int64_t turn = 0; turn < turns; ++turn) {
                for (std::int64_t block = part.first_block; block < part.end_block; ++block) {
                    if (blocks.size(block) == rows) {
                        compute(panels, Constant<rows>{}, panel, turn, block);
                    } else if constexpr (rows > 1) {
                        compute(panels, Constant<rows - 1>{}, panel, turn, block);
                    }
                }
            }
        };
        std::int64_t panel = part.first_panel;
        for (; panel + most_panels <= part.end_panel; panel += most_panels) {
            all_blocks(Constant<most_panels>{}, panel);
        }
        for (; panel < part.end_panel; ++panel) {
            all_blocks(Constant<1>{}, panel);
        }
    });
}

// Calls body with the IntegerFormat of a matrix.
template <class Function>
void with_format(const PackedMatrix& matrix, Function&& body) {
    const auto with_scale = [&](auto scale) {
        using Scale = decltype(scale);
        if (matrix.bits == 4) {
            matrix.zero_point() == 8 ? body(IntegerFormat<4, 8, 32, Scale>{}) : body(IntegerFormat<4, 0, 32, Scale>{});
        } else {
            matrix.group == 32 ? body(IntegerFormat<8, 128, 32, Scale>{}) : body(IntegerFormat<8, 128, 16, Scale>{});
        }
    };
    matrix.scales.type == Stored::float16 ? with_scale(Half{}) : with_scale(float{});
}

template <class Format>
IntegerPanels<Format> integer_panels(const PackedMatrix& matrix, std::int64_t panel) {
    using Scale = typename Format::Scale;
    const std::int64_t first = panel * matrix.groups() * panel_size;
    const auto* const minimums = static_cast<const Scale*>(matrix.minimums.data);
    return {static_cast<const std::uint8_t*>(matrix.values.data) + panel * matrix.panel_bytes(),
            static_cast<const Scale*>(matrix.scales.data) + first, minimums == nullptr ? nullptr : minimums + first,
            matrix.inputs()};
}

// The float32 weights of one panel, [inputs, 16].
template <class Isa, class Format>
void dequantise_panel(const IntegerPanels<Format>& weights, float* to) {
    using Vector = typename Isa::Vector;
    for (std::int64_t g = 0; g < weights.inputs / Format::group; ++g) {
        const Vector scale = Vector::load(weights.scales + g * panel_size);
        const Vector minimum =
            weights.minimums == nullptr ? Vector::zero() : Vector::load(weights.minimums + g * panel_size);
        for (std::int64_t step = 0; step < Format::group / 4; ++step) {
            Vector unpacked[4];
            dot_weights<Isa, Format::bits>(weights.values, g * (Format::group / 4) + step).unpack(unpacked);
            for (const Vector& number : unpacked) {
                const Vector weight = number - Vector::broadcast(static_cast<float>(Format::zero_point));
                (scale * weight - minimum).store(to);
                to += panel_size;
            }
        }
    }
}

// A part of a float matrix, or of an integer matrix dequantised into `scratch` (inputs · 16 floats a panel).
template <class Isa>
void float_linear(const PackedMatrix& matrix, const FloatInputs& x, const Rows<float>& out, const LinearPart& part,
                  float* scratch) {
    const std::int64_t inputs = matrix.inputs();
    const auto run = [&](auto weights_of, auto ready) {
        for_each_tile<Isa::float_rows>(
            x.blocks, part, 1, [](int rows) { return Isa::float_panels(rows); }, ready,
            [&](auto panels, auto rows, std::int64_t panel, std::int64_t, std::int64_t block) {
                const auto* const weights = weights_of(panel);
                const std::int64_t first = x.blocks.start(block), column = panel * panel_size;
                using Weight = std::remove_cvref_t<decltype(*weights)>;
                const bool streams = block == part.first_block && !matrix.integers();
                const std::int64_t ahead = streams ? decltype(panels)::value * inputs * panel_size : 0;
                float_tile<Isa, Weight, decltype(panels)::value, decltype(rows)::value>(
                    weights, inputs, ahead, x.numbers + first * x.inputs,
                    {out.row(first) + column, out.stride, matrix.rows - column});
            });
    };
    if (matrix.integers()) {
        run([&](std::int64_t) { return static_cast<const float*>(scratch); },
            [&](std::int64_t panel, std::int64_t panels) {
                with_format(matrix, [&](auto format) {
                    for (std::int64_t p = 0; p < panels; ++p) {
                        dequantise_panel<Isa>(integer_panels<decltype(format)>(matrix, panel + p),
                                              scratch + p * inputs * panel_size);
                    }
                });
            });
        return;
    }
    with_type(matrix.values.type, [&](auto type) {
        const auto* const values = static_cast<decltype(type)>(matrix.values.data);
        run([&](std::int64_t panel) { return values + panel * inputs * panel_size; },
            [](std::int64_t, std::int64_t) {});
    });
}

// A part of an integer matrix. All blocks of rows go through some of the inputs of the same panels before the next ones.
template <class Isa>
void integer_linear(const PackedMatrix& matrix, const IntegerInputs& x, const Rows<float>& out,
                    const LinearPart& part) {
    const bool again = part.end_block - part.first_block > 1;
    const std::int64_t spans = x.spans(), turns = again ? ceil_divide(spans, most_spans) : 1;
    const std::int64_t length = ceil_divide(spans, turns);
    const std::int64_t span_bytes = span_inputs * panel_size * matrix.bits / 8;
    with_format(matrix, [&](auto format) {
        using Format = decltype(format);
        for_each_tile<Isa::integer_rows>(
            x.blocks, part, turns, [](int rows) { return Isa::integer_panels(rows); },
            [](std::int64_t, std::int64_t) {},
            [&](auto panels, auto rows, std::int64_t panel, std::int64_t turn, std::int64_t block) {
                constexpr int width = decltype(panels)::value;
                const std::int64_t first = x.blocks.start(block), column = panel * panel_size;
                const SpanRange range{turn * length, turn + 1 < turns ? (turn + 1) * length : spans};
                const std::int64_t ahead = turn + 1 < turns ? length * span_bytes
                                                            : width * matrix.panel_bytes() - range.begin * span_bytes;
                integer_tile<Isa, Format, width, decltype(rows)::value>(
                    integer_panels<Format>(matrix, panel), range,
                    {block - part.first_block, part.end_block - part.first_block, ahead}, IntegerBlock<Isa>(x, block),
                    {out.row(first) + column, out.stride, matrix.rows - column});
            });
    });
}

} // namespace gemlora::simd
