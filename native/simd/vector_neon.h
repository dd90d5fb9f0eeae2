// Sixteen floats in four NEON registers, with what every 64-bit ARM processor has.
#pragma once

#include "../views.h"

#include <arm_neon.h>
#include <cstring>

namespace gemlora::neon {

// Result{function(quarter of a, quarter of b) …}
template <class Result, class Operand, class Function>
inline Result combine(const Operand& a, const Operand& b, Function function) {
    return {{function(a.quarters[0], b.quarters[0]), function(a.quarters[1], b.quarters[1]),
             function(a.quarters[2], b.quarters[2]), function(a.quarters[3], b.quarters[3])}};
}

template <class Result, class Operand, class Function>
inline Result transform(const Operand& a, Function function) {
    return {{function(a.quarters[0]), function(a.quarters[1]), function(a.quarters[2]), function(a.quarters[3])}};
}

struct Integers {
    int32x4_t quarters[4];

    static Integers broadcast(std::int32_t number) {
        const int32x4_t quarter = vdupq_n_s32(number);
        return {{quarter, quarter, quarter, quarter}};
    }
};

inline Integers operator+(Integers a, Integers b) {
    return combine<Integers>(a, b, [](int32x4_t x, int32x4_t y) { return vaddq_s32(x, y); });
}
inline Integers operator-(Integers a, Integers b) {
    return combine<Integers>(a, b, [](int32x4_t x, int32x4_t y) { return vsubq_s32(x, y); });
}
inline Integers operator&(Integers a, Integers b) {
    return combine<Integers>(a, b, [](int32x4_t x, int32x4_t y) { return vandq_s32(x, y); });
}
inline Integers operator|(Integers a, Integers b) {
    return combine<Integers>(a, b, [](int32x4_t x, int32x4_t y) { return vorrq_s32(x, y); });
}
inline Integers max(Integers a, Integers b) {
    return combine<Integers>(a, b, [](int32x4_t x, int32x4_t y) { return vmaxq_s32(x, y); });
}
template <int bits>
inline Integers shift_left(Integers a) {
    return transform<Integers>(a, [](int32x4_t x) { return vshlq_n_s32(x, bits); });
}

struct Mask {
    uint32x4_t quarters[4];
};

struct Vector {
    using Integers = neon::Integers;
    using Mask = neon::Mask;

    float32x4_t quarters[4];

    static Vector zero() { return broadcast(0); }
    static Vector broadcast(float number) {
        const float32x4_t quarter = vdupq_n_f32(number);
        return {{quarter, quarter, quarter, quarter}};
    }
    static Vector lane_numbers() {
        constexpr float numbers[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
        return load(numbers);
    }
    template <class Number>
    static Vector load(const Number* numbers) {
        return {{four(numbers), four(numbers + 4), four(numbers + 8), four(numbers + 12)}};
    }
    // The first `count` numbers, zeros behind them.
    template <class Number>
    static Vector load(const Number* numbers, std::int64_t count) {
        Number padded[16] = {};
        for (std::int64_t i = 0; i < count; ++i) {
            padded[i] = numbers[i];
        }
        return load(static_cast<const Number*>(padded));
    }
    void store(float* numbers) const {
        for (int i = 0; i < 4; ++i) {
            vst1q_f32(numbers + 4 * i, quarters[i]);
        }
    }
    void store(float* numbers, std::int64_t count) const {
        float padded[16];
        store(padded);
        for (std::int64_t i = 0; i < count; ++i) {
            numbers[i] = padded[i];
        }
    }

private:
    static float32x4_t four(const float* numbers) { return vld1q_f32(numbers); }
    static float32x4_t four(const Half* numbers) {
        return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(reinterpret_cast<const std::uint16_t*>(numbers))));
    }
    static float32x4_t four(const std::int8_t* numbers) {
        std::uint32_t bytes;
        std::memcpy(&bytes, numbers, sizeof bytes);
        const int16x8_t widened = vmovl_s8(vreinterpret_s8_u32(vdup_n_u32(bytes)));
        return vcvtq_f32_s32(vmovl_s16(vget_low_s16(widened)));
    }
    static float32x4_t four(const Bfloat* numbers) {
        const uint16x4_t bits = vld1_u16(reinterpret_cast<const std::uint16_t*>(numbers));
        return vreinterpretq_f32_u32(vshlq_n_u32(vmovl_u16(bits), 16));
    }
};

inline Vector operator+(Vector a, Vector b) {
    return combine<Vector>(a, b, [](float32x4_t x, float32x4_t y) { return vaddq_f32(x, y); });
}
inline Vector operator-(Vector a, Vector b) {
    return combine<Vector>(a, b, [](float32x4_t x, float32x4_t y) { return vsubq_f32(x, y); });
}
inline Vector operator*(Vector a, Vector b) {
    return combine<Vector>(a, b, [](float32x4_t x, float32x4_t y) { return vmulq_f32(x, y); });
}
inline Vector operator/(Vector a, Vector b) {
    return combine<Vector>(a, b, [](float32x4_t x, float32x4_t y) { return vdivq_f32(x, y); });
}
inline Vector fma(Vector a, Vector b, Vector c) {
    return {{vfmaq_f32(c.quarters[0], a.quarters[0], b.quarters[0]),
             vfmaq_f32(c.quarters[1], a.quarters[1], b.quarters[1]),
             vfmaq_f32(c.quarters[2], a.quarters[2], b.quarters[2]),
             vfmaq_f32(c.quarters[3], a.quarters[3], b.quarters[3])}};
}
// a < b ? a : b in each lane, so b where either is not a number; likewise max. NEON's own would return that number.
inline float32x4_t least(float32x4_t x, float32x4_t y) { return vbslq_f32(vcltq_f32(x, y), x, y); }
inline float32x4_t most(float32x4_t x, float32x4_t y) { return vbslq_f32(vcgtq_f32(x, y), x, y); }
inline Vector min(Vector a, Vector b) { return combine<Vector>(a, b, least); }
inline Vector max(Vector a, Vector b) { return combine<Vector>(a, b, most); }
inline Mask less(Vector a, Vector b) {
    return combine<Mask>(a, b, [](float32x4_t x, float32x4_t y) { return vcltq_f32(x, y); });
}
inline bool all_less(Vector a, Vector b) {
    const Mask mask = less(a, b);
    const uint32x4_t low = vandq_u32(mask.quarters[0], mask.quarters[1]);
    const uint32x4_t high = vandq_u32(mask.quarters[2], mask.quarters[3]);
    return vminvq_u32(vandq_u32(low, high)) != 0;
}
inline Vector select(Mask mask, Vector a, Vector b) {
    return {{vbslq_f32(mask.quarters[0], a.quarters[0], b.quarters[0]),
             vbslq_f32(mask.quarters[1], a.quarters[1], b.quarters[1]),
             vbslq_f32(mask.quarters[2], a.quarters[2], b.quarters[2]),
             vbslq_f32(mask.quarters[3], a.quarters[3], b.quarters[3])}};
}
inline Integers bits(Vector a) {
    return transform<Integers>(a, [](float32x4_t x) { return vreinterpretq_s32_f32(x); });
}
inline Vector from_bits(Integers a) {
    return transform<Vector>(a, [](int32x4_t x) { return vreinterpretq_f32_s32(x); });
}
inline Vector to_floats(Integers a) {
    return transform<Vector>(a, [](int32x4_t x) { return vcvtq_f32_s32(x); });
}

// Horizontal results pair lane i with i + 8, then i + 4, i + 2, i + 1.
template <class Lanes, class Function>
inline auto four_of(const Lanes& a, Function function) {
    return function(function(a.quarters[0], a.quarters[2]), function(a.quarters[1], a.quarters[3]));
}
inline float sum(Vector a) {
    const float32x4_t four = four_of(a, [](float32x4_t x, float32x4_t y) { return vaddq_f32(x, y); });
    const float32x2_t two = vadd_f32(vget_low_f32(four), vget_high_f32(four));
    return vget_lane_f32(two, 0) + vget_lane_f32(two, 1);
}
inline float largest(Vector a) {
    const float32x4_t four = four_of(a, most);
    const float32x4_t two = most(four, vextq_f32(four, four, 2));
    return vgetq_lane_f32(most(two, vextq_f32(two, two, 1)), 0);
}
inline std::int32_t sum(Integers a) {
    return vaddvq_s32(four_of(a, [](int32x4_t x, int32x4_t y) { return vaddq_s32(x, y); }));
}
inline std::int32_t largest(Integers a) {
    return vmaxvq_s32(four_of(a, [](int32x4_t x, int32x4_t y) { return vmaxq_s32(x, y); }));
}

// Four activations of one row as 16-bit numbers: the dot product of bytes is no part of what every processor has.
struct DotInput {
    static constexpr int words = 2;

    int16x4_t numbers;

    static DotInput load(const std::int32_t* activations) { return {vreinterpret_s16_s32(vld1_s32(activations))}; }
};

// The low bytes (signed) of 32 whole numbers as the words of eight dot inputs.
inline void pack_dot_inputs(Integers low, Integers high, std::int32_t* activations) {
    const auto pack = [](int32x4_t first, int32x4_t second, std::int32_t* to) {
        const int8x8_t bytes = vmovn_s16(vcombine_s16(vmovn_s32(first), vmovn_s32(second)));
        vst1q_s32(to, vreinterpretq_s32_s16(vmovl_s8(bytes)));
    };
    pack(low.quarters[0], low.quarters[1], activations);
    pack(low.quarters[2], low.quarters[3], activations + 4);
    pack(high.quarters[0], high.quarters[1], activations + 8);
    pack(high.quarters[2], high.quarters[3], activations + 12);
}

// Four unsigned weights of each of 16 outputs, input by input, widened to 16 bits.
struct DotWeights {
    int16x8_t low[4], high[4]; // outputs 0 … 7 and 8 … 15

    static DotWeights load(const std::uint8_t* weights) {
        return widen(weights, [](uint8x16_t bytes) { return bytes; });
    }
    static DotWeights load_low_halves(const std::uint8_t* weights) {
        return widen(weights, [](uint8x16_t bytes) { return low_halves(bytes); });
    }
    static DotWeights load_high_halves(const std::uint8_t* weights) {
        return widen(weights, [](uint8x16_t bytes) { return high_halves(bytes); });
    }
    static DotWeights load_low_levels(const std::uint8_t* weights) {
        return widen(weights, [](uint8x16_t bytes) { return levels_of(low_halves(bytes)); });
    }
    static DotWeights load_high_levels(const std::uint8_t* weights) {
        return widen(weights, [](uint8x16_t bytes) { return levels_of(high_halves(bytes)); });
    }
    // The weights as they are stored, input by input.
    void unpack(Vector (&inputs)[4]) const {
        for (int i = 0; i < 4; ++i) {
            inputs[i] = {{to_floats(vget_low_s16(low[i])), to_floats(vget_high_s16(low[i])),
                          to_floats(vget_low_s16(high[i])), to_floats(vget_high_s16(high[i]))}};
        }
    }

private:
    static uint8x16_t low_halves(uint8x16_t bytes) { return vandq_u8(bytes, vdupq_n_u8(15)); }
    static uint8x16_t high_halves(uint8x16_t bytes) { return vshrq_n_u8(bytes, 4); }
    static uint8x16_t levels_of(uint8x16_t halves) { return vqtbl1q_u8(vld1q_u8(levels), halves); }
    template <class Function>
    static DotWeights widen(const std::uint8_t* weights, Function part) {
        const uint8x16x4_t inputs = vld4q_u8(weights);
        DotWeights result;
        for (int i = 0; i < 4; ++i) {
            const uint8x16_t bytes = part(inputs.val[i]);
            result.low[i] = vreinterpretq_s16_u16(vmovl_u8(vget_low_u8(bytes)));
            result.high[i] = vreinterpretq_s16_u16(vmovl_high_u8(bytes));
        }
        return result;
    }
    static float32x4_t to_floats(int16x4_t numbers) { return vcvtq_f32_s32(vmovl_s16(numbers)); }
};

// The same four unsigned bytes for all outputs, as 16-bit numbers like those of `DotInput`.
struct UnsignedFour {
    static constexpr int words = 2;

    int16x4_t numbers;

    static UnsignedFour load(const std::int32_t* words_) { return {vreinterpret_s16_s32(vld1_s32(words_))}; }
};

// The low bytes of 32 whole numbers as the words of eight of them.
inline void pack_unsigned(Integers low, Integers high, std::int32_t* words) {
    const auto pack = [](int32x4_t first, int32x4_t second, std::int32_t* to) {
        const int16x8_t bytes = vandq_s16(vcombine_s16(vmovn_s32(first), vmovn_s32(second)), vdupq_n_s16(0xFF));
        vst1q_s32(to, vreinterpretq_s32_s16(bytes));
    };
    pack(low.quarters[0], low.quarters[1], words);
    pack(low.quarters[2], low.quarters[3], words + 4);
    pack(high.quarters[0], high.quarters[1], words + 8);
    pack(high.quarters[2], high.quarters[3], words + 12);
}

// Four signed bytes of each of 16 outputs, one by one, widened to 16 bits.
struct SignedFours {
    int16x8_t low[4], high[4]; // outputs 0 … 7 and 8 … 15

    static SignedFours load(const std::int8_t* numbers) {
        const int8x16x4_t fours = vld4q_s8(numbers);
        SignedFours result;
        for (int i = 0; i < 4; ++i) {
            result.low[i] = vmovl_s8(vget_low_s8(fours.val[i]));
            result.high[i] = vmovl_high_s8(fours.val[i]);
        }
        return result;
    }
};

// Sums of 16 outputs and the products of their i-th numbers with the i-th of `four`.
template <int i, class Numbers>
inline Integers add_products(Integers sums, const Numbers& numbers, int16x4_t four) {
    return {{vmlal_lane_s16(sums.quarters[0], vget_low_s16(numbers.low[i]), four, i),
             vmlal_high_lane_s16(sums.quarters[1], numbers.low[i], four, i),
             vmlal_lane_s16(sums.quarters[2], vget_low_s16(numbers.high[i]), four, i),
             vmlal_high_lane_s16(sums.quarters[3], numbers.high[i], four, i)}};
}

template <class Numbers>
inline Integers add_all_products(Integers sums, const Numbers& numbers, int16x4_t four) {
    sums = add_products<0>(sums, numbers, four);
    sums = add_products<1>(sums, numbers, four);
    sums = add_products<2>(sums, numbers, four);
    return add_products<3>(sums, numbers, four);
}

inline Integers dot(Integers sums, const DotWeights& weights, DotInput input) {
    return add_all_products(sums, weights, input.numbers);
}
inline Integers dot(Integers sums, const SignedFours& numbers, UnsignedFour four) {
    return add_all_products(sums, numbers, four.numbers);
}

// The low bytes of 16 whole numbers.
inline void store_bytes(Integers a, std::uint8_t* bytes) {
    const auto narrow = [](int32x4_t first, int32x4_t second) {
        return vreinterpret_u8_s8(vmovn_s16(vcombine_s16(vmovn_s32(first), vmovn_s32(second))));
    };
    vst1_u8(bytes, narrow(a.quarters[0], a.quarters[1]));
    vst1_u8(bytes + 8, narrow(a.quarters[2], a.quarters[3]));
}

// Exchanges lanes i and i ^ distance.
template <int distance>
inline Vector swap_lanes(Vector a) {
    static_assert(distance == 1 || distance == 2 || distance == 4 || distance == 8);
    if constexpr (distance == 8) {
        return {{a.quarters[2], a.quarters[3], a.quarters[0], a.quarters[1]}};
    } else if constexpr (distance == 4) {
        return {{a.quarters[1], a.quarters[0], a.quarters[3], a.quarters[2]}};
    } else if constexpr (distance == 2) {
        return transform<Vector>(a, [](float32x4_t x) { return vextq_f32(x, x, 2); });
    } else {
        return transform<Vector>(a, [](float32x4_t x) { return vrev64q_f32(x); });
    }
}

// What the kernels are written over.
struct InstructionSet {
    using Vector = neon::Vector;
    using Integers = neon::Integers;
    using DotInput = neon::DotInput;
    using DotWeights = neon::DotWeights;
    using UnsignedFour = neon::UnsignedFour;
    using SignedFours = neon::SignedFours;

    // Register tiles: as many rows × panels as fit into 32 registers, four a vector.
    static constexpr int float_rows = 6;
    static constexpr int integer_rows = 4;
    static constexpr int float_panels(int rows) { return rows <= 2 ? 2 : 1; }
    static constexpr int integer_panels(int) { return 1; }
    static constexpr int score_rows = 4;
    static constexpr int score_panels(int) { return 1; }
    static constexpr int lora_rows = 1;
    static constexpr int lora_ranks(int) { return 4; }
    static constexpr int value_rows = 2;
    static constexpr int value_vectors = 2;
};

} // namespace gemlora::neon
