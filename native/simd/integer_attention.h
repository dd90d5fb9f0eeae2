// Attention over a cache of whole numbers. Scores and sums of values are dot products of bytes, exact in any order, and
// turn into floats once per span of positions. Spans begin at absolute positions and every query goes through its own
// in their order with a running maximum (online softmax), so that neither the chunking of a prompt nor the other
// queries of a task show in the result.
#pragma once

#include "attention_queries.h"
#include "integer_heads.h"

#include <algorithm>
#include <bit>

namespace gemlora::simd {

// scores[R, panels · 16] = scales · (queries[size, R] · keys[size, positions]).
template <class Isa, int panels, int rows>
void integer_score_tile(const std::uint8_t* keys, const float* key_scales, std::int64_t block_size,
                        const std::int32_t* queries, const float* query_scales, const std::int32_t* biases,
                        std::int64_t fours, float* scores, std::int64_t stride) {
    using Vector = typename Isa::Vector;
    using Integers = typename Isa::Integers;
    Integers sums[panels][rows];
#pragma GCC unroll 16
    for (int p = 0; p < panels; ++p) {
#pragma GCC unroll 16
        for (int r = 0; r < rows; ++r) {
            sums[p][r] = Integers::broadcast(0);
        }
    }
    for (std::int64_t four = 0; four < fours; ++four) {
        typename Isa::DotWeights key[panels];
#pragma GCC unroll 16
        for (int p = 0; p < panels; ++p) {
            key[p] = Isa::DotWeights::load(keys + (four * block_size + p * 16) * 4);
        }
#pragma GCC unroll 16
        for (int r = 0; r < rows; ++r) {
            const auto query = Isa::DotInput::load(queries + (four * rows + r) * Isa::DotInput::words);
#pragma GCC unroll 16
            for (int p = 0; p < panels; ++p) {
                sums[p][r] = dot(sums[p][r], key[p], query);
            }
        }
    }
#pragma GCC unroll 16
    for (int p = 0; p < panels; ++p) {
        const Vector key_scale = Vector::load(key_scales + p * 16);
#pragma GCC unroll 16
        for (int r = 0; r < rows; ++r) {
            const Vector sum = to_floats(sums[p][r] + Integers::broadcast(biases[r]));
            (sum * key_scale * Vector::broadcast(query_scales[r])).store(scores + r * stride + p * 16);
        }
    }
}

// What the values of a span add: sums[R, vectors · 16] = factors · sums + scales · (weights[R, positions] · values).
struct WeighedSpan {
    const std::int8_t* const* blocks;  // values of each block [block size / 4, padded size, 4]
    std::int64_t block_fours;          // block size / 4
    std::int64_t begin, end;           // positions / 4 within the span
};

template <class Isa, int vectors, int rows>
void integer_value_tile(const WeighedSpan& span, std::int64_t column, std::int64_t padded, const std::int32_t* weights,
                        std::int64_t weight_stride, const float* factors, const float* scales,
                        float* sums) {
    using Vector = typename Isa::Vector;
    using Integers = typename Isa::Integers;
    Integers totals[rows][vectors];
#pragma GCC unroll 16
    for (int r = 0; r < rows; ++r) {
#pragma GCC unroll 16
        for (int v = 0; v < vectors; ++v) {
            totals[r][v] = Integers::broadcast(0);
        }
    }
    for (std::int64_t four = span.begin; four < span.end;) {
        const std::int64_t block = four / span.block_fours;
        const std::int64_t until = std::min(span.end, (block + 1) * span.block_fours);
        const std::int8_t* values = span.blocks[block] + ((four - block * span.block_fours) * padded + column) * 4;
        for (; four < until; ++four, values += padded * 4) {
            typename Isa::SignedFours value[vectors];
#pragma GCC unroll 16
            for (int v = 0; v < vectors; ++v) {
                value[v] = Isa::SignedFours::load(values + v * 64);
            }
#pragma GCC unroll 16
            for (int r = 0; r < rows; ++r) {
                const auto weight =
                    Isa::UnsignedFour::load(weights + r * weight_stride + four * Isa::UnsignedFour::words);
#pragma GCC unroll 16
                for (int v = 0; v < vectors; ++v) {
                    totals[r][v] = dot(totals[r][v], value[v], weight);
                }
            }
        }
    }
#pragma GCC unroll 16
    for (int r = 0; r < rows; ++r) {
        const Vector factor = Vector::broadcast(factors[r]), scale = Vector::broadcast(scales[r]);
#pragma GCC unroll 16
        for (int v = 0; v < vectors; ++v) {
            float* const to = sums + r * padded + column + v * 16;
            fma(to_floats(totals[r][v]), scale, Vector::load(to) * factor).store(to);
        }
    }
}

// The running state of the queries of one task.
template <class Isa>
class IntegerAttention : AttentionQueries {
    using Vector = typename Isa::Vector;
    using Integers = typename Isa::Integers;

public:
    IntegerAttention(const AttentionInputs& inputs, const AttentionTask& task, float* scratch)
        : AttentionQueries(inputs, task), padded_(inputs.cache.padded_size()), block_size_(inputs.cache.block_size),
          span_(span_blocks(inputs.cache) * block_size_), stride_(ceil_divide(span_, 32) * 32), words_(stride_ / 4 * words_per_four),
          sums_(scratch), scores_(sums_ + most_queries * padded_), totals_(scores_ + most_queries * stride_),
          value_scales_(totals_ + most_queries * 16), query_scales_(value_scales_ + stride_),
          largest_(query_scales_ + most_queries), factors_(largest_ + most_queries), scales_(factors_ + most_queries),
          query_biases_(reinterpret_cast<std::int32_t*>(scales_ + most_queries)),
          queries_(query_biases_ + most_queries),
          weights_(queries_ + most_queries * padded_ / 4 * words_per_four) {
        std::fill(sums_, sums_ + count_ * padded_, 0.0f);
        std::fill(totals_, totals_ + count_ * 16, 0.0f);
        std::fill(largest_, largest_ + count_, -__builtin_inff());
        gather_queries();
    }

    void run() {
        const std::int64_t first = first_seen(0), last = position(task_.rows - 1);
        for (std::int64_t start = first / span_ * span_; start <= last; start += span_) {
            add_span(start, std::max<std::int64_t>(first - start, 0), std::min(last - start + 1, span_));
        }
        finish();
    }

private:
    static constexpr std::int64_t words_per_four = Isa::DotInput::words;
    static constexpr std::int64_t tile_rows = Isa::score_rows;

    // Queries in tiles of R as [padded / 4, R].
    void gather_queries() {
        for (std::int64_t start = 0; start < count_; start += tile_rows) {
            const std::int64_t rows = std::min(count_ - start, tile_rows);
            for (std::int64_t q = start; q < start + rows; ++q) {
                gather_query(q, queries_ + (start * padded_ / 4 + q - start) * words_per_four, rows * words_per_four);
            }
        }
    }

    // Writes four numbers of the query every `step` words.
    void gather_query(std::int64_t q, std::int32_t* to, std::int64_t step) {
        float* const numbers = scores_; // there are no scores yet
        copy_padded<Vector>(query(q), in_.cache.size, padded_, numbers);
        const float longer = spread<Vector>(numbers, padded_);
        Integers total = Integers::broadcast(0);
        const float scale = quantise<Vector>(numbers, padded_, [&](std::int64_t d, Integers low, Integers high) {
            std::int32_t words[8 * words_per_four];
            pack_dot_inputs(low, high, words);
            for (std::int64_t four = 0; four < 8; ++four) {
                for (std::int64_t word = 0; word < words_per_four; ++word) {
                    to[(d / 4 + four) * step + word] = words[four * words_per_four + word];
                }
            }
            total = total + low + high;
        });
        query_scales_[q] = scale * (in_.scale / longer);
        query_biases_[q] = -128 * sum(total);
    }

    // The positions begin … end − 1 behind `start`, of which each row sees its own part.
    void add_span(std::int64_t start, std::int64_t begin, std::int64_t end) {
        const std::int32_t* const blocks = table() + start / block_size_;
        const auto* const cached = static_cast<const std::uint8_t*>(in_.cache.data);
        const std::int8_t* values[most_span_blocks];
        for (std::int64_t i = begin / block_size_; i * block_size_ < end; ++i) {
            values[i] = reinterpret_cast<const std::int8_t*>(cached + in_.cache.values(blocks[i], task_.cached_head));
            // Keys come from memory while the block before is scored, values while their own keys are.
            fetch(values[i]);
            if (start + (i + 1) * block_size_ <= position(task_.rows - 1)) {
                fetch(cached + in_.cache.keys(blocks[i + 1], task_.cached_head));
            }
            score_block(cached + in_.cache.keys(blocks[i], task_.cached_head), i * block_size_, begin, end);
            const auto* const scales = reinterpret_cast<const float*>(values[i] + block_size_ * padded_);
            std::copy(scales, scales + block_size_, value_scales_ + i * block_size_);
        }
        for (std::int64_t row = 0; row < task_.rows; ++row) {
            const std::int64_t row_begin = std::max<std::int64_t>(first_seen(row) - start, 0);
            const std::int64_t row_end = std::min(position(row) - start + 1, span_);
            for (std::int64_t q = row * task_.heads; q < (row + 1) * task_.heads; ++q) {
                if (row_begin < row_end) {
                    weigh(q, begin, end, row_begin, row_end);
                } else {
                    weigh_nothing(q);
                }
            }
        }
        add_values({values, block_size_ / 4, begin / 4, ceil_divide(end, 4)});
    }

    // Asks for a head of a block to be in the second-level cache soon.
    void fetch(const void* head) const {
        for (std::int64_t byte = 0; byte < in_.cache.head_numbers(); byte += 64) {
            __builtin_prefetch(static_cast<const char*>(head) + byte, 0, 2);
        }
    }

    // The scores of the block at `offset` in the span, panels of 16 positions between begin and end.
    void score_block(const std::uint8_t* keys, std::int64_t offset, std::int64_t begin, std::int64_t end) {
        const auto* const scales = reinterpret_cast<const float*>(keys + block_size_ * padded_);
        const std::int64_t first = std::max<std::int64_t>(begin - offset, 0) / 16 * 16;
        const std::int64_t last = std::min(end - offset, block_size_);
        for (std::int64_t start = 0; start < count_; start += tile_rows) {
            with_constant<tile_rows>(std::min(count_ - start, tile_rows), [&](auto rows) {
                constexpr int r = decltype(rows)::value;
                constexpr int most = Isa::score_panels(r);
                for (std::int64_t j = first; j < last;) {
                    const auto tile = [&](auto panels) {
                        integer_score_tile<Isa, decltype(panels)::value, r>(
                            keys + j * 4, scales + j, block_size_, queries_ + start * padded_ / 4 * words_per_four,
                            query_scales_ + start, query_biases_ + start, padded_ / 4,
                            scores_ + start * stride_ + offset + j, stride_);
                        j += decltype(panels)::value * 16;
                    };
                    with_constant<most>(std::min<std::int64_t>(ceil_divide(last - j, 16), most), tile);
                }
            });
        }
    }

    // Turns the scores of one query into weights of its values: e^(score − largest) times the value's scale, as whole
    // numbers 0 … 255 and one scale. A new largest score moves the sums so far by a factor.
    void weigh(std::int64_t q, std::int64_t task_begin, std::int64_t task_end, std::int64_t begin, std::int64_t end) {
        float* const scores = scores_ + q * stride_;
        const Vector nothing = Vector::broadcast(-__builtin_inff());
        const std::int64_t first = begin / 16 * 16, last = ceil_divide(end, 16) * 16;
        Vector most = nothing;
        for (std::int64_t j = first; j < last; j += 16) {
            Vector score = Vector::load(scores + j);
            if (in_.softcap) {
                score = soft_capped(score, Vector::broadcast(*in_.softcap));
            }
            if (j < begin || j + 16 > end) {
                score = within(j, begin, end, score, nothing);
            }
            most = max(most, score);
            score.store(scores + j);
        }
        const float before = largest_[q], now = std::max(before, largest(most));
        const Vector reference = Vector::broadcast(now);
        const Vector factor = exp(Vector::broadcast(before) - reference);
        Vector total = Vector::zero();
        Integers most_product = Integers::broadcast(0);
        for (std::int64_t j = first; j < last; j += 16) {
            const Vector weight = exp(Vector::load(scores + j) - reference);
            total = total + weight;
            Vector product = weight * Vector::load(value_scales_ + j);
            if (j < begin || j + 16 > end) {
                product = within(j, begin, end, product, Vector::zero());
            }
            most_product = max(most_product, bits(absolute(product)));
            product.store(scores + j);
        }
        fma(Vector::load(totals_ + q * 16), factor, total).store(totals_ + q * 16);
        largest_[q] = now;
        factors_[q] = first_lane(factor);
        pack_weights(q, task_begin, task_end, first, last, std::bit_cast<float>(largest(most_product)));
    }

    void pack_weights(std::int64_t q, std::int64_t task_begin, std::int64_t task_end, std::int64_t begin,
                      std::int64_t end, float most) {
        const float* const products = scores_ + q * stride_;
        const bool usable = most >= 0x1p-100f && most < __builtin_inff();
        const Vector inverse = Vector::broadcast(usable ? 255.0f / most : 0.0f);
        const auto numbers = [&](std::int64_t j) {
            return usable && begin <= j && j < end ? round_to_integers(Vector::load(products + j) * inverse)
                                                   : Integers::broadcast(0);
        };
        for (std::int64_t j = task_begin / 32 * 32; j < task_end; j += 32) {
            pack_unsigned(numbers(j), numbers(j + 16), weights_ + q * words_ + j / 4 * words_per_four);
        }
        scales_[q] = most / 255.0f;
    }

    void weigh_nothing(std::int64_t q) {
        std::fill(weights_ + q * words_, weights_ + (q + 1) * words_, 0);
        factors_[q] = 1;
        scales_[q] = 0;
    }

    void add_values(const WeighedSpan& span) {
        constexpr std::int64_t most_rows = Isa::value_rows, most_vectors = Isa::value_vectors;
        // A column of values stays in the first-level cache while all queries read it.
        for (std::int64_t column = 0; column < padded_; column += most_vectors * 16) {
            with_constant<most_vectors>(std::min((padded_ - column) / 16, most_vectors), [&](auto vectors) {
                for (std::int64_t start = 0; start < count_; start += most_rows) {
                    with_constant<most_rows>(std::min(count_ - start, most_rows), [&](auto rows) {
                        integer_value_tile<Isa, decltype(vectors)::value, decltype(rows)::value>(
                            span, column, padded_, weights_ + start * words_, words_, factors_ + start,
                            scales_ + start, sums_ + start * padded_);
                    });
                }
            });
        }
    }

    void finish() {
        for (std::int64_t q = 0; q < count_; ++q) {
            float* const to = out(q);
            const Vector total = Vector::broadcast(sum(Vector::load(totals_ + q * 16)));
            for_each_vector(in_.cache.size, [&](std::int64_t start, std::int64_t count) {
                // Adding 0 leaves −0 behind no span rather than some.
                store((Vector::load(sums_ + q * padded_ + start) + Vector::zero()) / total, to + start, count);
            });
        }
    }

    const std::int64_t padded_;          // numbers of a cached head
    const std::int64_t block_size_;
    const std::int64_t span_;            // positions that are weighed together
    const std::int64_t stride_;          // scores of a query
    const std::int64_t words_;           // packed weights of a query
    float* const sums_;                  // [queries, padded]
    float* const scores_;                // [queries, stride]
    float* const totals_;                // [queries, 16]
    float* const value_scales_;          // [stride]
    float* const query_scales_;          // [queries], like the following
    float* const largest_;
    float* const factors_;               // what moves the sums to the span's largest score
    float* const scales_;                // of the weights
    std::int32_t* const query_biases_;
    std::int32_t* const queries_;        // [tiles, padded / 4, R, words]
    std::int32_t* const weights_;        // [queries, stride / 4, words]
};

} // namespace gemlora::simd
