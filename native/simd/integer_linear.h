// Linear layers in whole numbers: quantised inputs times integer weights, scaled group by group.
#pragma once

#include "integer_weights.h"
#include "linear_inputs.h"
#include "linear_tiles.h"

namespace gemlora::simd {

// The groups of inputs of which a tile takes the sums, on top of those of the groups before.
struct GroupRange {
    std::int64_t begin, end;
};

// Of longer panels, the weights of one turn and those fetched for the next one would not stay in the second-level cache.
constexpr std::int64_t most_inputs = 8192;

// Inputs, after each of which a tile looks whether there is something to fetch.
constexpr std::int64_t stretch_inputs = 32;

// The blocks of rows that go through the same panels share the fetching of the next weights into the second-level cache:
// this one fetches every `every`-th stretch from `first` on, `ahead` bytes behind the weights that it reads.
struct Fetching {
    std::int64_t first, every, ahead;
};

template <class Isa, class Format, int panels, int rows>
void integer_tile(const IntegerPanels<Format>& weights, const GroupRange& groups, const Fetching& fetching,
                  const IntegerInputs& x, std::int64_t first_row, const Tile& out) {
    using Vector = typename Isa::Vector;
    using Integers = typename Isa::Integers;
    using DotInput = typename Isa::DotInput;
    using DotWeights = typename Isa::DotWeights;
    constexpr std::int64_t stretches = Format::group / stretch_inputs, steps = stretch_inputs / 4;
    constexpr std::int64_t stretch_bytes = stretch_inputs * panel_size * Format::bits / 8;
    const std::int64_t panel_bytes = weights.panel_bytes(), panel_scales = weights.panel_scales();
    const std::uint8_t* values = weights.values + groups.begin * stretches * stretch_bytes;
    const std::int32_t* words[rows];
#pragma GCC unroll 16
    for (int r = 0; r < rows; ++r) {
        words[r] = x.words + (first_row + r) * x.row_words + groups.begin * stretches * steps * DotInput::words;
    }
    const std::int64_t row_groups = x.groups(), first_group = first_row * row_groups;
    std::int64_t until_fetching = fetching.first;
    // Lines that are not in the cache when they are written would hold up the next tiles.
#pragma GCC unroll 16
    for (int r = 0; r < rows; ++r) {
#pragma GCC unroll 16
        for (int p = 0; p < panels; ++p) {
            __builtin_prefetch(out.data + r * out.stride + p * panel_size, 1, 3);
        }
    }

    Vector totals[panels][rows];
    set_zero(totals);
    if (groups.begin > 0) {
        load_tile<Vector, panels, rows>(totals, out);
    }
    for (std::int64_t g = groups.begin; g < groups.end; ++g) {
        Integers dots[panels][rows];
#pragma GCC unroll 16
        for (int r = 0; r < rows; ++r) {
            const Integers start = Integers::broadcast(Format::zero_point == 0 ? 0 : x.starts[first_group + r * row_groups + g]);
#pragma GCC unroll 16
            for (int p = 0; p < panels; ++p) {
                dots[p][r] = start;
            }
        }
        for (std::int64_t stretch = 0; stretch < stretches; ++stretch) {
            if (until_fetching-- == 0) {
                until_fetching = fetching.every - 1;
#pragma GCC unroll 16
                for (int p = 0; p < panels; ++p) {
#pragma GCC unroll 8
                    for (std::int64_t line = 0; line < stretch_bytes; line += 64) {
                        __builtin_prefetch(values + p * panel_bytes + fetching.ahead + line, 0, 2);
                    }
                }
            }
            if constexpr (stretches > 1) { // at other places of the code's cache lines the loop takes up to 6 % longer
                asm volatile(".p2align 6");
            }
#pragma GCC unroll 8
            for (std::int64_t step = 0; step < steps; ++step) {
                DotWeights w[panels];
#pragma GCC unroll 16
                for (int p = 0; p < panels; ++p) {
                    w[p] = dot_weights<Isa, Format>(values + p * panel_bytes, step);
                }
#pragma GCC unroll 16
                for (int r = 0; r < rows; ++r) {
                    const DotInput input = DotInput::load(words[r] + step * DotInput::words);
#pragma GCC unroll 16
                    for (int p = 0; p < panels; ++p) {
                        dots[p][r] = dot(dots[p][r], w[p], input);
                    }
                }
            }
            values += stretch_bytes;
#pragma GCC unroll 16
            for (int r = 0; r < rows; ++r) {
                words[r] += steps * DotInput::words;
            }
        }
#pragma GCC unroll 16
        for (int p = 0; p < panels; ++p) {
            const std::int64_t place = p * panel_scales + g * panel_size;
            const Vector scale = Vector::load(weights.scales + place);
            Vector sums[rows];
#pragma GCC unroll 16
            for (int r = 0; r < rows; ++r) {
                sums[r] = to_floats(dots[p][r]) * scale;
            }
            if constexpr (Format::bits == 4 && Format::group == block_inputs) {
                if (weights.minimums != nullptr) {
                    const Vector minimum = Vector::zero() - Vector::load(weights.minimums + place);
#pragma GCC unroll 16
                    for (int r = 0; r < rows; ++r) {
                        sums[r] = fma(minimum, Vector::broadcast(x.sums[first_group + r * row_groups + g]), sums[r]);
                    }
                }
            }
#pragma GCC unroll 16
            for (int r = 0; r < rows; ++r) {
                totals[p][r] = fma(sums[r], Vector::broadcast(x.scales[first_group + r * row_groups + g]), totals[p][r]);
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
    const std::int64_t groups = matrix.groups(), turns = again ? ceil_divide(matrix.inputs(), most_inputs) : 1;
    const std::int64_t length = ceil_divide(groups, turns);
    const std::int64_t group_bytes = matrix.group * panel_size * matrix.bits / 8;
    with_format<true>(matrix, [&](auto format) {
        using Format = decltype(format);
        for_each_tile<Isa::integer_rows>(
            x.blocks, part, turns, [](int rows) { return Isa::integer_panels(rows); },
            [](std::int64_t, std::int64_t) {},
            [&](auto panels, auto rows, std::int64_t panel, std::int64_t turn, std::int64_t block) {
                constexpr int width = decltype(panels)::value;
                const std::int64_t first = x.blocks.start(block), column = panel * panel_size;
                const GroupRange range{turn * length, turn + 1 < turns ? (turn + 1) * length : groups};
                const std::int64_t ahead = turn + 1 < turns ? length * group_bytes
                                                            : width * matrix.panel_bytes() - range.begin * group_bytes;
                integer_tile<Isa, Format, width, decltype(rows)::value>(
                    integer_panels<Format>(matrix, panel), range,
                    {block - part.first_block, part.end_block - part.first_block, ahead}, x, first,
                    {out.row(first) + column, out.stride, matrix.rows - column});
            });
    });
}

} // namespace gemlora::simd
