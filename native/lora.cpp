// LoRA for the rows of several adapters at once.
#include "checks.h"
#include "half.h"
#include "kernels.h"

#include <algorithm>

namespace gemlora {
namespace {

// Some rows of one adapter and some of its outputs.
struct Piece {
    LowRankRows rows;
    std::int64_t begin, end;
};

// Long runs and wide outputs are cut so that every thread gets some. A piece of outputs computes A x again, which is
// little beside the outputs.
constexpr std::int64_t most_rows = 16, most_outputs = 32768;

std::vector<Piece> pieces_of(const std::vector<LowRankRows>& changes) {
    std::vector<Piece> pieces;
    for (const LowRankRows& rows : changes) {
        const std::int64_t outputs = rows.change->outputs;
        for (std::int64_t start = 0; start < rows.count; start += most_rows) {
            const LowRankRows some{rows.change, rows.first + start, std::min(most_rows, rows.count - start),
                                   rows.column};
            for (std::int64_t begin = 0; begin < outputs; begin += most_outputs) {
                pieces.push_back({some, begin, std::min(begin + most_outputs, outputs)});
            }
        }
    }
    return pieces;
}

} // namespace

// lower(rows, low_rank) fills low_rank[count, rank] for the rows of one piece.
template <class Function>
void Kernels::raise(const Rows<float>& out, const std::vector<LowRankRows>& changes, Function&& lower) {
    const std::vector<Piece> pieces = pieces_of(changes);
    std::int64_t rank = 0;
    for (const LowRankRows& rows : changes) {
        rank = std::max(rank, rows.change->rank);
    }
    for (Scratch& each : thread_scratch_) {
        each.get<float>(rank * most_rows);
    }
    pool_.run(static_cast<std::int64_t>(pieces.size()), [&](std::int64_t index, int thread) {
        const auto& [rows, begin, end] = pieces[static_cast<std::size_t>(index)];
        float* const low_rank = thread_scratch(thread).get<float>(rank * most_rows);
        lower(rows, low_rank);
        table_.raise(*rows.change, low_rank,
                     {out.row(rows.first) + rows.column, rows.count, rows.change->outputs, out.stride}, begin, end);
    });
}

void Kernels::adapt(const Rows<const float>& x, const Rows<float>& out, const std::vector<LowRankRows>& changes) {
    const std::lock_guard lock(mutex_);
    raise(out, changes, [&](const LowRankRows& rows, float* low_rank) {
        table_.lower(*rows.change, {x.row(rows.first), rows.count, x.columns, x.stride}, low_rank);
    });
}

void Kernels::adapt_embedding(Span<std::int32_t> tokens, float scale, const Rows<float>& out,
                              const std::vector<LowRankRows>& changes) {
    const std::lock_guard lock(mutex_);
    for (const LowRankRows& rows : changes) {
        require_below(Span<std::int32_t>{tokens.data + rows.first, rows.count}, rows.change->inputs, "tokens");
    }
    raise(out, changes, [&](const LowRankRows& rows, float* low_rank) {
        const LowRank& change = *rows.change;
        const float factor = change.scale * scale;
        for (std::int64_t row = 0; row < rows.count; ++row) {
            const std::int64_t token = tokens[rows.first + row];
            for (std::int64_t i = 0; i < change.rank; ++i) {
                low_rank[row * change.rank + i] = factor * number_at(change.a, token * change.rank + i);
            }
        }
    });
}

} // namespace gemlora
