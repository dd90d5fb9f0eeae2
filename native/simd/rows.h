// Kernels that change each row by itself: norm, rotary embedding, sum, gate and soft-cap.
#pragma once

#include "functions.h"

namespace gemlora::simd {

// Four sums over the vectors i mod 4, added pairwise at the end.
template <class Isa>
float sum_of_squares(const float* numbers, std::int64_t size) {
    using Vector = typename Isa::Vector;
    Vector sums[4] = {Vector::zero(), Vector::zero(), Vector::zero(), Vector::zero()};
    std::int64_t start = 0;
    for (; start + 64 <= size; start += 64) {
        for (int i = 0; i < 4; ++i) {
            const Vector x = Vector::load(numbers + start + i * 16);
            sums[i] = fma(x, x, sums[i]);
        }
    }
    for (int i = 0; start < size; ++i, start += 16) {
        const Vector x = load<Vector>(numbers + start, size - start < 16 ? size - start : 16);
        sums[i] = fma(x, x, sums[i]);
    }
    return sum((sums[0] + sums[1]) + (sums[2] + sums[3]));
}

template <class Isa>
void rms_norm_row(const float* x, const float* weight, std::int64_t size, float epsilon, float* out) {
    using Vector = typename Isa::Vector;
    const float mean = sum_of_squares<Isa>(x, size) / static_cast<float>(size);
    const Vector factor = Vector::broadcast(1.0f / __builtin_sqrtf(mean + epsilon));
    for_each_vector(size, [&](std::int64_t start, std::int64_t count) {
        store(load<Vector>(x + start, count) * factor * load<Vector>(weight + start, count), out + start, count);
    });
}

template <class Isa>
void add_row(float* x, const float* y, std::int64_t size) {
    using Vector = typename Isa::Vector;
    for_each_vector(size, [&](std::int64_t start, std::int64_t count) {
        store(load<Vector>(x + start, count) + load<Vector>(y + start, count), x + start, count);
    });
}

// Rotates the pairs (i, i + half) of one head.
template <class Isa>
void rotate_head(float* x, const float* cosines, const float* sines, std::int64_t half) {
    using Vector = typename Isa::Vector;
    for_each_vector(half, [&](std::int64_t start, std::int64_t count) {
        const Vector cosine = load<Vector>(cosines + start, count), sine = load<Vector>(sines + start, count);
        const Vector first = load<Vector>(x + start, count), second = load<Vector>(x + half + start, count);
        store(fma(first, cosine, Vector::zero() - second * sine), x + start, count);
        store(fma(second, cosine, first * sine), x + half + start, count);
    });
}

template <class Isa>
void gelu_gate_row(const float* gate, const float* up, std::int64_t size, float* out) {
    using Vector = typename Isa::Vector;
    for_each_vector(size, [&](std::int64_t start, std::int64_t count) {
        store(gelu(load<Vector>(gate + start, count)) * load<Vector>(up + start, count), out + start, count);
    });
}

template <class Isa>
void softcap_row(float* x, std::int64_t size, float cap) {
    using Vector = typename Isa::Vector;
    for_each_vector(size, [&](std::int64_t start, std::int64_t count) {
        store(soft_capped(load<Vector>(x + start, count), Vector::broadcast(cap)), x + start, count);
    });
}

} // namespace gemlora::simd
