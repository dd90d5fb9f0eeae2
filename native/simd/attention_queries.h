// The queries of one task of attention, and what each sees.
#pragma once

#include "../attention.h"
#include "functions.h"

namespace gemlora::simd {

// Query q is head q % heads of row q / heads.
class AttentionQueries {
protected:
    AttentionQueries(const AttentionInputs& inputs, const AttentionTask& task)
        : in_(inputs), task_(task), count_(task.rows * task.heads) {}

    const float* query(std::int64_t q) const {
        return in_.queries.at(task_.first + q / task_.heads, task_.head + q % task_.heads);
    }
    float* out(std::int64_t q) const {
        return in_.out.at(task_.first + q / task_.heads, task_.head + q % task_.heads);
    }
    // The blocks of the task's sequence.
    const std::int32_t* table() const { return in_.paging.tables.row(in_.paging.sequence_of_row[task_.first]); }

    // A row sees the positions from `first_seen` to its own.
    std::int64_t position(std::int64_t row) const { return in_.paging.positions[task_.first + row]; }
    std::int64_t first_seen(std::int64_t row) const {
        const std::int64_t first = position(row) - in_.window + 1;
        return first > 0 ? first : 0;
    }

    const AttentionInputs& in_;
    const AttentionTask task_;
    const std::int64_t count_;
};

// `inside` in the lanes of numbers begin … end − 1, of which the first lane has number `first`.
template <class Vector>
Vector within(std::int64_t first, std::int64_t begin, std::int64_t end, Vector inside, Vector outside) {
    const Vector lanes = Vector::lane_numbers();
    const Vector lower = Vector::broadcast(static_cast<float>(begin - first) - 0.5f);
    const Vector upper = Vector::broadcast(static_cast<float>(end - first) - 0.5f);
    return select(less(lower, lanes), select(less(lanes, upper), inside, outside), outside);
}

template <class Vector>
float first_lane(Vector a) {
    float lanes[16];
    a.store(lanes);
    return lanes[0];
}

} // namespace gemlora::simd
