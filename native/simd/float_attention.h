// Attention over a cache of floats, block by block, with a running maximum per query (online softmax, Milakov and
// Gimelshein 2018). Blocks begin at absolute positions and every query goes through its own in their order, so that
// neither the chunking of a prompt nor the other queries of a task show in the result.
#pragma once

#include "attention_queries.h"

namespace gemlora::simd {

// scores[R, block size] += queries[size, R] · keys[size, block size], 32 or 16 positions at a time.
template <class Isa, int vectors, int rows>
void score_tile(const float* keys, std::int64_t block_size, const float* queries, std::int64_t size, float* scores) {
    using Vector = typename Isa::Vector;
    Vector sums[vectors][rows];
    set_zero(sums);
    for (std::int64_t d = 0; d < size; ++d) {
        Vector key[vectors];
#pragma GCC unroll 16
        for (int v = 0; v < vectors; ++v) {
            key[v] = Vector::load(keys + d * block_size + v * 16);
        }
#pragma GCC unroll 16
        for (int r = 0; r < rows; ++r) {
            const Vector query = Vector::broadcast(queries[d * rows + r]);
#pragma GCC unroll 16
            for (int v = 0; v < vectors; ++v) {
                sums[v][r] = fma(key[v], query, sums[v][r]);
            }
        }
    }
#pragma GCC unroll 16
    for (int r = 0; r < rows; ++r) {
#pragma GCC unroll 16
        for (int v = 0; v < vectors; ++v) {
            sums[v][r].store(scores + r * block_size + v * 16);
        }
    }
}

// sums[R, size] += weights[R, begin … end of the block] · values[block size, size] for 16 · vectors columns.
template <class Isa, int vectors, int rows>
void value_tile(const float* values, std::int64_t size, const float* weights, std::int64_t block_size,
                std::int64_t begin, std::int64_t end, float* sums, std::int64_t stride, std::int64_t columns) {
    using Vector = typename Isa::Vector;
    Vector totals[rows][vectors];
#pragma GCC unroll 16
    for (int r = 0; r < rows; ++r) {
#pragma GCC unroll 16
        for (int v = 0; v < vectors; ++v) {
            totals[r][v] = Vector::load(sums + r * stride + v * 16);
        }
    }
    for (std::int64_t j = begin; j < end; ++j) {
        Vector value[vectors];
#pragma GCC unroll 16
        for (int v = 0; v < vectors; ++v) {
            value[v] = load<Vector>(values + j * size + v * 16, columns - v * 16 < 16 ? columns - v * 16 : 16);
        }
#pragma GCC unroll 16
        for (int r = 0; r < rows; ++r) {
            const Vector weight = Vector::broadcast(weights[r * block_size + j]);
#pragma GCC unroll 16
            for (int v = 0; v < vectors; ++v) {
                totals[r][v] = fma(weight, value[v], totals[r][v]);
            }
        }
    }
#pragma GCC unroll 16
    for (int r = 0; r < rows; ++r) {
#pragma GCC unroll 16
        for (int v = 0; v < vectors; ++v) {
            totals[r][v].store(sums + r * stride + v * 16);
        }
    }
}

// The running state of the queries of one task.
template <class Isa>
class FloatAttention : AttentionQueries {
    using Vector = typename Isa::Vector;

public:
    FloatAttention(const AttentionInputs& inputs, const AttentionTask& task, float* scratch)
        : AttentionQueries(inputs, task), padded_(ceil_divide(inputs.cache.size, panel_size) * panel_size), queries_(scratch),
          sums_(queries_ + most_queries * padded_), scores_(sums_ + most_queries * padded_),
          largest_(scores_ + most_queries * inputs.cache.block_size), totals_(largest_ + most_queries) {
        for (std::int64_t i = 0; i < count_ * padded_; ++i) {
            sums_[i] = 0;
        }
        for (std::int64_t q = 0; q < count_; ++q) {
            largest_[q] = -__builtin_inff();
            totals_[q] = 0;
        }
        gather_queries();
    }

    void run() {
        const std::int64_t size = in_.cache.block_size;
        const std::int64_t first = first_seen(0) / size, last = position(task_.rows - 1) / size;
        for (std::int64_t block = first; block <= last; ++block) {
            add_block(block * size, table()[block]);
        }
        finish();
    }

private:
    static constexpr std::int64_t tile_rows = Isa::float_rows;

    std::int64_t tile_size(std::int64_t start) const {
        return count_ - start < tile_rows ? count_ - start : tile_rows;
    }

    // Queries in tiles of R as [size, R].
    void gather_queries() {
        const std::int64_t size = in_.cache.size;
        for (std::int64_t start = 0; start < count_; start += tile_rows) {
            const std::int64_t rows = tile_size(start);
            for (std::int64_t r = 0; r < rows; ++r) {
                const float* const from = query(start + r);
                for (std::int64_t d = 0; d < size; ++d) {
                    queries_[start * size + d * rows + r] = from[d];
                }
            }
        }
    }

    void add_block(std::int64_t start, std::int64_t block) {
        const auto* const cached = static_cast<const float*>(in_.cache.data);
        score(cached + in_.cache.keys(block, task_.cached_head));
        const float* const values = cached + in_.cache.values(block, task_.cached_head);
        const std::int64_t size = in_.cache.block_size;
        const std::int64_t last = task_.rows - 1;
        // Rows at the edges of their range see a part of the block only.
        const bool whole = first_seen(last) <= start && position(0) >= start + size - 1;
        for (std::int64_t row = 0; row < task_.rows; ++row) {
            const std::int64_t begin = first_seen(row) > start ? first_seen(row) - start : 0;
            const std::int64_t end = position(row) - start + 1 < size ? position(row) - start + 1 : size;
            if (begin >= end) {
                continue;
            }
            for (std::int64_t q = row * task_.heads; q < (row + 1) * task_.heads; ++q) {
                weigh(q, begin, end);
            }
            if (!whole) {
                add_values(values, row * task_.heads, task_.heads, begin, end);
            }
        }
        if (whole) {
            add_values(values, 0, count_, 0, size);
        }
    }

    void score(const float* keys) {
        const std::int64_t block_size = in_.cache.block_size, size = in_.cache.size;
        for (std::int64_t start = 0; start < count_; start += tile_rows) {
            with_constant<tile_rows>(tile_size(start), [&](auto rows) {
                constexpr int r = decltype(rows)::value;
                std::int64_t j = 0;
                for (; j + 32 <= block_size; j += 32) {
                    score_tile<Isa, 2, r>(keys + j, block_size, queries_ + start * size, size,
                                          scores_ + start * block_size + j);
                }
                if (j < block_size) {
                    score_tile<Isa, 1, r>(keys + j, block_size, queries_ + start * size, size,
                                          scores_ + start * block_size + j);
                }
            });
        }
    }

    // Turns the scores of one query into weights e^(score − largest), after moving its sums to the new largest.
    void weigh(std::int64_t q, std::int64_t begin, std::int64_t end) {
        float* const scores = scores_ + q * in_.cache.block_size;
        const Vector nothing = Vector::broadcast(-__builtin_inff());
        Vector most = nothing;
        for (std::int64_t j = 0; j < in_.cache.block_size; j += 16) {
            Vector score = Vector::load(scores + j) * Vector::broadcast(in_.scale);
            if (in_.softcap) {
                score = soft_capped(score, Vector::broadcast(*in_.softcap));
            }
            score = within(j, begin, end, score, nothing);
            most = max(most, score);
            score.store(scores + j);
        }
        const float block_most = largest(most);
        if (block_most > largest_[q]) {
            rescale(q, first_lane(exp(Vector::broadcast(largest_[q] - block_most))));
            largest_[q] = block_most;
        }
        Vector total = Vector::zero();
        for (std::int64_t j = 0; j < in_.cache.block_size; j += 16) {
            const Vector weight = exp(Vector::load(scores + j) - Vector::broadcast(largest_[q]));
            total = total + weight;
            weight.store(scores + j);
        }
        totals_[q] += sum(total);
    }

    void rescale(std::int64_t q, float factor) {
        for (std::int64_t d = 0; d < padded_; d += 16) {
            float* const sums = sums_ + q * padded_ + d;
            (Vector::load(sums) * Vector::broadcast(factor)).store(sums);
        }
        totals_[q] *= factor;
    }

    void add_values(const float* values, std::int64_t first, std::int64_t count, std::int64_t begin,
                    std::int64_t end) {
        const std::int64_t size = in_.cache.size;
        constexpr std::int64_t width = Isa::value_vectors * 16;
        for (std::int64_t start = first; start < first + count; start += Isa::value_rows) {
            const std::int64_t left = first + count - start;
            with_constant<Isa::value_rows>(left < Isa::value_rows ? left : Isa::value_rows, [&](auto rows) {
                constexpr int r = decltype(rows)::value;
                const float* const weights = scores_ + start * in_.cache.block_size;
                std::int64_t d = 0;
                for (; d + width <= size; d += width) {
                    value_tile<Isa, Isa::value_vectors, r>(values + d, size, weights, in_.cache.block_size, begin, end,
                                                           sums_ + start * padded_ + d, padded_, width);
                }
                for (; d < size; d += 16) {
                    value_tile<Isa, 1, r>(values + d, size, weights, in_.cache.block_size, begin, end,
                                          sums_ + start * padded_ + d, padded_, size - d);
                }
            });
        }
    }

    void finish() {
        for (std::int64_t q = 0; q < count_; ++q) {
            float* const to = out(q);
            for_each_vector(in_.cache.size, [&](std::int64_t start, std::int64_t count) {
                store(Vector::load(sums_ + q * padded_ + start) / Vector::broadcast(totals_[q]), to + start, count);
            });
        }
    }

    const std::int64_t padded_; // size of a head, rounded up to whole vectors
    float* const queries_;      // [tiles, size, R]
    float* const sums_;         // [queries, padded]
    float* const scores_;       // [queries, block size]
    float* const largest_;      // [queries]
    float* const totals_;       // [queries]
};

} // namespace gemlora::simd
