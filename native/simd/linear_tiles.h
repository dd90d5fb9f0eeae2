// out = x · Wᵀ. A tile is some rows × some panels whose sums stay in registers; every lane sums its own output in the
// order of the inputs, so the tiling does not show in the result.
#pragma once

#include "../inputs.h"
#include "functions.h"

namespace gemlora::simd {

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

} // namespace gemlora::simd
