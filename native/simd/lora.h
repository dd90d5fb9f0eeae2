// y = m · (y + scale · B (A x)) for the rows of one adapter, m being 1 without DoRA. A's sums run over vectors of inputs
// and B's over the rank, in order, for each row by itself.
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

// out[rows, 16 · vectors columns] += low_rank · B, and then scaled output by output.
template <class Isa, class Weight, int rows, int vectors>
void up_tile(const LowRank& change, const float* low_rank, const Rows<float>& out, std::int64_t column,
             std::int64_t count) {
    using Vector = typename Isa::Vector;
    const auto* const b = static_cast<const Weight*>(change.b.data) + column;
    Vector sums[rows][vectors];
#pragma GCC unroll 16
    for (int r = 0; r < rows; ++r) {
#pragma GCC unroll 16
        for (int v = 0; v < vectors; ++v) {
            sums[r][v] = Vector::zero();
        }
    }
    for (std::int64_t i = 0; i < change.rank; ++i) {
        Vector weights[vectors];
#pragma GCC unroll 16
        for (int v = 0; v < vectors; ++v) {
            weights[v] = load<Vector>(b + i * change.outputs + v * 16, vectors == 1 ? count : 16);
        }
#pragma GCC unroll 16
        for (int r = 0; r < rows; ++r) {
            const Vector factor = Vector::broadcast(low_rank[r * change.rank + i]);
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
            const Vector changed = load<Vector>(static_cast<const float*>(to), lanes) + sums[r][v];
            if (change.output_scale == nullptr) {
                store(changed, to, lanes);
            } else {
                store(changed * load<Vector>(change.output_scale + column + v * 16, lanes), to, lanes);
            }
        }
    }
}

// The first `rows` rows of x.
template <class Isa, int rows>
void lower_rows(const LowRank& change, const Rows<const float>& x, float* low_rank) {
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
}

// The first `rows` rows of out.
template <class Isa, int rows>
void raise_rows(const LowRank& change, const float* low_rank, const Rows<float>& out, std::int64_t begin,
                std::int64_t end) {
    with_type(change.b.type, [&](auto type) {
        using Weight = std::remove_cvref_t<decltype(*type)>;
        std::int64_t column = begin;
        for (; column + 64 <= end; column += 64) {
            up_tile<Isa, Weight, rows, 4>(change, low_rank, out, column, 64);
        }
        for (; column < end; column += 16) {
            up_tile<Isa, Weight, rows, 1>(change, low_rank, out, column, end - column < 16 ? end - column : 16);
        }
    });
}

// body(first row, Constant<n>) for each run of n rows that the registers hold.
template <class Isa, class Function>
void for_each_run(std::int64_t rows, Function&& body) {
    for (std::int64_t row = 0; row < rows; row += Isa::lora_rows) {
        const std::int64_t left = rows - row;
        with_constant<Isa::lora_rows>(left < Isa::lora_rows ? left : Isa::lora_rows,
                                      [&](auto count) { body(row, count); });
    }
}

// low_rank[rows, rank] = scale · A x
template <class Isa>
void lower(const LowRank& change, const Rows<const float>& x, float* low_rank) {
    for_each_run<Isa>(x.rows, [&](std::int64_t row, auto count) {
        constexpr int rows = decltype(count)::value;
        lower_rows<Isa, rows>(change, {x.row(row), rows, x.columns, x.stride}, low_rank + row * change.rank);
    });
}

// out[rows, begin … end] = m · (out + B low_rank)
template <class Isa>
void raise(const LowRank& change, const float* low_rank, const Rows<float>& out, std::int64_t begin,
           std::int64_t end) {
    for_each_run<Isa>(out.rows, [&](std::int64_t row, auto count) {
        constexpr int rows = decltype(count)::value;
        raise_rows<Isa, rows>(change, low_rank + row * change.rank, {out.row(row), rows, out.columns, out.stride},
                              begin, end);
    });
}

} // namespace gemlora::simd
