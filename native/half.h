// Half and bfloat16 numbers without hardware support, with the results of the F16C instructions.
#pragma once

#include "views.h"

#include <bit>

namespace gemlora {

inline float widen(float number) { return number; }

inline float widen(std::int8_t number) { return static_cast<float>(number); }

inline float widen(Bfloat number) { return std::bit_cast<float>(static_cast<std::uint32_t>(number.bits) << 16); }

inline float widen(Half number) {
    const std::uint32_t sign = static_cast<std::uint32_t>(number.bits & 0x8000) << 16;
    const std::uint32_t magnitude = number.bits & 0x7FFF;
    if (magnitude < 0x0400) { // zero and subnormal
        const float small = static_cast<float>(magnitude) * 0x1p-24f;
        return std::bit_cast<float>(std::bit_cast<std::uint32_t>(small) | sign);
    }
    if (magnitude >= 0x7C00) {
        const std::uint32_t quiet = magnitude > 0x7C00 ? 0x00400000 : 0;
        return std::bit_cast<float>(sign | 0x7F800000 | (magnitude & 0x03FF) << 13 | quiet);
    }
    return std::bit_cast<float>(sign | ((magnitude << 13) + 0x38000000));
}

inline float number_at(const Numbers& numbers, std::int64_t index) {
    switch (numbers.type) {
    case Stored::bfloat16: return widen(static_cast<const Bfloat*>(numbers.data)[index]);
    case Stored::float16: return widen(static_cast<const Half*>(numbers.data)[index]);
    case Stored::float32:
    case Stored::scaled_bytes: break;
    }
    return static_cast<const float*>(numbers.data)[index];
}

} // namespace gemlora
