// The Hadamard transform: sums and differences of all pairs whose indices differ in one bit, bit for bit from the lowest.
// An orthogonal change of coordinates, up to its length, that spreads a few large numbers over all, so that bytes with
// one scale hold them.
#pragma once

#include "../views.h"

namespace gemlora::simd {

// Sums in the lanes i that lack the bit `distance`, differences in the others, of the lanes i and i ^ distance.
template <int distance, class Vector>
Vector spread_lanes(Vector a) {
    float signs[16];
    for (int i = 0; i < 16; ++i) {
        signs[i] = i & distance ? -1.0f : 1.0f;
    }
    return fma(a, Vector::load(signs), swap_lanes<distance>(a));
}

// The four steps that stay within a vector.
template <class Vector>
Vector spread_within(Vector a) {
    return spread_lanes<8>(spread_lanes<4>(spread_lanes<2>(spread_lanes<1>(a))));
}

// As `spread` below, in registers: 16 · count numbers, a power of two. The sums have the same order.
template <int count, class Vector>
void spread_vectors(Vector (&x)[count]) {
#pragma GCC unroll 8
    for (int i = 0; i < count; ++i) {
        x[i] = spread_within(x[i]);
    }
#pragma GCC unroll 8
    for (int step = 1; step < count; step *= 2) {
#pragma GCC unroll 8
        for (int i = 0; i < count; ++i) {
            if ((i & step) == 0) {
                const Vector a = x[i], b = x[i + step];
                x[i] = a + b;
                x[i + step] = a - b;
            }
        }
    }
}

// `size` numbers, a multiple of 16, in as many parts as that has odd factors. Returns the square of how much longer a
// vector becomes.
template <class Vector>
float spread(float* numbers, std::int64_t size) {
    for (std::int64_t d = 0; d < size; d += 16) {
        spread_within(Vector::load(numbers + d)).store(numbers + d);
    }
    float longer = 16;
    for (std::int64_t step = 16; size % (2 * step) == 0; step *= 2, longer *= 2) {
        for (std::int64_t start = 0; start < size; start += 2 * step) {
            for (std::int64_t d = start; d < start + step; d += 16) {
                const Vector a = Vector::load(numbers + d), b = Vector::load(numbers + d + step);
                (a + b).store(numbers + d);
                (a - b).store(numbers + d + step);
            }
        }
    }
    return longer;
}

// One group of a spread matrix as the weights that it stands for.
template <class Isa>
void unspread_group(float* numbers) {
    using Vector = typename Isa::Vector;
    spread<Vector>(numbers, spread_inputs);
    for (std::int64_t i = 0; i < spread_inputs; i += 16) {
        (Vector::load(numbers + i) * Vector::broadcast(1 / unspread_divisor)).store(numbers + i);
    }
}

} // namespace gemlora::simd
