// Heads as the bytes of the cache and of the queries that meet them.
#pragma once

#include "../views.h"
#include "functions.h"
#include "hadamard.h"

#include <bit>

namespace gemlora::simd {

// numbers[size] as whole numbers −127 … 127 times the scale that it returns: store(d, low, high) gets those from d on,
// twice 16. Compared as integers, a NaN is the largest and reaches the scale, and with it the outputs.
template <class Vector, class Store>
float quantise(const float* numbers, std::int64_t size, Store&& store) {
    using Integers = typename Vector::Integers;
    Integers most = Integers::broadcast(0);
    for (std::int64_t d = 0; d < size; d += 16) {
        most = max(most, bits(absolute(Vector::load(numbers + d))));
    }
    const float length = std::bit_cast<float>(largest(most));
    const float factor = quantiser(length);
    const auto whole = [&](std::int64_t d) {
        return factor == 0.0f ? Integers::broadcast(0)
                              : round_to_integers(Vector::load(numbers + d) * Vector::broadcast(factor));
    };
    for (std::int64_t d = 0; d < size; d += 32) {
        store(d, whole(d), whole(d + 16));
    }
    return length / largest_whole;
}

// numbers[size] with zeros up to `padded`.
template <class Vector>
void copy_padded(const float* numbers, std::int64_t size, std::int64_t padded, float* to) {
    for (std::int64_t d = 0; d < padded; d += 16) {
        const std::int64_t left = size - d;
        const Vector x = left >= 16 ? Vector::load(numbers + d)
                         : left > 0 ? Vector::load(numbers + d, left)
                                    : Vector::zero();
        x.store(to + d);
    }
}

// Writes numbers[padded] as whole numbers plus `bias` to bytes d / 4 · four_step + d % 4 · step; returns their scale.
template <class Vector>
float store_integers(const float* numbers, std::int64_t padded, std::int32_t bias, std::uint8_t* to,
                     std::int64_t four_step, std::int64_t step) {
    using Integers = typename Vector::Integers;
    return quantise<Vector>(numbers, padded, [&](std::int64_t start, Integers low, Integers high) {
        std::uint8_t bytes[32];
        store_bytes(low + Integers::broadcast(bias), bytes);
        store_bytes(high + Integers::broadcast(bias), bytes + 16);
        for (std::int64_t four = 0; four < 8; ++four) {
            std::uint8_t* const place = to + (start / 4 + four) * four_step;
            for (std::int64_t i = 0; i < 4; ++i) {
                place[i * step] = bytes[four * 4 + i];
            }
        }
    });
}

} // namespace gemlora::simd
