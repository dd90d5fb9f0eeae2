// y = m · (y + scale · B (A x)) for the rows of one adapter, m being 1 without DoRA. A's sums run over vectors of inputs
// and B's over the rank, in order, for each row by itself. Both lie as they are read (views.h).
#pragma once

#include "functions.h"

namespace gemlora::simd {

// low_rank[rows, first … first + ranks] = scale · x · Aᵀ
template <class Isa, class Weight, int rows, int ranks>
void down_tile(const LowRank& change, const Rows<const float>& x, std::int64_t first, float* low_rank) {
    using Vector = typename Isa::Vector;
    Vector sums[rows][ranks];
#pragma GCC unroll 16
    for (int r = 0; r < rows; ++r) {
#pragma GCC unroll 16
        for (int i = 0; i < ranks; ++i) {
            sums[r][i] = Vector::zero();
        }
    }
    const auto* const a = static_cast<const Weight*>(change.a.data) + first * 16;
    const auto step = [&](std::int64_t k, std::int64_t count) {
        Vector inputs[rows];
#pragma GCC unroll 16
        for (int r = 0; r < rows; ++r) {
            inputs[r] = load<Vector>(x.row(r) + k, count);
        }
#pragma GCC unroll 16
        for (int i = 0; i < ranks; ++i) {
            const Vector weights = Vector::load(a + k * change.rank + i * 16);
#pragma GCC unroll 16
            for (int r = 0; r < rows; ++r) {
                sums[r][i] = fma(weights, inputs[r], sums[r][i]);
            }
        }
    };
    std::int64_t k = 0;
    for (; k + 16 <= change.inputs; k += 16) {
        step(k, 16);
    }
    if (k < change.inputs) {
        step(k, change.inputs - k);
    }
    for (int r = 0; r < rows; ++r) {
        for (int i = 0; i < ranks; ++i) {
            low_rank[r * change.rank + first + i] = change.scale * sum(sums[r][i]);
        }
    }
}

// out[rows, 16 · vectors columns] += low_rank · B, and then scaled output by output.
template <class Isa, class Weight, int rows, int vectors>
void up_tile(const LowRank& change, const float* low_rank, const Rows<float>& out, std::int64_t column,
             std::int64_t count) {
    using Vector = typename Isa::Vector;
    const auto* const b = static_cast<const Weight*>(change.b.data) + column * change.rank;
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
            weights[v] = Vector::load(b + (v * change.rank + i) * 16);
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

// From rank `first` on, `ranks` at a time and those left in halves of that.
template <class Isa, class Weight, int rows, int ranks>
void lower_ranks(const LowRank& change, const Rows<const float>& x, std::int64_t first, float* low_rank) {
    for (; first + ranks <= change.rank; first += ranks) {
        down_tile<Isa, Weight, rows, ranks>(change, x, first, low_rank);
    }
    if constexpr (ranks > 1) {
        lower_ranks<Isa, Weight, rows, ranks / 2>(change, x, first, low_rank);
    }
}

// The first `rows` rows of x.
template <class Isa, int rows>
void lower_rows(const LowRank& change, const Rows<const float>& x, float* low_rank) {
    with_type(change.a.type, [&](auto type) {
        using Weight = std::remove_cvref_t<decltype(*type)>;
        lower_ranks<Isa, Weight, rows, Isa::lora_ranks(rows)>(change, x, 0, low_rank);
    });
}

// The first `rows` rows of out.
template <class Isa, int rows>
void raise_rows(const LowRank& change, const float* low_rank, const Rows<float>& out, std::int64_t begin,
                std::int64_t end) {
    with_type(change.b.type, [&](auto type) {
        using Weight = std::remove_cvref_t<decltype(*type)>;
        constexpr int vectors = rows == 1 ? 2 : 4; // one row alone is done as fast as memory is read in its order
        std::int64_t column = begin;
        for (; column + 16 * vectors <= end; column += 16 * vectors) {
            up_tile<Isa, Weight, rows, vectors>(change, low_rank, out, column, 16);
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

// out[rows, begin … end] = m · (out + B low_rank); `begin` is a multiple of 16.
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
