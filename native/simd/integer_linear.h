// Linear layers in whole numbers: quantised inputs times integer weights, scaled group by group.
#pragma once

#include "integer_weights.h"
#include "linear_inputs.h"
#include "linear_tiles.h"

namespace gemlora::simd {

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
