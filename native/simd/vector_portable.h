// Sixteen floats in an array: what the other vectors do, in the words of the language.
#pragma once

#include "../half.h"
#include "../views.h"

#include <bit>
#include <cmath>

namespace gemlora::portable {

struct Integers {
    std::int32_t lanes[16];

    static Integers broadcast(std::int32_t number) {
        Integers result;
        for (std::int32_t& lane : result.lanes) {
            lane = number;
        }
        return result;
    }
};

template <class Result, class Operand, class Function>
inline Result combine(const Operand& a, const Operand& b, Function function) {
    Result result;
    for (int i = 0; i < 16; ++i) {
        result.lanes[i] = function(a.lanes[i], b.lanes[i]);
    }
    return result;
}

inline std::int32_t wrap(std::uint32_t number) { return static_cast<std::int32_t>(number); }
inline std::uint32_t raw(std::int32_t number) { return static_cast<std::uint32_t>(number); }

// Whole numbers wrap around, as in registers.
inline Integers operator+(const Integers& a, const Integers& b) {
    return combine<Integers>(a, b, [](std::int32_t x, std::int32_t y) { return wrap(raw(x) + raw(y)); });
}
inline Integers operator-(const Integers& a, const Integers& b) {
    return combine<Integers>(a, b, [](std::int32_t x, std::int32_t y) { return wrap(raw(x) - raw(y)); });
}
inline Integers operator&(const Integers& a, const Integers& b) {
    return combine<Integers>(a, b, [](std::int32_t x, std::int32_t y) { return x & y; });
}
inline Integers operator|(const Integers& a, const Integers& b) {
    return combine<Integers>(a, b, [](std::int32_t x, std::int32_t y) { return x | y; });
}
inline Integers max(const Integers& a, const Integers& b) {
    return combine<Integers>(a, b, [](std::int32_t x, std::int32_t y) { return x > y ? x : y; });
}
template <int bits>
inline Integers shift_left(const Integers& a) {
    return combine<Integers>(a, a, [](std::int32_t x, std::int32_t) { return wrap(raw(x) << bits); });
}

struct Mask {
    bool lanes[16];
};

struct Vector {
    using Integers = portable::Integers;
    using Mask = portable::Mask;

    float lanes[16];

    static Vector zero() { return broadcast(0); }
    static Vector broadcast(float number) {
        Vector result;
        for (float& lane : result.lanes) {
            lane = number;
        }
        return result;
    }
    static Vector lane_numbers() { return {{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}}; }
    template <class Number>
    static Vector load(const Number* numbers, std::int64_t count = 16) {
        Vector result = zero();
        for (std::int64_t i = 0; i < count; ++i) {
            result.lanes[i] = widen(numbers[i]);
        }
        return result;
    }
    void store(float* numbers, std::int64_t count = 16) const {
        for (std::int64_t i = 0; i < count; ++i) {
            numbers[i] = lanes[i];
        }
    }
};

inline Vector operator+(const Vector& a, const Vector& b) {
    return combine<Vector>(a, b, [](float x, float y) { return x + y; });
}
inline Vector operator-(const Vector& a, const Vector& b) {
    return combine<Vector>(a, b, [](float x, float y) { return x - y; });
}
inline Vector operator*(const Vector& a, const Vector& b) {
    return combine<Vector>(a, b, [](float x, float y) { return x * y; });
}
inline Vector operator/(const Vector& a, const Vector& b) {
    return combine<Vector>(a, b, [](float x, float y) { return x / y; });
}
inline Vector fma(const Vector& a, const Vector& b, const Vector& c) {
    Vector result;
    for (int i = 0; i < 16; ++i) {
        result.lanes[i] = std::fma(a.lanes[i], b.lanes[i], c.lanes[i]);
    }
    return result;
}
inline Vector min(const Vector& a, const Vector& b) {
    return combine<Vector>(a, b, [](float x, float y) { return x < y ? x : y; });
}
inline Vector max(const Vector& a, const Vector& b) {
    return combine<Vector>(a, b, [](float x, float y) { return x > y ? x : y; });
}
inline Mask less(const Vector& a, const Vector& b) {
    return combine<Mask>(a, b, [](float x, float y) { return x < y; });
}
inline bool all_less(const Vector& a, const Vector& b) {
    const Mask mask = less(a, b);
    bool result = true;
    for (const bool lane : mask.lanes) {
        result = result && lane;
    }
    return result;
}
inline Vector select(const Mask& mask, const Vector& a, const Vector& b) {
    Vector result;
    for (int i = 0; i < 16; ++i) {
        result.lanes[i] = mask.lanes[i] ? a.lanes[i] : b.lanes[i];
    }
    return result;
}
inline Integers bits(const Vector& a) { return std::bit_cast<Integers>(a); }
inline Vector from_bits(const Integers& a) { return std::bit_cast<Vector>(a); }
inline Vector to_floats(const Integers& a) {
    Vector result;
    for (int i = 0; i < 16; ++i) {
        result.lanes[i] = static_cast<float>(a.lanes[i]);
    }
    return result;
}

// Horizontal results pair lane i with i + 8, then i + 4, i + 2, i + 1.
template <class Lanes, class Function>
inline auto reduce(Lanes a, Function function) {
    for (int width = 8; width > 0; width /= 2) {
        for (int i = 0; i < width; ++i) {
            a.lanes[i] = function(a.lanes[i], a.lanes[i + width]);
        }
    }
    return a.lanes[0];
}
inline float sum(const Vector& a) {
    return reduce(a, [](float x, float y) { return x + y; });
}
inline float largest(const Vector& a) {
    return reduce(a, [](float x, float y) { return x > y ? x : y; });
}
inline std::int32_t sum(const Integers& a) {
    return reduce(a, [](std::int32_t x, std::int32_t y) { return x + y; });
}
inline std::int32_t largest(const Integers& a) {
    return reduce(a, [](std::int32_t x, std::int32_t y) { return x > y ? x : y; });
}

// Four activations of one row, the first in the lowest byte.
struct DotInput {
    static constexpr int words = 1;

    std::int32_t numbers[4];

    static DotInput load(const std::int32_t* activations) {
        DotInput result;
        for (unsigned i = 0; i < 4; ++i) {
            result.numbers[i] = static_cast<std::int8_t>(raw(*activations) >> (8 * i) & 0xFF);
        }
        return result;
    }
};

// The low bytes of 32 whole numbers as the words of eight dot inputs.
inline void pack_dot_inputs(const Integers& low, const Integers& high, std::int32_t* activations) {
    for (int i = 0; i < 8; ++i) {
        const std::int32_t* four = i < 4 ? low.lanes + 4 * i : high.lanes + 4 * (i - 4);
        activations[i] = wrap((raw(four[0]) & 0xFF) | (raw(four[1]) & 0xFF) << 8 | (raw(four[2]) & 0xFF) << 16 |
                              (raw(four[3]) & 0xFF) << 24);
    }
}

// Four unsigned weights of each of 16 outputs.
struct DotWeights {
    std::uint8_t bytes[64];

    static DotWeights load(const std::uint8_t* weights) {
        return of(weights, [](std::uint8_t byte) { return byte; });
    }
    static DotWeights load_low_halves(const std::uint8_t* weights) {
        return of(weights, [](std::uint8_t byte) { return byte & 15; });
    }
    static DotWeights load_high_halves(const std::uint8_t* weights) {
        return of(weights, [](std::uint8_t byte) { return byte >> 4; });
    }
    static DotWeights load_low_levels(const std::uint8_t* weights) {
        return of(weights, [](std::uint8_t byte) { return levels[byte & 15]; });
    }
    static DotWeights load_high_levels(const std::uint8_t* weights) {
        return of(weights, [](std::uint8_t byte) { return levels[byte >> 4]; });
    }
    // The weights as they are stored, input by input.
    void unpack(Vector (&inputs)[4]) const {
        for (int i = 0; i < 64; ++i) {
            inputs[i % 4].lanes[i / 4] = static_cast<float>(bytes[i]);
        }
    }

private:
    template <class Function>
    static DotWeights of(const std::uint8_t* weights, Function weight) {
        DotWeights result;
        for (int i = 0; i < 64; ++i) {
            result.bytes[i] = static_cast<std::uint8_t>(weight(weights[i]));
        }
        return result;
    }
};

inline Integers dot(const Integers& sums, const DotWeights& weights, const DotInput& input) {
    Integers result = sums;
    for (int i = 0; i < 16; ++i) {
        for (int k = 0; k < 4; ++k) {
            result.lanes[i] += weights.bytes[4 * i + k] * input.numbers[k];
        }
    }
    return result;
}

// The same four unsigned bytes for all outputs, the first in the lowest byte.
struct UnsignedFour {
    static constexpr int words = 1;

    std::int32_t numbers[4];

    static UnsignedFour load(const std::int32_t* words_) {
        UnsignedFour result;
        for (unsigned i = 0; i < 4; ++i) {
            result.numbers[i] = static_cast<std::uint8_t>(raw(*words_) >> (8 * i) & 0xFF);
        }
        return result;
    }
};

// The low bytes of 32 whole numbers as the words of eight of them.
inline void pack_unsigned(const Integers& low, const Integers& high, std::int32_t* words) {
    pack_dot_inputs(low, high, words);
}

// Four signed bytes of each of 16 outputs.
struct SignedFours {
    std::int8_t bytes[64];

    static SignedFours load(const std::int8_t* numbers) {
        SignedFours result;
        for (int i = 0; i < 64; ++i) {
            result.bytes[i] = numbers[i];
        }
        return result;
    }
};

inline Integers dot(const Integers& sums, const SignedFours& numbers, const UnsignedFour& four) {
    Integers result = sums;
    for (int i = 0; i < 16; ++i) {
        for (int k = 0; k < 4; ++k) {
            result.lanes[i] += numbers.bytes[4 * i + k] * four.numbers[k];
        }
    }
    return result;
}

// The low bytes of 16 whole numbers.
inline void store_bytes(const Integers& a, std::uint8_t* bytes) {
    for (int i = 0; i < 16; ++i) {
        bytes[i] = static_cast<std::uint8_t>(raw(a.lanes[i]) & 0xFF);
    }
}

// Exchanges lanes i and i ^ distance.
template <int distance>
inline Vector swap_lanes(const Vector& a) {
    Vector result;
    for (int i = 0; i < 16; ++i) {
        result.lanes[i] = a.lanes[i ^ distance];
    }
    return result;
}

// What the kernels are written over.
struct InstructionSet {
    using Vector = portable::Vector;
    using Integers = portable::Integers;
    using DotInput = portable::DotInput;
    using DotWeights = portable::DotWeights;
    using UnsignedFour = portable::UnsignedFour;
    using SignedFours = portable::SignedFours;

    static constexpr int float_rows = 4;
    static constexpr int integer_rows = 2;
    static constexpr int float_panels(int) { return 1; }
    static constexpr int integer_panels(int) { return 1; }
    static constexpr int lora_rows = 2;
    static constexpr int lora_ranks(int) { return 4; }
    static constexpr int value_rows = 2;
    static constexpr int value_vectors = 1;
    static constexpr int score_rows = 4;
    static constexpr int score_panels(int) { return 1; }
};

} // namespace gemlora::portable
