// The paged cache and attention: which rows go together, and which heads to which thread.
#include "attention.h"
#include "checks.h"
#include "kernels.h"

#include <algorithm>

namespace gemlora {
namespace {

void check_paging(const Paging& paging, const Cache& cache) {
    require_below(paging.sequence_of_row, paging.tables.rows, "sequence_of_row");
    require_below(paging.positions, paging.tables.columns * cache.block_size, "positions");
}

std::int64_t block_of(const Paging& paging, const Cache& cache, std::int64_t row) {
    const std::int64_t block =
        paging.tables.row(paging.sequence_of_row[row])[paging.positions[row] / cache.block_size];
    require(block >= 0 && block < cache.blocks, "block_tables names a block that the cache does not have");
    return block;
}

// Rows first … first + count − 1 are consecutive positions of one sequence.
struct Run {
    std::int64_t first, count;
};

std::vector<Run> consecutive_rows(const Paging& paging, std::int64_t most) {
    std::vector<Run> runs;
    for (std::int64_t row = 0; row < paging.positions.size; ++row) {
        const bool continues = row > 0 && runs.back().count < most &&
                               paging.sequence_of_row[row] == paging.sequence_of_row[row - 1] &&
                               paging.positions[row] == std::int64_t{paging.positions[row - 1]} + 1;
        if (continues) {
            ++runs.back().count;
        } else {
            runs.push_back({row, 1});
        }
    }
    return runs;
}

void check_blocks(const AttentionInputs& in, const Run& run) {
    const std::int64_t size = in.cache.block_size;
    const std::int64_t first = std::max<std::int64_t>(0, in.paging.positions[run.first] - in.window + 1) / size;
    const std::int64_t last = in.paging.positions[run.first + run.count - 1] / size;
    const std::int32_t* const blocks = in.paging.tables.row(in.paging.sequence_of_row[run.first]);
    const bool known = std::all_of(blocks + first, blocks + last + 1,
                                   [&](std::int32_t block) { return block >= 0 && block < in.cache.blocks; });
    require(known, "block_tables names a block that the cache does not have");
}

} // namespace

void Kernels::store_kv(const Heads<const float>& keys, const Heads<const float>& values, const Cache& cache,
                       const Paging& paging) {
    const std::lock_guard lock(mutex_);
    check_paging(paging, cache);
    for (std::int64_t row = 0; row < keys.rows; ++row) {
        block_of(paging, cache, row);
    }
    for_rows(keys.rows, 4 * keys.heads * keys.size, [&](std::int64_t row) {
        const std::int64_t block = block_of(paging, cache, row), place = paging.positions[row] % cache.block_size;
        for (std::int64_t head = 0; head < keys.heads; ++head) {
            table_.store_key(keys.at(row, head), cache, block, head, place);
            table_.store_value(values.at(row, head), cache, block, head, place);
        }
    });
}

void Kernels::attend(const AttentionInputs& inputs) {
    const std::lock_guard lock(mutex_);
    check_paging(inputs.paging, inputs.cache);
    const std::int64_t group = inputs.queries.heads / inputs.cache.heads;
    const std::int64_t heads_together = std::min(group, most_queries);
    const std::vector<Run> runs = consecutive_rows(inputs.paging, most_queries / heads_together);
    for (const Run& run : runs) {
        check_blocks(inputs, run);
    }
    // A few rows leave threads idle unless their heads are split.
    const std::int64_t tasks = static_cast<std::int64_t>(runs.size()) * inputs.cache.heads;
    const std::int64_t parts = tasks < 2 * pool_.size() ? std::min<std::int64_t>(heads_together, pool_.size()) : 1;
    const std::int64_t heads = ceil_divide(heads_together, parts), splits = ceil_divide(group, heads);
    const std::int64_t scratch = attention_scratch(inputs.cache, table_.integer_words);
    for (Scratch& each : thread_scratch_) {
        each.get<float>(scratch);
    }
    pool_.run(tasks * splits, [&](std::int64_t task, int thread) {
        const Run& run = runs[static_cast<std::size_t>(task / (inputs.cache.heads * splits))];
        const std::int64_t cached_head = task / splits % inputs.cache.heads, first = task % splits * heads;
        const AttentionTask mine{run.first, run.count, cached_head, cached_head * group + first,
                                 std::min(heads, group - first)};
        table_.attend(inputs, mine, thread_scratch(thread).get<float>(scratch));
    });
}

} // namespace gemlora
