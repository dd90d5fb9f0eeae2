// Which part of the attention one task computes.
#pragma once

#include "views.h"

#include <optional>

namespace gemlora {

struct AttentionInputs {
    Heads<const float> queries;
    Cache cache;
    Paging paging;
    float scale;
    std::int64_t window;          // positions that a row may see
    std::optional<float> softcap;
    Heads<float> out;
};

// Consecutive positions of one sequence in rows first … first + rows − 1, and some query heads of one cached head.
struct AttentionTask {
    std::int64_t first, rows;
    std::int64_t cached_head, head, heads;
};

// Most rows × query heads of a task.
constexpr std::int64_t most_queries = 32;

// Whole numbers are weighed over the blocks of about this many positions at once.
constexpr std::int64_t span_positions = 128;
constexpr std::int64_t most_span_blocks = span_positions / 16;

inline std::int64_t span_blocks(const Cache& cache) {
    return cache.block_size < span_positions ? span_positions / cache.block_size : 1;
}

// Floats (or 32-bit whole numbers) of scratch memory that a task needs, with `words` per four whole numbers.
inline std::int64_t attention_scratch(const Cache& cache, std::int64_t words) {
    const std::int64_t padded = cache.padded_size();
    const std::int64_t positions = cache.block_size * (cache.integers ? span_blocks(cache) : 1);
    const std::int64_t stride = ceil_divide(positions, 32) * 32;
    const std::int64_t per_query = cache.integers ? padded + stride + 16 + 6 + (padded + stride) / 4 * words
                                                  : 2 * padded + stride + 2;
    return most_queries * per_query + stride;
}

} // namespace gemlora
