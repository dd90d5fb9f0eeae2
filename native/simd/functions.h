// exp, tanh and rounding over a vector type, and loops over its 16 lanes.
#pragma once

#include "../views.h"

namespace gemlora::simd {

// Of the whole numbers that heads and inputs are rounded to.
constexpr float largest_whole = 127.0f;

// Whole numbers up to 2^22 appear in the low bits of the sum.
constexpr float rounding_shift = 0x1.8p23f;

// The nearest whole number, ties to even; for |x| < 2^22.
template <class Vector>
inline Vector round(Vector x) {
    const Vector shift = Vector::broadcast(rounding_shift);
    return (x + shift) - shift;
}

// The same as integers.
template <class Vector>
inline typename Vector::Integers round_to_integers(Vector x) {
    const Vector shift = Vector::broadcast(rounding_shift);
    return bits(x + shift) - bits(shift);
}

// What turns numbers whose largest has this size into whole numbers −127 … 127; 0 if they are too small or not finite, and
// are zeros then. Their scale is largest / 127 all the same: with it, what is not finite reaches the outputs.
inline float quantiser(float largest) {
    return largest >= 0x1p-100f && largest < __builtin_inff() ? largest_whole / largest : 0.0f;
}

// e^x to 2 units in the last place; 0 below −87.3, e^88 above 88.
// x = n·ln 2 + r, and e^r = 1 + r + r²·p(r) with p fitted to the least relative error on |r| ≤ ln 2 / 2.
template <class Vector>
inline Vector exp(Vector x) {
    const auto constant = [](float number) { return Vector::broadcast(number); };
    const Vector clamped = min(constant(88.0f), max(constant(-87.3f), x));
    const Vector n = round(clamped * constant(0x1.715476p0f));
    const Vector r = fma(n, constant(0x1.bd0106p-13f), fma(n, constant(-0x1.63p-1f), clamped));
    Vector p = constant(0x1.6a2352p-10f);
    p = fma(p, r, constant(0x1.123a6cp-7f));
    p = fma(p, r, constant(0x1.5558f4p-5f));
    p = fma(p, r, constant(0x1.555490p-3f));
    p = fma(p, r, constant(0x1.fffffcp-2f));
    const Vector e = fma(p, r * r, r) + constant(1.0f);
    const Vector power = from_bits(shift_left<23>(round_to_integers(n) + Vector::Integers::broadcast(127)));
    return select(less(x, constant(-87.3f)), Vector::zero(), e * power);
}

template <class Vector>
inline Vector absolute(Vector x) {
    return from_bits(bits(x) & Vector::Integers::broadcast(0x7FFFFFFF));
}

// tanh x: x + x³·p(x²) below 0.625, else 1 − 2 / (e^2x + 1).
template <class Vector>
inline Vector tanh(Vector x) {
    const auto constant = [](float number) { return Vector::broadcast(number); };
    const Vector size = absolute(x);
    const Vector square = x * x;
    Vector p = constant(-0x1.75215cp-8f);
    p = fma(p, square, constant(0x1.520236p-6f));
    p = fma(p, square, constant(-0x1.b837f2p-5f));
    p = fma(p, square, constant(0x1.110710p-3f));
    p = fma(p, square, constant(-0x1.555532p-2f));
    const Vector small = fma(p, square * x, x);
    const Vector large = constant(1.0f) - constant(2.0f) / (exp(size + size) + constant(1.0f));
    const auto sign = bits(x) & Vector::Integers::broadcast(static_cast<std::int32_t>(0x80000000u));
    return select(less(size, constant(0.625f)), small, from_bits(bits(large) | sign));
}

// cap · tanh(x / cap)
template <class Vector>
inline Vector soft_capped(Vector x, Vector cap) {
    return cap * tanh(x / cap);
}

// x · (1 + tanh(√(2/π)·(x + 0.044715·x³))) / 2, written as x / (1 + e^(−2·…)).
template <class Vector>
inline Vector gelu(Vector x) {
    const Vector inner = fma(x * x, Vector::broadcast(-0x1.2444f2p-4f), Vector::broadcast(-0x1.988454p0f)) * x;
    return x / (Vector::broadcast(1.0f) + exp(inner));
}

// body(start, count) for each run of 16 in [0, size); the last may be shorter.
template <class Function>
inline void for_each_vector(std::int64_t size, Function&& body) {
    for (std::int64_t start = 0; start < size; start += 16) {
        body(start, size - start < 16 ? size - start : 16);
    }
}

// Loads or stores all 16 numbers, or the first `count`.
template <class Vector, class Number>
inline Vector load(const Number* numbers, std::int64_t count) {
    return count == 16 ? Vector::load(numbers) : Vector::load(numbers, count);
}

template <class Vector, class Number>
inline void store(Vector vector, Number* numbers, std::int64_t count) {
    if (count == 16) {
        vector.store(numbers);
    } else {
        vector.store(numbers, count);
    }
}

// Sums that lie in registers begin.
template <class Vector, int rows, int columns>
inline void set_zero(Vector (&sums)[rows][columns]) {
#pragma GCC unroll 16
    for (int r = 0; r < rows; ++r) {
#pragma GCC unroll 16
        for (int c = 0; c < columns; ++c) {
            sums[r][c] = Vector::zero();
        }
    }
}

// A number known to the compiler, to choose a template by a run-time number.
template <int number>
struct Constant {
    static constexpr int value = number;
};

// Calls body(Constant<n>) for the n in [1, most] that equals `number`.
template <int most, class Function>
inline void with_constant(std::int64_t number, Function&& body) {
    if constexpr (most > 0) {
        if (number == most) {
            body(Constant<most>{});
        } else {
            with_constant<most - 1>(number, body);
        }
    }
}

// Calls body with a null pointer of the stored float type.
template <class Function>
inline void with_type(Stored type, Function&& body) {
    switch (type) {
    case Stored::float32: return body(static_cast<const float*>(nullptr));
    case Stored::bfloat16: return body(static_cast<const Bfloat*>(nullptr));
    case Stored::float16: return body(static_cast<const Half*>(nullptr));
    case Stored::scaled_bytes: return;
    }
}

} // namespace gemlora::simd
