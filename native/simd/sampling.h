// The passes over a whole row of logits; sampling.cpp has the rest of the sampler.
#pragma once

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

// The first index of `number`, or `size`.
template <class Isa>
std::int64_t index_of(const float* logits, std::int64_t size, float number) {
    for (std::int64_t start = 0; start < size; start += 16) {
        const std::int64_t end = start + 16 < size ? start + 16 : size;
        bool found = false;
        for (std::int64_t i = start; i < end; ++i) {
            found |= logits[i] == number;
        }
        for (std::int64_t i = start; found && i < end; ++i) {
            if (logits[i] == number) {
                return i;
            }
        }
    }
    return size;
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

} // namespace gemlora::simd
