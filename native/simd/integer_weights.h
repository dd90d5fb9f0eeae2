// Packed integer matrices as the tiles read them.
#pragma once

#include "../inputs.h"
#include "functions.h"

namespace gemlora::simd {

// How an integer matrix is stored, known to the compiler.
template <int bits_, int zero_point_, std::int64_t group_, class Scale_>
struct IntegerFormat {
    static constexpr int bits = bits_, zero_point = zero_point_;
    static constexpr std::int64_t group = group_;
    using Scale = Scale_;
};

// Consecutive panels of an integer matrix.
template <class Format>
struct IntegerPanels {
    const std::uint8_t* values;
    const typename Format::Scale *scales, *minimums; // [panels, groups, 16]; minimums may be null
    std::int64_t inputs;

    std::int64_t panel_bytes() const { return inputs * panel_size * Format::bits / 8; }
    std::int64_t panel_scales() const { return inputs / Format::group * panel_size; }
};

// Four weights of each of 16 outputs: step `step` of the values.
template <class Isa, class Format>
typename Isa::DotWeights dot_weights(const std::uint8_t* values, std::int64_t step) {
    using DotWeights = typename Isa::DotWeights;
    if constexpr (Format::bits == 8) {
        return DotWeights::load(values + step * 4 * panel_size);
    } else {
        const std::uint8_t* const pair = values + step / 2 * 4 * panel_size;
        if constexpr (Format::group == spread_inputs) {
            return step % 2 == 0 ? DotWeights::load_low_levels(pair) : DotWeights::load_high_levels(pair);
        } else {
            return step % 2 == 0 ? DotWeights::load_low_halves(pair) : DotWeights::load_high_halves(pair);
        }
    }
}

// Calls body with the IntegerFormat of a matrix that meets quantised activations, or of one that meets floats.
template <bool quantised, class Function>
void with_format(const PackedMatrix& matrix, Function&& body) {
    const auto with_scale = [&](auto scale) {
        using Scale = decltype(scale);
        if (matrix.bits == 4 && matrix.spread()) {
            if constexpr (quantised) {
                body(IntegerFormat<4, 128, spread_inputs, Scale>{});
            }
        } else if (matrix.bits == 4) {
            matrix.zero_point() == 8 ? body(IntegerFormat<4, 8, 32, Scale>{}) : body(IntegerFormat<4, 0, 32, Scale>{});
        } else if constexpr (quantised) {
            body(IntegerFormat<8, 128, spread_inputs, Scale>{});
        } else {
            matrix.group == 32 ? body(IntegerFormat<8, 128, 32, Scale>{}) : body(IntegerFormat<8, 128, 16, Scale>{});
        }
    };
    matrix.scales.type == Stored::float16 ? with_scale(Half{}) : with_scale(float{});
}

template <class Format>
IntegerPanels<Format> integer_panels(const PackedMatrix& matrix, std::int64_t panel) {
    using Scale = typename Format::Scale;
    const std::int64_t first = panel * matrix.groups() * panel_size;
    const auto* const minimums = static_cast<const Scale*>(matrix.minimums.data);
    return {static_cast<const std::uint8_t*>(matrix.values.data) + panel * matrix.panel_bytes(),
            static_cast<const Scale*>(matrix.scales.data) + first, minimums == nullptr ? nullptr : minimums + first,
            matrix.inputs()};
}

// The float32 weights of one panel, [inputs, 16].
template <class Isa, class Format>
void dequantise_panel(const IntegerPanels<Format>& weights, float* to) {
    using Vector = typename Isa::Vector;
    for (std::int64_t g = 0; g < weights.inputs / Format::group; ++g) {
        const Vector scale = Vector::load(weights.scales + g * panel_size);
        const Vector minimum =
            weights.minimums == nullptr ? Vector::zero() : Vector::load(weights.minimums + g * panel_size);
        for (std::int64_t step = 0; step < Format::group / 4; ++step) {
            Vector unpacked[4];
            dot_weights<Isa, Format>(weights.values, g * (Format::group / 4) + step).unpack(unpacked);
            for (const Vector& number : unpacked) {
                const Vector weight = number - Vector::broadcast(static_cast<float>(Format::zero_point));
                (scale * weight - minimum).store(to);
                to += panel_size;
            }
        }
    }
}

} // namespace gemlora::simd
