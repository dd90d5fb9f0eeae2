// Sixteen floats in one AVX-512 register, and the dot product of bytes of VNNI.
#pragma once

#include "../views.h"

#include <immintrin.h>

namespace gemlora::avx512 {

struct Integers {
    __m512i lanes;

    static Integers broadcast(std::int32_t number) { return {_mm512_set1_epi32(number)}; }
};

inline Integers operator+(Integers a, Integers b) { return {_mm512_add_epi32(a.lanes, b.lanes)}; }
inline Integers operator-(Integers a, Integers b) { return {_mm512_sub_epi32(a.lanes, b.lanes)}; }
inline Integers operator&(Integers a, Integers b) { return {_mm512_and_si512(a.lanes, b.lanes)}; }
inline Integers operator|(Integers a, Integers b) { return {_mm512_or_si512(a.lanes, b.lanes)}; }
inline Integers max(Integers a, Integers b) { return {_mm512_max_epi32(a.lanes, b.lanes)}; }
template <int bits>
inline Integers shift_left(Integers a) { return {_mm512_slli_epi32(a.lanes, bits)}; }

struct Vector {
    using Integers = avx512::Integers;
    using Mask = __mmask16;

    __m512 lanes;

    static Vector zero() { return {_mm512_setzero_ps()}; }
    static Vector broadcast(float number) { return {_mm512_set1_ps(number)}; }
    static Vector lane_numbers() {
        return {_mm512_setr_ps(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15)};
    }
    static Vector load(const float* numbers) { return {_mm512_loadu_ps(numbers)}; }
    static Vector load(const Half* numbers) { return {_mm512_cvtph_ps(_mm256_loadu_si256(as<__m256i>(numbers)))}; }
    static Vector load(const Bfloat* numbers) {
        return widen_bfloat(_mm256_loadu_si256(as<__m256i>(numbers)));
    }
    static Vector load(const std::int8_t* numbers) {
        return {_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(as<__m128i>(numbers))))};
    }
    // The first `count` numbers, zeros behind them.
    static Vector load(const float* numbers, std::int64_t count) {
        return {_mm512_maskz_loadu_ps(first(count), numbers)};
    }
    static Vector load(const Half* numbers, std::int64_t count) {
        return {_mm512_cvtph_ps(_mm256_maskz_loadu_epi16(first(count), numbers))};
    }
    static Vector load(const Bfloat* numbers, std::int64_t count) {
        return widen_bfloat(_mm256_maskz_loadu_epi16(first(count), numbers));
    }
    void store(float* numbers) const { _mm512_storeu_ps(numbers, lanes); }
    void store(float* numbers, std::int64_t count) const { _mm512_mask_storeu_ps(numbers, first(count), lanes); }

private:
    template <class Register, class Number>
    static const Register* as(const Number* numbers) { return reinterpret_cast<const Register*>(numbers); }
    static Mask first(std::int64_t count) { return static_cast<Mask>((1u << static_cast<unsigned>(count)) - 1u); }
    static Vector widen_bfloat(__m256i bits) {
        return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16))};
    }
};

inline Vector operator+(Vector a, Vector b) { return {_mm512_add_ps(a.lanes, b.lanes)}; }
inline Vector operator-(Vector a, Vector b) { return {_mm512_sub_ps(a.lanes, b.lanes)}; }
inline Vector operator*(Vector a, Vector b) { return {_mm512_mul_ps(a.lanes, b.lanes)}; }
inline Vector operator/(Vector a, Vector b) { return {_mm512_div_ps(a.lanes, b.lanes)}; }
inline Vector fma(Vector a, Vector b, Vector c) { return {_mm512_fmadd_ps(a.lanes, b.lanes, c.lanes)}; }
// a < b ? a : b in each lane, so b where either is not a number; likewise max.
inline Vector min(Vector a, Vector b) { return {_mm512_min_ps(a.lanes, b.lanes)}; }
inline Vector max(Vector a, Vector b) { return {_mm512_max_ps(a.lanes, b.lanes)}; }
inline Vector::Mask less(Vector a, Vector b) { return _mm512_cmp_ps_mask(a.lanes, b.lanes, _CMP_LT_OQ); }
inline bool all_less(Vector a, Vector b) { return less(a, b) == 0xFFFF; }
inline Vector select(Vector::Mask mask, Vector a, Vector b) { return {_mm512_mask_blend_ps(mask, b.lanes, a.lanes)}; }
inline Integers bits(Vector a) { return {_mm512_castps_si512(a.lanes)}; }
inline Vector from_bits(Integers a) { return {_mm512_castsi512_ps(a.lanes)}; }
inline Vector to_floats(Integers a) { return {_mm512_cvtepi32_ps(a.lanes)}; }

// Horizontal results pair lane i with i + 8, then i + 4, i + 2, i + 1.
inline __m256 upper(__m512 lanes) { return _mm512_extractf32x8_ps(lanes, 1); }
inline float sum(Vector a) {
    const __m256 eight = _mm256_add_ps(_mm512_castps512_ps256(a.lanes), upper(a.lanes));
    const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}
inline float largest(Vector a) {
    const __m256 eight = _mm256_max_ps(_mm512_castps512_ps256(a.lanes), upper(a.lanes));
    const __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
}
inline std::int32_t sum(Integers a) { return _mm512_reduce_add_epi32(a.lanes); }
inline std::int32_t largest(Integers a) { return _mm512_reduce_max_epi32(a.lanes); }

// Four activations of one row, as the dot product wants them.
struct DotInput {
    static constexpr int words = 1; // int32 words per four activations

    __m512i lanes;

    static DotInput load(const std::int32_t* activations) { return {_mm512_set1_epi32(*activations)}; }
};

// The low bytes of 32 whole numbers as the words of eight dot inputs.
inline void pack_dot_inputs(Integers low, Integers high, std::int32_t* activations) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(activations), _mm512_cvtepi32_epi8(low.lanes));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(activations + 4), _mm512_cvtepi32_epi8(high.lanes));
}

// Four unsigned weights of each of 16 outputs.
struct DotWeights {
    __m512i lanes;

    static DotWeights load(const std::uint8_t* weights) { return {_mm512_loadu_si512(weights)}; }
    static DotWeights load_low_halves(const std::uint8_t* weights) {
        return {_mm512_and_si512(_mm512_loadu_si512(weights), _mm512_set1_epi8(15))};
    }
    static DotWeights load_high_halves(const std::uint8_t* weights) {
        return {_mm512_and_si512(_mm512_srli_epi16(_mm512_loadu_si512(weights), 4), _mm512_set1_epi8(15))};
    }
    static DotWeights load_low_levels(const std::uint8_t* weights) { return load_low_halves(weights).levels_of(); }
    static DotWeights load_high_levels(const std::uint8_t* weights) { return load_high_halves(weights).levels_of(); }
    // The weights as they are stored, input by input.
    void unpack(Vector (&inputs)[4]) const {
        const __m512i byte = _mm512_set1_epi32(0xFF);
        inputs[0] = {_mm512_cvtepi32_ps(_mm512_and_si512(lanes, byte))};
        inputs[1] = {_mm512_cvtepi32_ps(_mm512_and_si512(_mm512_srli_epi32(lanes, 8), byte))};
        inputs[2] = {_mm512_cvtepi32_ps(_mm512_and_si512(_mm512_srli_epi32(lanes, 16), byte))};
        inputs[3] = {_mm512_cvtepi32_ps(_mm512_srli_epi32(lanes, 24))};
    }

private:
    DotWeights levels_of() const {
        const __m128i all = _mm_load_si128(reinterpret_cast<const __m128i*>(levels));
        return {_mm512_shuffle_epi8(_mm512_broadcast_i32x4(all), lanes)};
    }
};

inline Integers dot(Integers sums, DotWeights weights, DotInput input) {
    return {_mm512_dpbusd_epi32(sums.lanes, weights.lanes, input.lanes)};
}

// The same four unsigned bytes for all outputs.
struct UnsignedFour {
    static constexpr int words = 1;

    __m512i lanes;

    static UnsignedFour load(const std::int32_t* words_) { return {_mm512_set1_epi32(*words_)}; }
};

// The low bytes of 32 whole numbers as the words of eight of them.
inline void pack_unsigned(Integers low, Integers high, std::int32_t* words) { pack_dot_inputs(low, high, words); }

// Four signed bytes of each of 16 outputs.
struct SignedFours {
    __m512i lanes;

    static SignedFours load(const std::int8_t* numbers) { return {_mm512_loadu_si512(numbers)}; }
};

inline Integers dot(Integers sums, SignedFours numbers, UnsignedFour four) {
    return {_mm512_dpbusd_epi32(sums.lanes, four.lanes, numbers.lanes)};
}

// The low bytes of 16 whole numbers.
inline void store_bytes(Integers a, std::uint8_t* bytes) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(bytes), _mm512_cvtepi32_epi8(a.lanes));
}

// Exchanges lanes i and i ^ distance.
template <int distance>
inline Vector swap_lanes(Vector a) {
    static_assert(distance == 1 || distance == 2 || distance == 4 || distance == 8);
    if constexpr (distance == 1) {
        return {_mm512_permute_ps(a.lanes, 0b10110001)};
    } else if constexpr (distance == 2) {
        return {_mm512_permute_ps(a.lanes, 0b01001110)};
    } else {
        return {_mm512_shuffle_f32x4(a.lanes, a.lanes, distance == 4 ? 0b10110001 : 0b01001110)};
    }
}

// What the kernels are written over.
struct InstructionSet {
    using Vector = avx512::Vector;
    using Integers = avx512::Integers;
    using DotInput = avx512::DotInput;
    using DotWeights = avx512::DotWeights;
    using UnsignedFour = avx512::UnsignedFour;
    using SignedFours = avx512::SignedFours;

    // Register tiles: as many rows × panels as fit into 32 registers.
    static constexpr int float_rows = 8;
    static constexpr int integer_rows = 6;
    static constexpr int float_panels(int rows) { return rows <= 3 ? 4 : 2; }
    static constexpr int integer_panels(int rows) { return rows <= 3 ? 4 : 2; }
    static constexpr int lora_rows = 4;
    static constexpr int lora_ranks(int rows) { return rows == 1 ? 16 : rows <= 3 ? 8 : 4; }
    static constexpr int value_rows = 4;
    static constexpr int value_vectors = 4;
    static constexpr int score_rows = 8;
    static constexpr int score_panels(int rows) { return rows <= 4 ? 4 : 2; }
};

} // namespace gemlora::avx512
