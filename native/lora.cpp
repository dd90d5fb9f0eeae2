// LoRA for the rows of several adapters at once.
#include "kernels.h"

#include <algorithm>

namespace gemlora {

void Kernels::adapt(const Rows<const float>& x, const Rows<float>& out, const std::vector<LowRankRows>& changes) {
    const std::lock_guard lock(mutex_);
    // Long runs are cut so that every thread gets some rows.
    constexpr std::int64_t most = 16;
    std::vector<LowRankRows> tasks;
    std::int64_t rank = 0;
    for (const LowRankRows& rows : changes) {
        rank = std::max(rank, rows.change->rank);
        for (std::int64_t start = 0; start < rows.count; start += most) {
            tasks.push_back({rows.change, rows.first + start, std::min(most, rows.count - start)});
        }
    }
    const std::int64_t scratch = rank * table_.lora_rows;
    for (Scratch& each : thread_scratch_) {
        each.get<float>(scratch);
    }
    pool_.run(static_cast<std::int64_t>(tasks.size()), [&](std::int64_t task, int thread) {
        const LowRankRows& rows = tasks[static_cast<std::size_t>(task)];
        table_.adapt(*rows.change, {x.row(rows.first), rows.count, x.columns, x.stride},
                     {out.row(rows.first), rows.count, out.columns, out.stride},
                     thread_scratch(thread).get<float>(scratch));
    });
}

} // namespace gemlora
