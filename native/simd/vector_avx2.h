// Sixteen floats in two AVX2 registers (with FMA and F16C).
#pragma once

#include "../views.h"

#include <immintrin.h>

namespace gemlora::avx2 {

struct Integers {
    __m256i low, high;

    static Integers broadcast(std::int32_t number) { return {_mm256_set1_epi32(number), _mm256_set1_epi32(number)}; }
};

inline Integers operator+(Integers a, Integers b) {
    return {_mm256_add_epi32(a.low, b.low), _mm256_add_epi32(a.high, b.high)};
}
inline Integers operator-(Integers a, Integers b) {
    return {_mm256_sub_epi32(a.low, b.low), _mm256_sub_epi32(a.high, b.high)};
}
inline Integers operator&(Integers a, Integers b) {
    return {_mm256_and_si256(a.low, b.low), _mm256_and_si256(a.high, b.high)};
}
inline Integers operator|(Integers a, Integers b) {
    return {_mm256_or_si256(a.low, b.low), _mm256_or_si256(a.high, b.high)};
}
inline Integers max(Integers a, Integers b) {
    return {_mm256_max_epi32(a.low, b.low), _mm256_max_epi32(a.high, b.high)};
}
template <int bits>
inline Integers shift_left(Integers a) { return {_mm256_slli_epi32(a.low, bits), _mm256_slli_epi32(a.high, bits)}; }

struct Mask {
    __m256 low, high;
};

struct Vector {
    using Integers = avx2::Integers;
    using Mask = avx2::Mask;

    __m256 low, high;

    static Vector zero() { return {_mm256_setzero_ps(), _mm256_setzero_ps()}; }
    static Vector broadcast(float number) { return {_mm256_set1_ps(number), _mm256_set1_ps(number)}; }
    static Vector lane_numbers() {
        return {_mm256_setr_ps(0, 1, 2, 3, 4, 5, 6, 7), _mm256_setr_ps(8, 9, 10, 11, 12, 13, 14, 15)};
    }
    static Vector load(const float* numbers) { return {_mm256_loadu_ps(numbers), _mm256_loadu_ps(numbers + 8)}; }
    static Vector load(const Half* numbers) { return {widen_half(numbers), widen_half(numbers + 8)}; }
    static Vector load(const Bfloat* numbers) { return {widen_bfloat(numbers), widen_bfloat(numbers + 8)}; }
    static Vector load(const std::int8_t* numbers) { return {widen_bytes(numbers), widen_bytes(numbers + 8)}; }
    // The first `count` numbers, zeros behind them.
    template <class Number>
    static Vector load(const Number* numbers, std::int64_t count) {
        Number padded[16] = {};
        for (std::int64_t i = 0; i < count; ++i) {
            padded[i] = numbers[i];
        }
        return load(padded);
    }
    void store(float* numbers) const {
        _mm256_storeu_ps(numbers, low);
        _mm256_storeu_ps(numbers + 8, high);
    }
    template <class Number>
    void store(Number* numbers, std::int64_t count) const {
        Number padded[16];
        store(padded);
        for (std::int64_t i = 0; i < count; ++i) {
            numbers[i] = padded[i];
        }
    }

private:
    static __m128i eight(const void* numbers) { return _mm_loadu_si128(static_cast<const __m128i*>(numbers)); }
    static __m256 widen_half(const Half* numbers) { return _mm256_cvtph_ps(eight(numbers)); }
    static __m256 widen_bytes(const std::int8_t* numbers) {
        return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadu_si64(numbers)));
    }
    static __m256 widen_bfloat(const Bfloat* numbers) {
        return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(eight(numbers)), 16));
    }
};

inline Vector operator+(Vector a, Vector b) { return {_mm256_add_ps(a.low, b.low), _mm256_add_ps(a.high, b.high)}; }
inline Vector operator-(Vector a, Vector b) { return {_mm256_sub_ps(a.low, b.low), _mm256_sub_ps(a.high, b.high)}; }
inline Vector operator*(Vector a, Vector b) { return {_mm256_mul_ps(a.low, b.low), _mm256_mul_ps(a.high, b.high)}; }
inline Vector operator/(Vector a, Vector b) { return {_mm256_div_ps(a.low, b.low), _mm256_div_ps(a.high, b.high)}; }
inline Vector fma(Vector a, Vector b, Vector c) {
    return {_mm256_fmadd_ps(a.low, b.low, c.low), _mm256_fmadd_ps(a.high, b.high, c.high)};
}
// a < b ? a : b in each lane, so b where either is not a number; likewise max.
inline Vector min(Vector a, Vector b) { return {_mm256_min_ps(a.low, b.low), _mm256_min_ps(a.high, b.high)}; }
inline Vector max(Vector a, Vector b) { return {_mm256_max_ps(a.low, b.low), _mm256_max_ps(a.high, b.high)}; }
inline Mask less(Vector a, Vector b) {
    return {_mm256_cmp_ps(a.low, b.low, _CMP_LT_OQ), _mm256_cmp_ps(a.high, b.high, _CMP_LT_OQ)};
}
inline bool all_less(Vector a, Vector b) {
    const Mask mask = less(a, b);
    return _mm256_movemask_ps(_mm256_and_ps(mask.low, mask.high)) == 0xFF;
}
inline Vector select(Mask mask, Vector a, Vector b) {
    return {_mm256_blendv_ps(b.low, a.low, mask.low), _mm256_blendv_ps(b.high, a.high, mask.high)};
}
inline Integers bits(Vector a) { return {_mm256_castps_si256(a.low), _mm256_castps_si256(a.high)}; }
inline Vector from_bits(Integers a) { return {_mm256_castsi256_ps(a.low), _mm256_castsi256_ps(a.high)}; }
inline Vector to_floats(Integers a) { return {_mm256_cvtepi32_ps(a.low), _mm256_cvtepi32_ps(a.high)}; }

// Horizontal results pair lane i with i + 8, then i + 4, i + 2, i + 1.
inline float sum(Vector a) {
    const __m256 eight = _mm256_add_ps(a.low, a.high);
    const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}
inline float largest(Vector a) {
    const __m256 eight = _mm256_max_ps(a.low, a.high);
    const __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
}
inline std::int32_t sum(Integers a) {
    const __m256i eight = _mm256_add_epi32(a.low, a.high);
    const __m128i four = _mm_add_epi32(_mm256_castsi256_si128(eight), _mm256_extracti128_si256(eight, 1));
    const __m128i two = _mm_add_epi32(four, _mm_unpackhi_epi64(four, four));
    return _mm_cvtsi128_si32(_mm_add_epi32(two, _mm_shuffle_epi32(two, 1)));
}
inline std::int32_t largest(Integers a) {
    const __m256i eight = _mm256_max_epi32(a.low, a.high);
    const __m128i four = _mm_max_epi32(_mm256_castsi256_si128(eight), _mm256_extracti128_si256(eight, 1));
    const __m128i two = _mm_max_epi32(four, _mm_unpackhi_epi64(four, four));
    return _mm_cvtsi128_si32(_mm_max_epi32(two, _mm_shuffle_epi32(two, 1)));
}

// Four activations of one row as 16-bit numbers, first and third in one word, second and fourth in the next: products
// of bytes would saturate.
struct DotInput {
    static constexpr int words = 2;

    __m256i even, odd;

    static DotInput load(const std::int32_t* activations) {
        return {_mm256_set1_epi32(activations[0]), _mm256_set1_epi32(activations[1])};
    }
};

// The low bytes (signed) of 32 whole numbers as the words of eight dot inputs.
inline void pack_dot_inputs(Integers low, Integers high, std::int32_t* activations) {
    std::int32_t numbers[32];
    __m256i* const stored = reinterpret_cast<__m256i*>(numbers);
    _mm256_storeu_si256(stored, low.low);
    _mm256_storeu_si256(stored + 1, low.high);
    _mm256_storeu_si256(stored + 2, high.low);
    _mm256_storeu_si256(stored + 3, high.high);
    for (int i = 0; i < 8; ++i) {
        const std::int32_t* four = numbers + 4 * i;
        activations[2 * i] = (static_cast<std::int8_t>(four[0]) & 0xFFFF) | static_cast<std::int8_t>(four[2]) * 65536;
        activations[2 * i + 1] =
            (static_cast<std::int8_t>(four[1]) & 0xFFFF) | static_cast<std::int8_t>(four[3]) * 65536;
    }
}

// Four unsigned weights of each of 16 outputs, widened to 16 bits.
struct DotWeights {
    __m256i low_even, low_odd, high_even, high_odd;

    static DotWeights load(const std::uint8_t* weights) {
        return widen(load_half(weights), load_half(weights + 32));
    }
    static DotWeights load_low_halves(const std::uint8_t* weights) {
        return widen(low_halves(weights), low_halves(weights + 32));
    }
    static DotWeights load_high_halves(const std::uint8_t* weights) {
        return widen(high_halves(weights), high_halves(weights + 32));
    }
    static DotWeights load_low_levels(const std::uint8_t* weights) {
        return widen(levels_of(low_halves(weights)), levels_of(low_halves(weights + 32)));
    }
    static DotWeights load_high_levels(const std::uint8_t* weights) {
        return widen(levels_of(high_halves(weights)), levels_of(high_halves(weights + 32)));
    }
    // The weights as they are stored, input by input.
    void unpack(Vector (&inputs)[4]) const {
        inputs[0] = {lower(low_even), lower(high_even)};
        inputs[1] = {lower(low_odd), lower(high_odd)};
        inputs[2] = {upper(low_even), upper(high_even)};
        inputs[3] = {upper(low_odd), upper(high_odd)};
    }

private:
    static __m256i load_half(const std::uint8_t* weights) {
        return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(weights));
    }
    static __m256i low_halves(const std::uint8_t* weights) {
        return _mm256_and_si256(load_half(weights), _mm256_set1_epi8(15));
    }
    static __m256i high_halves(const std::uint8_t* weights) {
        return _mm256_and_si256(_mm256_srli_epi16(load_half(weights), 4), _mm256_set1_epi8(15));
    }
    static __m256i levels_of(__m256i halves) {
        const __m128i all = _mm_load_si128(reinterpret_cast<const __m128i*>(levels));
        return _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(all), halves);
    }
    static DotWeights widen(__m256i low, __m256i high) {
        const __m256i bytes = _mm256_set1_epi16(0xFF);
        return {_mm256_and_si256(low, bytes), _mm256_srli_epi16(low, 8), _mm256_and_si256(high, bytes),
                _mm256_srli_epi16(high, 8)};
    }
    static __m256 lower(__m256i pairs) {
        return _mm256_cvtepi32_ps(_mm256_and_si256(pairs, _mm256_set1_epi32(0xFFFF)));
    }
    static __m256 upper(__m256i pairs) { return _mm256_cvtepi32_ps(_mm256_srli_epi32(pairs, 16)); }
};

inline Integers dot(Integers sums, DotWeights weights, DotInput input) {
    const __m256i low = _mm256_add_epi32(sums.low, _mm256_madd_epi16(weights.low_even, input.even));
    const __m256i high = _mm256_add_epi32(sums.high, _mm256_madd_epi16(weights.high_even, input.even));
    return {_mm256_add_epi32(low, _mm256_madd_epi16(weights.low_odd, input.odd)),
            _mm256_add_epi32(high, _mm256_madd_epi16(weights.high_odd, input.odd))};
}

// The same four unsigned bytes for all outputs, as 16-bit numbers like those of `DotInput`.
struct UnsignedFour {
    static constexpr int words = 2;

    __m256i even, odd;

    static UnsignedFour load(const std::int32_t* words_) {
        return {_mm256_set1_epi32(words_[0]), _mm256_set1_epi32(words_[1])};
    }
};

// The low bytes of 32 whole numbers as the words of eight of them.
inline void pack_unsigned(Integers low, Integers high, std::int32_t* words) {
    const __m256i quarters[4] = {low.low, low.high, high.low, high.high};
    for (int i = 0; i < 4; ++i) {
        // Lanes 0, 2 | 1, 3 of each half, two 16-bit numbers a word.
        const __m256i bytes = _mm256_and_si256(quarters[i], _mm256_set1_epi32(0xFF));
        const __m256i pairs = _mm256_shuffle_epi8(
            bytes, _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 1, 8, 9, 4, 5, 12, 13, -1, -1, -1, -1, -1, -1, -1, -1)));
        const __m256i words_in_front = _mm256_permutevar8x32_epi32(pairs, _mm256_setr_epi32(0, 1, 4, 5, 2, 3, 6, 7));
        _mm_storeu_si128(reinterpret_cast<__m128i*>(words + 4 * i), _mm256_castsi256_si128(words_in_front));
    }
}

// Four signed bytes of each of 16 outputs, widened to 16 bits.
struct SignedFours {
    __m256i low_even, low_odd, high_even, high_odd;

    static SignedFours load(const std::int8_t* numbers) {
        const __m256i low = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(numbers));
        const __m256i high = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(numbers + 32));
        return {_mm256_srai_epi16(_mm256_slli_epi16(low, 8), 8), _mm256_srai_epi16(low, 8),
                _mm256_srai_epi16(_mm256_slli_epi16(high, 8), 8), _mm256_srai_epi16(high, 8)};
    }
};

inline Integers dot(Integers sums, SignedFours numbers, UnsignedFour four) {
    const __m256i low = _mm256_add_epi32(sums.low, _mm256_madd_epi16(numbers.low_even, four.even));
    const __m256i high = _mm256_add_epi32(sums.high, _mm256_madd_epi16(numbers.high_even, four.even));
    return {_mm256_add_epi32(low, _mm256_madd_epi16(numbers.low_odd, four.odd)),
            _mm256_add_epi32(high, _mm256_madd_epi16(numbers.high_odd, four.odd))};
}

// The low bytes of 16 whole numbers.
inline void store_bytes(Integers a, std::uint8_t* bytes) {
    const __m256i last = _mm256_set1_epi32(0xFF);
    const __m256i pairs = _mm256_packus_epi32(_mm256_and_si256(a.low, last), _mm256_and_si256(a.high, last));
    const __m256i fours = _mm256_packus_epi16(pairs, pairs); // fours 0, 2 | 1, 3 of the halves
    const __m256i ordered = _mm256_permutevar8x32_epi32(fours, _mm256_setr_epi32(0, 4, 1, 5, 0, 4, 1, 5));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(bytes), _mm256_castsi256_si128(ordered));
}

// Exchanges lanes i and i ^ distance.
template <int distance>
inline Vector swap_lanes(Vector a) {
    static_assert(distance == 1 || distance == 2 || distance == 4 || distance == 8);
    if constexpr (distance == 8) {
        return {a.high, a.low};
    } else if constexpr (distance == 4) {
        return {_mm256_permute2f128_ps(a.low, a.low, 1), _mm256_permute2f128_ps(a.high, a.high, 1)};
    } else {
        constexpr int order = distance == 2 ? 0b01001110 : 0b10110001;
        return {_mm256_permute_ps(a.low, order), _mm256_permute_ps(a.high, order)};
    }
}

// What the kernels are written over.
struct InstructionSet {
    using Vector = avx2::Vector;
    using Integers = avx2::Integers;
    using DotInput = avx2::DotInput;
    using DotWeights = avx2::DotWeights;
    using UnsignedFour = avx2::UnsignedFour;
    using SignedFours = avx2::SignedFours;

    // Register tiles: as many rows × panels as fit into 16 registers, two a vector.
    static constexpr int float_rows = 4;
    static constexpr int integer_rows = 3;
    static constexpr int float_panels(int rows) { return rows == 1 ? 4 : rows == 2 ? 2 : 1; }
    static constexpr int integer_panels(int rows) { return rows == 1 ? 2 : 1; }
    static constexpr int lora_rows = 2;
    static constexpr int lora_ranks(int rows) { return rows == 1 ? 16 : 4; } // one row: rather spilled than read twice
    static constexpr int value_rows = 2;
    static constexpr int value_vectors = 2;
    static constexpr int score_rows = 3;
    static constexpr int score_panels(int rows) { return rows == 1 ? 2 : 1; }
};

} // namespace gemlora::avx2
