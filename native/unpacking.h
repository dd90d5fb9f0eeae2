// Single weights of a packed matrix.
#pragma once

#include "half.h"
#include "views.h"

namespace gemlora {

inline float weight_at(const PackedMatrix& matrix, std::int64_t row, std::int64_t column) {
    const std::int64_t panel = row / panel_size, lane = row % panel_size, inputs = matrix.inputs();
    if (!matrix.integers) {
        return number_at(matrix.values, (panel * inputs + column) * panel_size + lane);
    }
    const auto* const bytes = static_cast<const std::uint8_t*>(matrix.values.data);
    const int biased = bytes[((panel * inputs + column / 4 * 4) * panel_size) + lane * 4 + column % 4];
    const std::int64_t group = (panel * matrix.groups() + column / matrix.group) * panel_size + lane;
    const float scaled = number_at(matrix.scales, group) * static_cast<float>(biased - 128);
    return matrix.minimums.data == nullptr ? scaled : scaled - number_at(matrix.minimums, group);
}

} // namespace gemlora
