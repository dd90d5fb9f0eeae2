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

// Block b with R rows lies at start(b) · inputs, as [inputs, R].
struct FloatInputs {
    RowBlocks blocks;
    std::int64_t inputs;
    float* numbers;
};

// Activations as whole numbers −127 … 127 with a scale per row and group of 32 inputs. Block b with R rows lies at
// start(b) times the numbers per row, as [groups, R] (words: [inputs / 4, R, words]). The sums are per group of 32 and
// of 16 inputs: `bias` is −128 · sum and cancels the weights' bias, `scaled_sums` is scale · sum, for the minimums.
struct IntegerInputs {
    RowBlocks blocks;
    std::int64_t inputs;
    std::int32_t* words;
    float* scales;
    std::int32_t* bias_32;
    std::int32_t* bias_16;
    float* scaled_sums_32;
    float* scaled_sums_16;
};

} // namespace gemlora
