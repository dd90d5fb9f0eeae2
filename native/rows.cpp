// Kernels that change each row by itself.
#include "checks.h"
#include "kernels.h"
#include "unpacking.h"

namespace gemlora {
void Kernels::embed(const PackedMatrix& matrix, Span<std::int32_t> tokens, float scale, const Rows<float>& out) {
    const std::lock_guard lock(mutex_);
    require_below(tokens, matrix.rows, "tokens");
    for_rows(tokens.size, 8 * matrix.columns, [&](std::int64_t row) {
        float* const numbers = out.row(row);
        unpack_row(matrix, tokens[row], numbers);
        for (std::int64_t column = 0; column < matrix.columns; ++column) {
            numbers[column] *= scale;
        }
    });
}

void Kernels::rms_norm(const Heads<const float>& x, const float* weight, float epsilon, const Heads<float>& out) {
    const std::lock_guard lock(mutex_);
    for_rows(x.rows, x.heads * x.size, [&](std::int64_t row) {
        for (std::int64_t head = 0; head < x.heads; ++head) {
            table_.rms_norm_row(x.at(row, head), weight, x.size, epsilon, out.at(row, head));
        }
    });
}

void Kernels::add(const Rows<float>& x, const Rows<const float>& y) {
    const std::lock_guard lock(mutex_);
    for_rows(x.rows, x.columns, [&](std::int64_t row) { table_.add_row(x.row(row), y.row(row), x.columns); });
}

void Kernels::rotate(const Heads<float>& x, const Rows<const float>& cosines, const Rows<const float>& sines,
                     Span<std::int32_t> positions) {
    const std::lock_guard lock(mutex_);
    require_below(positions, cosines.rows, "positions");
    for_rows(x.rows, x.heads * x.size, [&](std::int64_t row) {
        const std::int64_t position = positions[row];
        for (std::int64_t head = 0; head < x.heads; ++head) {
            table_.rotate_head(x.at(row, head), cosines.row(position), sines.row(position), x.size / 2);
        }
    });
}

void Kernels::gelu_gate(const Rows<const float>& gate_up, const Rows<float>& out) {
    const std::lock_guard lock(mutex_);
    for_rows(out.rows, 4 * out.columns, [&](std::int64_t row) {
        const float* const gate = gate_up.row(row);
        table_.gelu_gate_row(gate, gate + out.columns, out.columns, out.row(row));
    });
}

void Kernels::softcap(const Rows<float>& x, float cap) {
    const std::lock_guard lock(mutex_);
    for_rows(x.rows, 4 * x.columns, [&](std::int64_t row) { table_.softcap_row(x.row(row), x.columns, cap); });
}

} // namespace gemlora
