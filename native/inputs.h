// The inputs of a linear layer, laid out for its kernels: rows in blocks, and each block input by input.
#pragma once

#include "views.h"

namespace gemlora {

// Rows split evenly into as few blocks of at most `most` rows as possible; the first blocks may have one row more.
struct RowBlocks {
    std::int64_t rows, count;

    RowBlocks(std::int64_t rows_, std::int64_t most) : rows(rows_), count(ceil_divide(rows_, most)) {}

    std::int64_t start(std::int64_t block) const {
        const std::int64_t longer = rows % count;
        return block * (rows / count) + (block < longer ? block : longer);
    }
    std::int64_t size(std::int64_t block) const { return rows / count + (block < rows % count ? 1 : 0); }
};

// Some panels of a matrix and some blocks of rows.
struct LinearPart {
    std::int64_t first_panel, end_panel, first_block, end_block;
};

// Block b with R rows lies at start(b) · inputs, as [inputs, R].
struct FloatInputs {
    RowBlocks blocks;
    std::int64_t inputs;
    float* numbers;
};

// Inputs that share one scale of quantised activations.
constexpr std::int64_t span_inputs = 32;

// Sums of quantised activations by group of inputs [groups, R], for the minimums, and minus the sums times the zero
// points of 8-bit and 4-bit weights. Null: no matrix needs them.
struct GroupSums {
    float* sums = nullptr;
    std::int32_t* minus_128_sums = nullptr;
    std::int32_t* minus_8_sums = nullptr;

    bool any() const { return sums != nullptr || minus_128_sums != nullptr || minus_8_sums != nullptr; }
};

// Activations as whole numbers −127 … 127 with a scale per row and span of inputs. Block b with R rows lies at start(b)
// times the numbers per row: words [inputs / 4, R, words per four inputs], scales [spans, R], and the sums.

struct IntegerInputs {
    RowBlocks blocks;
    std::int64_t inputs;
    std::int32_t* words;
    float* scales;
    GroupSums by_32, by_16;

    std::int64_t spans() const { return ceil_divide(inputs, span_inputs); }
};

} // namespace gemlora
