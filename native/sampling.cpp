// The sampler: penalties, mask, temperature, top-k, top-p and the draw, as docs/sampling.md defines them. Weights are
// whole numbers of 2^-40, so that their sums are exact and no order of summation shows in the result.
#include "checks.h"
#include "kernels.h"
#include "philox.h"
#include "weight.h"

#include <algorithm>
#include <bit>
#include <cmath>

namespace gemlora {
namespace {

struct Candidate {
    float number; // logit or likelihood
    std::int64_t index;
};

bool ranks_before(const Candidate& a, const Candidate& b) {
    return a.number > b.number || (a.number == b.number && a.index < b.index);
}

std::vector<float> numbers_of(const std::vector<Candidate>& candidates) {
    std::vector<float> numbers(candidates.size());
    std::ranges::transform(candidates, numbers.begin(), &Candidate::number);
    return numbers;
}

// All numbers of at least `floor`, in the order of their indices.
std::vector<Candidate> at_least(const KernelTable& table, const float* numbers, std::int64_t size, float floor) {
    std::vector<Candidate> found;
    for (std::int64_t i = table.next_at_least(numbers, 0, size, floor); i < size;
         i = table.next_at_least(numbers, i + 1, size, floor)) {
        found.push_back({numbers[i], i});
    }
    return found;
}

// The k largest, in the order of their indices.
std::vector<Candidate> largest_k(const KernelTable& table, const float* logits, std::int64_t size, std::int64_t k) {
    std::vector<Candidate> heap; // the one that ranks last is in front
    heap.reserve(static_cast<std::size_t>(k));
    for (std::int64_t i = 0; i < k; ++i) {
        heap.push_back({logits[i], i});
    }
    std::ranges::make_heap(heap, ranks_before);
    for (std::int64_t i = table.next_at_least(logits, k, size, heap.front().number); i < size;
         i = table.next_at_least(logits, i + 1, size, heap.front().number)) {
        if (logits[i] > heap.front().number) {
            std::ranges::pop_heap(heap, ranks_before);
            heap.back() = {logits[i], i};
            std::ranges::push_heap(heap, ranks_before);
        }
    }
    std::ranges::sort(heap, {}, &Candidate::index);
    return heap;
}

std::uint64_t sum_weights(std::vector<Candidate>::const_iterator begin, std::vector<Candidate>::const_iterator end) {
    std::uint64_t sum = 0;
    for (; begin != end; ++begin) {
        sum += whole_weight(begin->number);
    }
    return sum;
}

// The last candidate of the shortest run from the top that has `needed` weight, and the weight of that run. Each
// round keeps the half in which that candidate is.
Candidate last_of_nucleus(std::vector<Candidate> candidates, std::uint64_t needed, std::uint64_t& weight) {
    auto begin = candidates.begin(), end = candidates.end();
    weight = 0;
    while (end - begin > 1) {
        const auto middle = begin + (end - begin) / 2;
        std::ranges::nth_element(begin, middle, end, ranks_before);
        const std::uint64_t upper = sum_weights(begin, middle);
        if (weight + upper >= needed) {
            end = middle;
        } else {
            weight += upper;
            begin = middle;
        }
    }
    weight += whole_weight(begin->number);
    return *begin;
}

// The upper half of a · b.
std::uint64_t multiply_high(std::uint64_t a, std::uint64_t b) {
    const std::uint64_t low_mask = 0xFFFFFFFF;
    const std::uint64_t low = (a & low_mask) * (b & low_mask);
    const std::uint64_t cross = (a >> 32) * (b & low_mask) + (low >> 32);
    const std::uint64_t other = (a & low_mask) * (b >> 32) + (cross & low_mask);
    return (a >> 32) * (b >> 32) + (cross >> 32) + (other >> 32);
}

// Likelihoods with the sums of their weights by block, to find a running sum without going through all.
class Weights {
public:
    Weights(const KernelTable& table, const float* likelihoods, std::int64_t size)
        : table_(table), likelihoods_(likelihoods), size_(size) {
        for (std::int64_t start = 0; start < size; start += block) {
            sums_.push_back(table.sum_weights(likelihoods + start, std::min(block, size - start)));
            total_ += sums_.back();
        }
    }

    // The first index at which the running sum exceeds u · total / 2^64.
    std::int64_t draw(std::uint64_t u) const {
        std::uint64_t left = multiply_high(u, total_);
        std::size_t skipped = 0;
        while (left >= sums_[skipped]) {
            left -= sums_[skipped++];
        }
        std::int64_t i = static_cast<std::int64_t>(skipped) * block;
        for (; left >= whole_weight(likelihoods_[i]); ++i) {
            left -= whole_weight(likelihoods_[i]);
        }
        return i;
    }

    // The same among the shortest run of most likely tokens with `top_p` of the weight.
    std::int64_t draw_nucleus(std::uint64_t u, float top_p) const {
        const double share = std::ceil(static_cast<double>(top_p) * static_cast<double>(total_));
        const std::uint64_t needed = std::clamp<std::uint64_t>(static_cast<std::uint64_t>(share), 1, total_);
        // Mostly a few likely tokens are enough; those that are left out rank behind all that are found.
        std::vector<Candidate> candidates;
        for (const float floor : {0x1p-8f, 0x1p-14f, 0x1p-20f, 0x1p-40f}) {
            candidates = at_least(table_, likelihoods_, size_, floor);
            if (sum_weights(candidates.begin(), candidates.end()) >= needed) {
                break;
            }
        }
        std::uint64_t weight = 0;
        const Candidate last = last_of_nucleus(candidates, needed, weight);
        std::uint64_t left = multiply_high(u, weight);
        for (const Candidate& candidate : candidates) {
            if (ranks_before(last, candidate)) {
                continue;
            }
            if (left < whole_weight(candidate.number)) {
                return candidate.index;
            }
            left -= whole_weight(candidate.number);
        }
        return last.index; // not reached: the weights sum to more than any target
    }

private:
    static constexpr std::int64_t block = 4096;

    const KernelTable& table_;
    const float* const likelihoods_;
    const std::int64_t size_;
    std::vector<std::uint64_t> sums_;
    std::uint64_t total_ = 0;
};

// Which tokens of a row may be drawn.
class Mask {
public:
    Mask(const std::uint32_t* words, std::int64_t size) : words_(words), size_(size) {}

    std::int64_t count() const {
        std::int64_t sum = 0;
        for (std::int64_t word = 0; word * bits < size_; ++word) {
            sum += std::popcount(allowed(word));
        }
        return sum;
    }

    // The logits that may be drawn, in the order of their indices.
    std::vector<Candidate> gather(const float* logits, std::int64_t count) const {
        std::vector<Candidate> found;
        found.reserve(static_cast<std::size_t>(count));
        for (std::int64_t word = 0; word * bits < size_; ++word) {
            for (std::uint32_t left = allowed(word); left != 0; left &= left - 1) {
                const std::int64_t index = word * bits + std::countr_zero(left);
                found.push_back({logits[index], index});
            }
        }
        return found;
    }

    // Give the others the logit −∞.
    void hide(float* logits) const {
        for (std::int64_t word = 0; word * bits < size_; ++word) {
            for (std::uint32_t left = inside(word) & ~words_[word]; left != 0; left &= left - 1) {
                logits[word * bits + std::countr_zero(left)] = -__builtin_inff();
            }
        }
    }

private:
    static constexpr std::int64_t bits = 32;

    // The bits of a word that stand for tokens: in the last one perhaps not all.
    std::uint32_t inside(std::int64_t word) const {
        const std::int64_t left = size_ - word * bits;
        return left >= bits ? ~std::uint32_t{0} : (std::uint32_t{1} << left) - 1;
    }

    std::uint32_t allowed(std::int64_t word) const { return words_[word] & inside(word); }

    const std::uint32_t* const words_;
    const std::int64_t size_;
};

class RowSampler {
public:
    RowSampler(const KernelTable& table, const Sampling& sampling, std::int64_t row)
        : table_(table), in_(sampling), row_(row) {}

    // The token, or −1 if a logit is NaN or +inf, or all are −inf. Those of tokens that are masked count as −inf.
    std::int32_t run(float* logits, std::int64_t size) const {
        penalise(logits);
        const std::uint32_t* const words = mask_words();
        if (words == nullptr) {
            return draw(logits, size);
        }
        const Mask mask(words, size);
        const std::int64_t count = mask.count();
        if (count > size / few) {
            mask.hide(logits);
            return draw(logits, size);
        }
        const std::vector<Candidate> candidates = mask.gather(logits, count);
        std::vector<float> numbers = numbers_of(candidates);
        const std::int32_t chosen = draw(numbers.data(), count);
        return chosen < 0 ? chosen : static_cast<std::int32_t>(candidates[static_cast<std::size_t>(chosen)].index);
    }

private:
    static constexpr std::int64_t few = 8; // one in so many tokens: so few are better drawn from by themselves

    const std::uint32_t* mask_words() const {
        for (std::int64_t i = 0; i < in_.mask_rows.size; ++i) {
            if (in_.mask_rows[i] == row_) {
                return in_.masks.row(i);
            }
        }
        return nullptr;
    }

    std::int32_t draw(float* logits, std::int64_t size) const {
        const auto [most, near] = largest(logits, size);
        if (!std::isfinite(most)) {
            return -1;
        }
        if (in_.temperature[row_] == 0) {
            return static_cast<std::int32_t>(table_.next_at_least(logits, near, size, most));
        }
        const std::int64_t k = in_.top_k[row_];
        if (k == 0 || k >= size) {
            return static_cast<std::int32_t>(choose(logits, size, most));
        }
        const std::vector<Candidate> candidates = largest_k(table_, logits, size, k);
        std::vector<float> numbers = numbers_of(candidates);
        const std::int64_t chosen = choose(numbers.data(), k, most);
        return static_cast<std::int32_t>(candidates[static_cast<std::size_t>(chosen)].index);
    }

    // The largest logit, or NaN if any is, and an index from which on it is the first one: a second search need not go
    // through all again.
    Candidate largest(const float* logits, std::int64_t size) const {
        constexpr std::int64_t block = 4096;
        Candidate found{-__builtin_inff(), 0};
        for (std::int64_t start = 0; start < size && !std::isnan(found.number); start += block) {
            const float most = table_.largest_logit(logits + start, std::min(block, size - start));
            if (!(most <= found.number)) {
                found = {most, start};
            }
        }
        return found;
    }

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
        const Weights weights(table_, logits, size);
        const std::uint64_t u = random_bits(in_.seed[row_], in_.index[row_]);
        const float top_p = in_.top_p[row_];
        return top_p < 1 ? weights.draw_nucleus(u, top_p) : weights.draw(u);
    }

    const KernelTable& table_;
    const Sampling& in_;
    const std::int64_t row_;
};

void check(const Sampling& sampling, std::int64_t rows, std::int64_t vocabulary) {
    // More could sum to more than 2^64.
    require(vocabulary > 0 && vocabulary < std::int64_t{1} << 24, "logits must have between 1 and 2^24 - 1 columns");
    require(sampling.history_counts.size == sampling.history_tokens.size,
            "history_tokens and history_counts must be equally long");
    require_below(sampling.history_tokens, vocabulary, "history_tokens");
    require(sampling.masks.rows == sampling.mask_rows.size, "masks and mask_rows must be equally long");
    require(sampling.masks.rows == 0 || sampling.masks.columns == ceil_divide(vocabulary, 32),
            "masks must have a bit for each token, in words of 32");
    require_below(sampling.mask_rows, rows, "mask_rows");
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
