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

// Floats of scratch memory that a task needs.
inline std::int64_t attention_scratch(const Cache& cache) {
    const std::int64_t padded = ceil_divide(cache.size, panel_size) * panel_size;
    return most_queries * (2 * padded + cache.block_size + 2);
}

} // namespace gemlora
