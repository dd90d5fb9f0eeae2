// The passes over a whole row of logits; sampling.cpp has the rest of the sampler.
#pragma once

#include "../weight.h"
#include "functions.h"

namespace gemlora::simd {

// The largest logit, or NaN if any is NaN.
template <class Isa>
float largest_logit(const float* logits, std::int64_t size) {
    using Vector = typename Isa::Vector;
    const Vector nothing = Vector::broadcast(-__builtin_inff());
    Vector most = nothing, unordered = Vector::zero();
    for_each_vector(size, [&](std::int64_t start, std::int64_t count) {
        Vector x = load<Vector>(logits + start, count);
        if (count < 16) {
            x = select(less(Vector::lane_numbers(), Vector::broadcast(static_cast<float>(count))), x, nothing);
        }
        most = max(x, most);
        // x < inf is false for a NaN and for +inf: neither can be drawn.
        unordered = select(less(x, Vector::broadcast(__builtin_inff())), unordered, Vector::broadcast(1.0f));
    });
    return largest(unordered) > 0 ? __builtin_nanf("") : largest(most);
}

// The first index from `start` on whose number is at least `floor`, or `size`.
template <class Isa>
std::int64_t next_at_least(const float* numbers, std::int64_t start, std::int64_t size, float floor) {
    using Vector = typename Isa::Vector;
    const Vector limit = Vector::broadcast(floor);
    std::int64_t i = start;
    while (i + 16 <= size && all_less(Vector::load(numbers + i), limit)) {
        i += 16;
    }
    while (i < size && !(numbers[i] >= floor)) {
        ++i;
    }
    return i;
}

// logits = e^((logit − most) / temperature)
template <class Isa>
void likelihoods(float* logits, std::int64_t size, float most, float temperature) {
    using Vector = typename Isa::Vector;
    for_each_vector(size, [&](std::int64_t start, std::int64_t count) {
        const Vector x = load<Vector>(static_cast<const float*>(logits + start), count);
        store(exp((x - Vector::broadcast(most)) / Vector::broadcast(temperature)), logits + start, count);
    });
}

// The sum of the likelihoods as whole numbers of 2^-40.
template <class Isa>
std::uint64_t sum_weights(const float* likelihoods, std::int64_t size) {
    std::uint64_t sum = 0;
    for (std::int64_t i = 0; i < size; ++i) {
        sum += whole_weight(likelihoods[i]);
    }
    return sum;
}

} // namespace gemlora::simd
