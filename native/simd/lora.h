// y += scale · B (A x) for the rows of one adapter. A's sums run over vectors of inputs and B's over the rank, in
// order, for each row by itself.
#pragma once

#include "functions.h"

namespace gemlora::simd {

// low_rank[rows, rank] = scale · x · Aᵀ for `ranks` rows of A.
template <class Isa, class Weight, int rows, int ranks>
void down_tile(const Weight* a, std::int64_t inputs, const Rows<const float>& x, float scale, float* low_rank,
               std::int64_t rank) {
    using Vector = typename Isa::Vector;
    Vector sums[rows][ranks];
#pragma GCC unroll 16
    for (int r = 0; r < rows; ++r) {
#pragma GCC unroll 16
        for (int i = 0; i < ranks; ++i) {
            sums[r][i] = Vector::zero();
        }
    }
    const auto step = [&](std::int64_t k, std::int64_t count) {
        Vector weights[ranks];
#pragma GCC unroll 16
        for (int i = 0; i < ranks; ++i) {
            weights[i] = load<Vector>(a + i * inputs + k, count);
        }
#pragma GCC unroll 16
        for (int r = 0; r < rows; ++r) {
            const Vector input = load<Vector>(x.row(r) + k, count);
#pragma GCC unroll 16
            for (int i = 0; i < ranks; ++i) {
                sums[r][i] = fma(weights[i], input, sums[r][i]);
            }
        }
    };
    std::int64_t k = 0;
    for (; k + 16 <= inputs; k += 16) {
        step(k, 16);
    }
    if (k < inputs) {
        step(k, inputs - k);
    }
    for (int r = 0; r < rows; ++r) {
        for (int i = 0; i < ranks; ++i) {
            low_rank[r * rank + i] = scale * sum(sums[r][i]);
        }
    }
}

// out[rows, 16 · vectors columns] += low_rank · B
template <class Isa, class Weight, int rows, int vectors>
void up_tile(const Weight* b, std::int64_t outputs, std::int64_t rank, const float* low_rank, const Rows<float>& out,
             std::int64_t column, std::int64_t count) {
    using Vector = typename Isa::Vector;
    Vector sums[rows][vectors];
#pragma GCC unroll 16
    for (int r = 0; r < rows; ++r) {
#pragma GCC unroll 16
        for (int v = 0; v < vectors; ++v) {
            sums[r][v] = Vector::zero();
        }
    }
    for (std::int64_t i = 0; i < rank; ++i) {
        Vector weights[vectors];
#pragma GCC unroll 16
        for (int v = 0; v < vectors; ++v) {
            weights[v] = load<Vector>(b + i * outputs + column + v * 16, vectors == 1 ? count : 16);
        }
#pragma GCC unroll 16
        for (int r = 0; r < rows; ++r) {
            const Vector factor = Vector::broadcast(low_rank[r * rank + i]);
#pragma GCC unroll 16
            for (int v = 0; v < vectors; ++v) {
                sums[r][v] = fma(weights[v], factor, sums[r][v]);
            }
        }
    }
#pragma GCC unroll 16
    for (int r = 0; r < rows; ++r) {
#pragma GCC unroll 16
        for (int v = 0; v < vectors; ++v) {
            float* const to = out.row(r) + column + v * 16;
            const std::int64_t lanes = vectors == 1 ? count : 16;
            store(load<Vector>(static_cast<const float*>(to), lanes) + sums[r][v], to, lanes);
        }
    }
}

// The first `rows` rows of x and out; `low_rank` holds rows · rank floats.
template <class Isa, int rows>
void adapt_rows(const LowRank& change, const Rows<const float>& x, const Rows<float>& out, float* low_rank) {
    with_type(change.a.type, [&](auto type) {
        using Weight = std::remove_cvref_t<decltype(*type)>;
        const auto* const a = static_cast<const Weight*>(change.a.data);
        std::int64_t i = 0;
        for (; i + 4 <= change.rank; i += 4) {
            down_tile<Isa, Weight, rows, 4>(a + i * change.inputs, change.inputs, x, change.scale, low_rank + i,
                                            change.rank);
        }
        for (; i < change.rank; ++i) {
            down_tile<Isa, Weight, rows, 1>(a + i * change.inputs, change.inputs, x, change.scale, low_rank + i,
                                            change.rank);
        }
    });
    with_type(change.b.type, [&](auto type) {
        using Weight = std::remove_cvref_t<decltype(*type)>;
        const auto* const b = static_cast<const Weight*>(change.b.data);
        std::int64_t column = 0;
        for (; column + 64 <= change.outputs; column += 64) {
            up_tile<Isa, Weight, rows, 4>(b, change.outputs, change.rank, low_rank, out, column, 64);
        }
        for (; column < change.outputs; column += 16) {
            const std::int64_t left = change.outputs - column;
            up_tile<Isa, Weight, rows, 1>(b, change.outputs, change.rank, low_rank, out, column,
                                          left < 16 ? left : 16);
        }
    });
}

// `low_rank` holds rank · lora_rows floats.
template <class Isa>
void adapt(const LowRank& change, const Rows<const float>& x, const Rows<float>& out, float* low_rank) {
    for (std::int64_t row = 0; row < x.rows; row += Isa::lora_rows) {
        const std::int64_t left = x.rows - row;
        with_constant<Isa::lora_rows>(left < Isa::lora_rows ? left : Isa::lora_rows, [&](auto rows) {
            constexpr int count = decltype(rows)::value;
            adapt_rows<Isa, count>(change, {x.row(row), count, x.columns, x.stride},
                                   {out.row(row), count, out.columns, out.stride}, low_rank);
        });
    }
}

} // namespace gemlora::simd
