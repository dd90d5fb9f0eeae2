// y = m · (y + scale · B (A x)) for the rows of one adapter, m being 1 without DoRA. A's sums run over vectors of inputs
// and B's over the rank, in order, for each row by itself. Both lie as they are read (views.h).
#pragma once

#include "../half.h"
#include "functions.h"

namespace gemlora::simd {

// Calls body with a null pointer of what the factor's panels consist of.
template <class Function>
void with_factor(const Numbers& factor, Function&& body) {
    if (factor.type == Stored::scaled_bytes) {
        body(static_cast<const ScaledBytes*>(nullptr));
    } else {
        with_type(factor.type, body);
    }
}

// low_rank[rows, first … first + ranks] = scale · the sums over each vector's lanes
template <class Vector, int rows, int ranks>
void store_low_rank(const LowRank& change, const Vector (&sums)[rows][ranks], std::int64_t first, float* low_rank) {
    for (int r = 0; r < rows; ++r) {
        for (int i = 0; i < ranks; ++i) {
            low_rank[r * change.rank + first + i] = change.scale * sum(sums[r][i]);
        }
    }
}

// low_rank[rows, first … first + ranks] = scale · x · Aᵀ
template <class Isa, class Weight, int rows, int ranks>
void down_tile(const LowRank& change, const Rows<const float>& x, std::int64_t first, float* low_rank) {
    using Vector = typename Isa::Vector;
    Vector sums[rows][ranks];
    set_zero(sums);
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
    store_low_rank(change, sums, first, low_rank);
}

// The same of whole numbers: a panel's products are summed before its scale multiplies them.
template <class Isa, int rows, int ranks>
void scaled_down_tile(const LowRank& change, const Rows<const float>& x, std::int64_t first, float* low_rank) {
    using Vector = typename Isa::Vector;
    constexpr std::int64_t size = ScaledBytes::size;
    Vector sums[rows][ranks];
    set_zero(sums);
    const auto* panel = static_cast<const ScaledBytes*>(change.a.data) + first;
    const auto step = [&](const float* inputs, std::int64_t stride) {
#pragma GCC unroll 16
        for (int i = 0; i < ranks; ++i) {
            Vector products[rows];
#pragma GCC unroll 16
            for (int r = 0; r < rows; ++r) {
                products[r] = Vector::zero();
            }
#pragma GCC unroll 16
            for (std::int64_t k = 0; k < size; k += 16) {
                const Vector weights = Vector::load(panel[i].numbers + k);
#pragma GCC unroll 16
                for (int r = 0; r < rows; ++r) {
                    products[r] = fma(weights, Vector::load(inputs + r * stride + k), products[r]);
                }
            }
            const Vector scale = Vector::broadcast(widen(panel[i].scale));
#pragma GCC unroll 16
            for (int r = 0; r < rows; ++r) {
                sums[r][i] = fma(products[r], scale, sums[r][i]);
            }
        }
        panel += change.rank;
    };
    std::int64_t k = 0;
    for (; k + size <= change.inputs; k += size) {
        step(x.data + k, x.stride);
    }
    if (k < change.inputs) {
        float padded[rows * size] = {};
        for (std::int64_t r = 0; r < rows; ++r) {
            for (std::int64_t i = k; i < change.inputs; ++i) {
                padded[r * size + i - k] = x.row(r)[i];
            }
        }
        step(padded, size);
    }
    store_low_rank(change, sums, first, low_rank);
}

// out[rows, 16 · vectors columns] = m · (out + sums)
template <class Vector, int rows, int vectors>
void add_changes(const LowRank& change, const Vector (&sums)[rows][vectors], const Rows<float>& out,
                 std::int64_t column, std::int64_t end) {
#pragma GCC unroll 16
    for (int r = 0; r < rows; ++r) {
#pragma GCC unroll 16
        for (int v = 0; v < vectors; ++v) {
            const std::int64_t left = end - column - v * 16, lanes = left < 16 ? left : 16;
            if (lanes <= 0) {
                break;
            }
            float* const to = out.row(r) + column + v * 16;
            const Vector changed = load<Vector>(static_cast<const float*>(to), lanes) + sums[r][v];
            if (change.output_scale == nullptr) {
                store(changed, to, lanes);
            } else {
                store(changed * load<Vector>(change.output_scale + column + v * 16, lanes), to, lanes);
            }
        }
    }
}

// out[rows, 16 · vectors columns, at most to `end`] += low_rank · B, and then scaled output by output.
template <class Isa, class Weight, int rows, int vectors>
void up_tile(const LowRank& change, const float* low_rank, const Rows<float>& out, std::int64_t column,
             std::int64_t end) {
    using Vector = typename Isa::Vector;
    const auto* const b = static_cast<const Weight*>(change.b.data) + column * change.rank;
    Vector sums[rows][vectors];
    set_zero(sums);
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
    add_changes(change, sums, out, column, end);
}

// The same of whole numbers.
template <class Isa, int rows>
void scaled_up_tile(const LowRank& change, const float* low_rank, const Rows<float>& out, std::int64_t column,
                    std::int64_t end) {
    using Vector = typename Isa::Vector;
    constexpr int vectors = ScaledBytes::size / 16;
    const auto* const b = static_cast<const ScaledBytes*>(change.b.data) + column / ScaledBytes::size * change.rank;
    Vector sums[rows][vectors];
    set_zero(sums);
    for (std::int64_t i = 0; i < change.rank; ++i) {
        const float scale = widen(b[i].scale);
        Vector factors[rows];
#pragma GCC unroll 16
        for (int r = 0; r < rows; ++r) {
            factors[r] = Vector::broadcast(low_rank[r * change.rank + i] * scale);
        }
#pragma GCC unroll 16
        for (int v = 0; v < vectors; ++v) {
            const Vector weights = Vector::load(b[i].numbers + v * 16);
#pragma GCC unroll 16
            for (int r = 0; r < rows; ++r) {
                sums[r][v] = fma(weights, factors[r], sums[r][v]);
            }
        }
    }
    add_changes(change, sums, out, column, end);
}

// From rank `first` on, `ranks` at a time and those left in halves of that.
template <class Isa, class Weight, int rows, int ranks>
void lower_ranks(const LowRank& change, const Rows<const float>& x, std::int64_t first, float* low_rank) {
    for (; first + ranks <= change.rank; first += ranks) {
        if constexpr (std::is_same_v<Weight, ScaledBytes>) {
            scaled_down_tile<Isa, rows, ranks>(change, x, first, low_rank);
        } else {
            down_tile<Isa, Weight, rows, ranks>(change, x, first, low_rank);
        }
    }
    if constexpr (ranks > 1) {
        lower_ranks<Isa, Weight, rows, ranks / 2>(change, x, first, low_rank);
    }
}

// The first `rows` rows of x.
template <class Isa, int rows>
void lower_rows(const LowRank& change, const Rows<const float>& x, float* low_rank) {
    with_factor(change.a, [&](auto type) {
        using Weight = std::remove_cvref_t<decltype(*type)>;
        lower_ranks<Isa, Weight, rows, Isa::lora_ranks(rows)>(change, x, 0, low_rank);
    });
}

// The first `rows` rows of out.
template <class Isa, int rows>
void raise_rows(const LowRank& change, const float* low_rank, const Rows<float>& out, std::int64_t begin,
                std::int64_t end) {
    with_factor(change.b, [&](auto type) {
        using Weight = std::remove_cvref_t<decltype(*type)>;
        std::int64_t column = begin;
        if constexpr (std::is_same_v<Weight, ScaledBytes>) {
            for (; column < end; column += ScaledBytes::size) {
                scaled_up_tile<Isa, rows>(change, low_rank, out, column, end);
            }
        } else {
            constexpr int vectors = rows == 1 ? 2 : 4; // one row alone is done as fast as memory is read in its order
            for (; column + 16 * vectors <= end; column += 16 * vectors) {
                up_tile<Isa, Weight, rows, vectors>(change, low_rank, out, column, end);
            }
            for (; column < end; column += 16) {
                up_tile<Isa, Weight, rows, 1>(change, low_rank, out, column, end);
            }
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

// out[rows, begin … end] = m · (out + B low_rank); `begin` is a multiple of 64.
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
