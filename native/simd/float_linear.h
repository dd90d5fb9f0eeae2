// Linear layers in float32.
#pragma once

#include "integer_weights.h"
#include "linear_tiles.h"

#include <type_traits>

namespace gemlora::simd {

// `ahead` is the distance to the weights to fetch into the second-level cache meanwhile.
template <class Isa, class Weight, int panels, int rows>
void float_tile(const Weight* weights, std::int64_t inputs, std::int64_t ahead, const float* x, const Tile& out) {
    using Vector = typename Isa::Vector;
    Vector sums[panels][rows];
    set_zero(sums);
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
                with_format<false>(matrix, [&](auto format) {
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

} // namespace gemlora::simd
