// Lays out the inputs of a linear layer for its tiles: as floats, or quantised.
#pragma once

#include "../inputs.h"
#include "functions.h"

#include <bit>

namespace gemlora::simd {

// Lays out the rows of one block, with zeros past the columns of x.
template <class Isa>
void gather_inputs(const Rows<const float>& x, const FloatInputs& to, std::int64_t block) {
    const std::int64_t first = to.blocks.start(block), rows = to.blocks.size(block);
    float* const numbers = to.numbers + first * to.inputs;
    for (std::int64_t row = 0; row < rows; ++row) {
        const float* const from = x.row(first + row);
        for (std::int64_t k = 0; k < to.inputs; ++k) {
            numbers[k * rows + row] = k < x.columns ? from[k] : 0.0f;
        }
    }
}

// The inputs of one block, as the tiles read them.
template <class Isa>
struct IntegerBlock {
    std::int64_t rows;
    std::int32_t* words;
    float* scales;
    GroupSums by_32, by_16;

    IntegerBlock(const IntegerInputs& inputs, std::int64_t block)
        : rows(inputs.blocks.size(block)),
          words(inputs.words + inputs.blocks.start(block) * (inputs.inputs / 4) * Isa::DotInput::words),
          scales(inputs.scales + inputs.blocks.start(block) * inputs.spans()),
          by_32(from(inputs.by_32, inputs.blocks.start(block) * (inputs.inputs / 32))),
          by_16(from(inputs.by_16, inputs.blocks.start(block) * (inputs.inputs / 16))) {}

    // Notes the sum of the whole numbers of one group and row in the arrays that are there.
    void set_sum(const GroupSums& groups, std::int64_t group, std::int64_t row, std::int32_t sum) const {
        const std::int64_t place = group * rows + row;
        if (groups.sums != nullptr) {
            groups.sums[place] = static_cast<float>(sum);
        }
        if (groups.minus_128_sums != nullptr) {
            groups.minus_128_sums[place] = -128 * sum;
        }
        if (groups.minus_8_sums != nullptr) {
            groups.minus_8_sums[place] = -8 * sum;
        }
    }

private:
    static GroupSums from(const GroupSums& groups, std::int64_t start) {
        const auto moved = [&](auto* numbers) { return numbers == nullptr ? nullptr : numbers + start; };
        return {moved(groups.sums), moved(groups.minus_128_sums), moved(groups.minus_8_sums)};
    }
};

// Quantises 32 inputs of one row of a block.
template <class Isa>
void quantise_group(typename Isa::Vector low, typename Isa::Vector high, typename Isa::Vector inverse,
                    const IntegerBlock<Isa>& to, std::int64_t group, std::int64_t row) {
    using Integers = typename Isa::Integers;
    const Integers first = round_to_integers(low * inverse), second = round_to_integers(high * inverse);
    std::int32_t words[8 * Isa::DotInput::words];
    pack_dot_inputs(first, second, words);
    for (std::int64_t i = 0; i < 8; ++i) {
        for (std::int64_t word = 0; word < Isa::DotInput::words; ++word) {
            to.words[((group * 8 + i) * to.rows + row) * Isa::DotInput::words + word] =
                words[i * Isa::DotInput::words + word];
        }
    }
    if (to.by_16.any()) {
        to.set_sum(to.by_16, 2 * group, row, sum(first));
        to.set_sum(to.by_16, 2 * group + 1, row, sum(second));
    }
    if (to.by_32.any()) {
        to.set_sum(to.by_32, group, row, sum(first + second));
    }
}

// Quantises one span of one row: `count` inputs, of which those from `columns` on are padding.
template <class Isa>
void quantise_span(const float* from, std::int64_t count, std::int64_t columns, const IntegerBlock<Isa>& to,
                   std::int64_t span, std::int64_t row) {
    using Vector = typename Isa::Vector;
    using Integers = typename Isa::Integers;
    Vector inputs[span_inputs / 16];
    // Compared as integers, a NaN is the largest and reaches the scale, and with it the outputs.
    Integers most = Integers::broadcast(0);
    for (std::int64_t i = 0; i < count / 16; ++i) {
        const std::int64_t left = columns - i * 16;
        inputs[i] = left >= 16 ? Vector::load(from + i * 16)
                    : left > 0 ? Vector::load(from + i * 16, left)
                               : Vector::zero();
        most = max(most, bits(absolute(inputs[i])));
    }
    const float largest_input = std::bit_cast<float>(largest(most));
    const bool usable = largest_input >= 0x1p-100f && largest_input < __builtin_inff();
    to.scales[span * to.rows + row] = largest_input / 127.0f;
    const Vector inverse = Vector::broadcast(usable ? 127.0f / largest_input : 0.0f);
    for (std::int64_t i = 0; i < count / 16; i += 2) {
        const Vector low = usable ? inputs[i] : Vector::zero(), high = usable ? inputs[i + 1] : Vector::zero();
        quantise_group<Isa>(low, high, inverse, to, (span * span_inputs + i * 16) / block_inputs, row);
    }
}

// Quantises the rows of one block, with zeros past the columns of x.
template <class Isa>
void quantise_inputs(const Rows<const float>& x, const IntegerInputs& inputs, std::int64_t block) {
    const IntegerBlock<Isa> to(inputs, block);
    for (std::int64_t row = 0; row < to.rows; ++row) {
        const float* const from = x.row(inputs.blocks.start(block) + row);
        for (std::int64_t span = 0; span < inputs.spans(); ++span) {
            const std::int64_t start = span * span_inputs, left = inputs.inputs - start;
            quantise_span<Isa>(from + start, left < span_inputs ? left : span_inputs, x.columns - start, to, span, row);
        }
    }
}

} // namespace gemlora::simd
