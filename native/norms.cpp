// Norms of the rows and columns of a matrix that LoRA changes, for DoRA. Sums run in an order that no thread decides.
#include "kernels.h"
#include "unpacking.h"

#include <algorithm>
#include <cmath>

namespace gemlora {
namespace {

// `right` as the B of a `LowRank`.
std::vector<float> in_panels(const Rows<const float>& right) {
    const std::int64_t count = ceil_divide(right.columns, panel_size) * right.rows * panel_size;
    std::vector<float> panels(static_cast<std::size_t>(count));
    for (std::int64_t i = 0; i < right.rows; ++i) {
        for (std::int64_t column = 0; column < right.columns; ++column) {
            const std::int64_t row = column / panel_size * right.rows + i;
            panels[static_cast<std::size_t>(row * panel_size + column % panel_size)] = right.row(i)[column];
        }
    }
    return panels;
}

} // namespace

// row(index, numbers) for the rows begin … end of W + left · right, each in `numbers` [columns]; `right` in panels.
template <class Function>
void Kernels::changed_rows(const Changed& weights, const std::vector<float>& right, std::int64_t begin,
                           std::int64_t end, float* numbers, Function&& row) {
    const PackedMatrix& matrix = *weights.matrix;
    const LowRank change{{}, {right.data(), Stored::float32}, weights.right.rows, 0, matrix.columns, 1, nullptr};
    for (std::int64_t index = begin; index < end; ++index) {
        unpack_row(matrix, index, table_, numbers);
        table_.raise(change, weights.left.row(index), {numbers, 1, matrix.columns, matrix.columns}, 0, matrix.columns);
        row(index, numbers);
    }
}

void Kernels::row_norms(const Changed& weights, float* norms) {
    const std::lock_guard lock(mutex_);
    const std::int64_t rows = weights.matrix->rows, columns = weights.matrix->columns;
    for (Scratch& each : thread_scratch_) {
        each.get<float>(columns);
    }
    const std::vector<float> right = in_panels(weights.right);
    pool_.run(weights.matrix->panels(), [&](std::int64_t panel, int thread) {
        const std::int64_t begin = panel * panel_size;
        changed_rows(weights, right, begin, std::min(begin + panel_size, rows),
                     thread_scratch(thread).get<float>(columns), [&](std::int64_t index, const float* numbers) {
                         norms[index] = std::sqrt(table_.sum_of_squares(numbers, columns));
                     });
    });
}

void Kernels::column_norms(const Changed& weights, float* norms) {
    const std::lock_guard lock(mutex_);
    constexpr std::int64_t rows_per_sum = 1024;
    const std::int64_t rows = weights.matrix->rows, columns = weights.matrix->columns;
    const std::int64_t count = ceil_divide(rows, rows_per_sum);
    std::vector<double> sums(static_cast<std::size_t>(count * columns));
    for (Scratch& each : thread_scratch_) {
        each.get<float>(columns);
    }
    const std::vector<float> right = in_panels(weights.right);
    pool_.run(count, [&](std::int64_t part, int thread) {
        double* const squares = sums.data() + part * columns;
        const std::int64_t begin = part * rows_per_sum;
        changed_rows(weights, right, begin, std::min(begin + rows_per_sum, rows),
                     thread_scratch(thread).get<float>(columns), [&](std::int64_t, const float* numbers) {
                         for (std::int64_t column = 0; column < columns; ++column) {
                             const double number = static_cast<double>(numbers[column]);
                             squares[column] += number * number;
                         }
                     });
    });
    for (std::int64_t column = 0; column < columns; ++column) {
        double square = 0;
        for (std::int64_t part = 0; part < count; ++part) {
            square += sums[static_cast<std::size_t>(part * columns + column)];
        }
        norms[column] = static_cast<float>(std::sqrt(square));
    }
}

} // namespace gemlora
