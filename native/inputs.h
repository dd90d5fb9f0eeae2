// The inputs of a linear layer, laid out for its kernels: floats in blocks of rows, each input by input; whole numbers row
// by row.
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

// Activations as whole numbers −127 … 127 with a scale per row and group of inputs, as long as the weights' groups; in
// the groups of spread matrices they are spread first. Rows lie one after the other: words [R, row words], one word or
// two for four inputs, scales [R, groups], and the sums of each group [R, groups]: for the minimums, and times minus the
// weights' zero point. Null: no matrix needs them.
struct IntegerInputs {
    RowBlocks blocks;
    std::int64_t inputs, group, row_words;
    std::int32_t* words = nullptr;
    float* scales = nullptr;
    float* sums = nullptr;
    std::int32_t* starts = nullptr;

    bool spread() const { return group == spread_inputs; }
    std::int64_t groups() const { return inputs / group; }
    int zero_point() const { return spread() ? 128 : 8; }
};

} // namespace gemlora
