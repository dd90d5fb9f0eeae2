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
        unpack_row(matrix, tokens[row], table_, numbers);
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

void Kernels::add_branch(const Rows<float>& stream, const Branch& branch, const float* norm, float epsilon,
                         const Rows<float>& normed) {
    const std::lock_guard lock(mutex_);
    const std::int64_t size = stream.columns;
    for_rows(stream.rows, 3 * size, [&](std::int64_t row) {
        float* const added = branch.rows.row(row);
        if (branch.norm != nullptr) {
            table_.rms_norm_row(added, branch.norm, size, epsilon, added);
        }
        table_.add_row(stream.row(row), added, size);
        table_.rms_norm_row(stream.row(row), norm, size, epsilon, normed.row(row));
    });
}

void Kernels::rotate(const RotatedHeads& queries, const RotatedHeads& keys, float epsilon,
                     const Rows<const float>& cosines, const Rows<const float>& sines,
                     Span<std::int32_t> positions) {
    const std::lock_guard lock(mutex_);
    require_below(positions, cosines.rows, "positions");
    const std::int64_t heads = queries.heads.heads + keys.heads.heads;
    for_rows(positions.size, 2 * heads * queries.heads.size, [&](std::int64_t row) {
        const std::int64_t position = positions[row];
        for (const RotatedHeads* rotated : {&queries, &keys}) {
            const Heads<float>& x = rotated->heads;
            for (std::int64_t head = 0; head < x.heads; ++head) {
                if (rotated->norm != nullptr) {
                    table_.rms_norm_row(x.at(row, head), rotated->norm, x.size, epsilon, x.at(row, head));
                }
                table_.rotate_head(x.at(row, head), cosines.row(position), sines.row(position), x.size / 2);
            }
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
