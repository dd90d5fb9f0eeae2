// Rows of a packed matrix as floats.
#pragma once

#include "half.h"
#include "simd/table.h"
#include "views.h"

#include <algorithm>

namespace gemlora {

// numbers[columns] = the weights of one output.
inline void unpack_floats(const PackedMatrix& matrix, std::int64_t row, float* numbers) {
    const std::int64_t first = row / panel_size * matrix.columns * panel_size + row % panel_size;
    for (std::int64_t column = 0; column < matrix.columns; ++column) {
        numbers[column] = number_at(matrix.values, first + column * panel_size);
    }
}

// Four consecutive inputs of one lane lie together. Of eight inputs, the first four are the low halves of 4-bit weights.
inline int stored_integer(const PackedMatrix& matrix, const std::uint8_t* lane, std::int64_t column) {
    if (matrix.bits == 8) {
        return lane[column / 4 * 4 * panel_size + column % 4];
    }
    const int both = lane[column / 8 * 4 * panel_size + column % 4], half = column % 8 < 4 ? both & 15 : both >> 4;
    return matrix.spread() ? levels[half] : half;
}

inline void unpack_integers(const PackedMatrix& matrix, std::int64_t row, const KernelTable& table, float* numbers) {
    const std::int64_t panel = row / panel_size, lane = row % panel_size;
    const auto* const bytes =
        static_cast<const std::uint8_t*>(matrix.values.data) + panel * matrix.panel_bytes() + lane * 4;
    const int zero_point = matrix.zero_point();
    float weights[spread_inputs];
    for (std::int64_t start = 0; start < matrix.columns; start += matrix.group) {
        const std::int64_t group = (panel * matrix.groups() + start / matrix.group) * panel_size + lane;
        const float scale = number_at(matrix.scales, group);
        const float minimum = matrix.minimums.data == nullptr ? 0.0f : number_at(matrix.minimums, group);
        for (std::int64_t i = 0; i < matrix.group; ++i) {
            weights[i] = scale * static_cast<float>(stored_integer(matrix, bytes, start + i) - zero_point) - minimum;
        }
        if (matrix.spread()) {
            table.unspread_group(weights);
        }
        std::copy_n(weights, std::min(matrix.group, matrix.columns - start), numbers + start);
    }
}

inline void unpack_row(const PackedMatrix& matrix, std::int64_t row, const KernelTable& table, float* numbers) {
    matrix.integers() ? unpack_integers(matrix, row, table, numbers) : unpack_floats(matrix, row, numbers);
}

} // namespace gemlora
