// The sampler: penalties, temperature, top-k, top-p and the draw, as docs/sampling.md defines them. Weights are whole
// numbers of 2^-40, so that their sums are exact and no order of summation shows in the result.
#include "checks.h"
#include "kernels.h"
#include "philox.h"

#include <algorithm>
#include <bit>
#include <cmath>

namespace gemlora {
namespace {

std::uint64_t whole(float likelihood) { return static_cast<std::uint64_t>(static_cast<std::int64_t>(likelihood * 0x1p40f)); }

struct Candidate {
    float number; // logit or likelihood
    std::int64_t index;
};

bool ranks_before(const Candidate& a, const Candidate& b) {
    return a.number > b.number || (a.number == b.number && a.index < b.index);
}

// The k largest, in the order of their indices.
std::vector<Candidate> largest_k(const float* logits, std::int64_t size, std::int64_t k) {
    std::vector<Candidate> heap; // the one that ranks last is in front
    heap.reserve(static_cast<std::size_t>(k));
    for (std::int64_t i = 0; i < k; ++i) {
        heap.push_back({logits[i], i});
    }
    std::ranges::make_heap(heap, ranks_before);
    for (std::int64_t i = k; i < size; ++i) {
        if (logits[i] > heap.front().number) {
            std::ranges::pop_heap(heap, ranks_before);
            heap.back() = {logits[i], i};
            std::ranges::push_heap(heap, ranks_before);
        }
    }
    std::ranges::sort(heap, {}, &Candidate::index);
    return heap;
}

// Likelihoods that rank with or before the last one kept, and the sum of their weights.
struct Kept {
    Candidate last{-1, 0};
    std::uint64_t weight = 0;

    bool has(float likelihood, std::int64_t index) const { return !ranks_before(last, {likelihood, index}); }
};

Kept keep_all(const float* likelihoods, std::int64_t size) {
    Kept kept;
    for (std::int64_t i = 0; i < size; ++i) {
        kept.weight += whole(likelihoods[i]);
    }
    return kept;
}

// The shortest run of most likely tokens with `top_p` of the weight. Only the tokens of one bucket are sorted: the one
// in which the sum, from the most likely bucket down, reaches what is needed.
Kept keep_nucleus(const float* likelihoods, std::int64_t size, float top_p) {
    constexpr int shift = 19; // leaves the exponent and four bits of the mantissa
    const auto bucket_of = [](float likelihood) { return std::bit_cast<std::uint32_t>(likelihood) >> shift; };
    std::vector<std::uint64_t> buckets((std::bit_cast<std::uint32_t>(1.0f) >> shift) + 2);
    std::uint64_t total = 0;
    for (std::int64_t i = 0; i < size; ++i) {
        const std::uint64_t weight = whole(likelihoods[i]);
        buckets[bucket_of(likelihoods[i])] += weight;
        total += weight;
    }
    const double share = std::ceil(static_cast<double>(top_p) * static_cast<double>(total));
    const std::uint64_t needed = std::clamp<std::uint64_t>(static_cast<std::uint64_t>(share), 1, total);
    std::size_t bucket = buckets.size() - 1;
    std::uint64_t sum = 0;
    while (sum + buckets[bucket] < needed) {
        sum += buckets[bucket--];
    }
    std::vector<Candidate> edge;
    for (std::int64_t i = 0; i < size; ++i) {
        if (bucket_of(likelihoods[i]) == bucket) {
            edge.push_back({likelihoods[i], i});
        }
    }
    std::ranges::sort(edge, ranks_before);
    auto last = edge.begin();
    for (sum += whole(last->number); sum < needed; sum += whole(last->number)) {
        ++last;
    }
    return {*last, sum};
}

// The upper half of a · b.
std::uint64_t multiply_high(std::uint64_t a, std::uint64_t b) {
    const std::uint64_t low_mask = 0xFFFFFFFF;
    const std::uint64_t low = (a & low_mask) * (b & low_mask);
    const std::uint64_t cross = (a >> 32) * (b & low_mask) + (low >> 32);
    const std::uint64_t other = (a & low_mask) * (b >> 32) + (cross & low_mask);
    return (a >> 32) * (b >> 32) + (cross >> 32) + (other >> 32);
}

std::int64_t draw(const float* likelihoods, std::int64_t size, const Kept& kept, std::uint64_t random) {
    const std::uint64_t target = multiply_high(random, kept.weight);
    std::uint64_t sum = 0;
    for (std::int64_t i = 0; i < size; ++i) {
        if (kept.has(likelihoods[i], i)) {
            sum += whole(likelihoods[i]);
            if (sum > target) {
                return i;
            }
        }
    }
    return size - 1; // not reached: the sums of all kept weights is above any target
}

class RowSampler {
public:
    RowSampler(const KernelTable& table, const Sampling& sampling, std::int64_t row)
        : table_(table), in_(sampling), row_(row) {}

    // The token, or −1 if a logit is NaN or +inf, or all are −inf.
    std::int32_t run(float* logits, std::int64_t size) const {
        penalise(logits);
        const float most = table_.largest_logit(logits, size);
        if (!std::isfinite(most)) {
            return -1;
        }
        if (in_.temperature[row_] == 0) {
            return static_cast<std::int32_t>(table_.index_of(logits, size, most));
        }
        const std::int64_t k = in_.top_k[row_];
        if (k == 0 || k >= size) {
            return static_cast<std::int32_t>(choose(logits, size, most));
        }
        const std::vector<Candidate> candidates = largest_k(logits, size, k);
        std::vector<float> numbers;
        std::ranges::transform(candidates, std::back_inserter(numbers), &Candidate::number);
        const std::int64_t chosen = choose(numbers.data(), k, most);
        return static_cast<std::int32_t>(candidates[static_cast<std::size_t>(chosen)].index);
    }

private:
    void penalise(float* logits) const {
        const float repetition = in_.repetition_penalty[row_];
        for (std::int64_t i = row_ > 0 ? in_.history_ends[row_ - 1] : 0; i < in_.history_ends[row_]; ++i) {
            float& logit = logits[in_.history_tokens[i]];
            const std::int32_t count = in_.history_counts[i];
            if (repetition != 0 && repetition != 1) {
                logit = logit > 0 ? logit / repetition : logit * repetition;
            }
            logit -= in_.frequency_penalty[row_] * static_cast<float>(count);
            logit -= count > 0 ? in_.presence_penalty[row_] : 0.0f;
        }
    }

    std::int64_t choose(float* logits, std::int64_t size, float most) const {
        table_.likelihoods(logits, size, most, in_.temperature[row_]);
        const float top_p = in_.top_p[row_];
        const Kept kept = top_p < 1 ? keep_nucleus(logits, size, top_p) : keep_all(logits, size);
        return draw(logits, size, kept, random_bits(in_.seed[row_], in_.index[row_]));
    }

    const KernelTable& table_;
    const Sampling& in_;
    const std::int64_t row_;
};

void check(const Sampling& sampling, std::int64_t rows, std::int64_t vocabulary) {
    require(vocabulary > 0, "logits must have at least one column");
    require(sampling.history_counts.size == sampling.history_tokens.size,
            "history_tokens and history_counts must be equally long");
    require_below(sampling.history_tokens, vocabulary, "history_tokens");
    std::int64_t start = 0;
    for (std::int64_t row = 0; row < rows; ++row) {
        const float temperature = sampling.temperature[row];
        require(temperature >= 0 && std::isfinite(temperature), "temperature must be finite and at least 0");
        require(sampling.top_p[row] >= 0, "top_p must be at least 0");
        require(sampling.top_k[row] >= 0, "top_k must be at least 0");
        const std::int64_t end = sampling.history_ends[row];
        require(end >= start && end <= sampling.history_tokens.size,
                "history_ends must grow and stay within history_tokens");
        start = end;
    }
}

} // namespace

void Kernels::sample(const Rows<float>& logits, const Sampling& sampling, std::int32_t* tokens) {
    const std::lock_guard lock(mutex_);
    check(sampling, logits.rows, logits.columns);
    pool_.run(logits.rows, [&](std::int64_t row, int) {
        tokens[row] = RowSampler(table_, sampling, row).run(logits.row(row), logits.columns);
    });
}

} // namespace gemlora
