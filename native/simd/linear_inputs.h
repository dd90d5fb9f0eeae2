// Lays out the inputs of a linear layer for its tiles: as floats, or quantised.
#pragma once

#include "../inputs.h"
#include "functions.h"
#include "hadamard.h"

#include <algorithm>
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

// Quantises one group of one row: 16 · count inputs. Compared as integers, a NaN is the largest and reaches the scale, and
// with it the outputs.
template <class Isa, int count>
void quantise_group(const float* inputs, typename Isa::Integers most, const IntegerInputs& to, std::int64_t row,
                    std::int64_t group) {
    using Vector = typename Isa::Vector;
    using Integers = typename Isa::Integers;
    constexpr std::int64_t width = 4 * Isa::DotInput::words; // words of a vector
    const float largest_input = std::bit_cast<float>(largest(most));
    const float factor = quantiser(largest_input);
    const Vector factors = Vector::broadcast(factor);
    std::int32_t* const words = to.words + row * to.row_words + group * count * width;
    Integers total = Integers::broadcast(0);
#pragma GCC unroll 8
    for (int i = 0; i < count; i += 2) {
        const Vector low = factor == 0.0f ? Vector::zero() : Vector::load(inputs + i * 16);
        const Vector high = factor == 0.0f ? Vector::zero() : Vector::load(inputs + i * 16 + 16);
        const Integers first = round_to_integers(low * factors), second = round_to_integers(high * factors);
        pack_dot_inputs(first, second, words + i * width);
        total = total + (first + second);
    }
    const std::int64_t place = row * to.groups() + group;
    to.scales[place] = largest_input / (to.spread() ? largest_whole * unspread_divisor : largest_whole);
    if (to.sums != nullptr) {
        to.sums[place] = static_cast<float>(sum(total));
    }
    if (to.starts != nullptr) {
        to.starts[place] = -to.zero_point() * sum(total);
    }
}

// Quantises one row, with zeros past the columns of x, in groups of 16 · count inputs. Several groups are prepared before
// the first one is quantised: each for itself would wait for its largest input.
template <class Isa, int count>
void quantise_row(const Rows<const float>& x, const IntegerInputs& to, std::int64_t row) {
    using Vector = typename Isa::Vector;
    using Integers = typename Isa::Integers;
    constexpr std::int64_t at_once = 8, size = 16 * count;
    const float* const from = x.row(row);
    float prepared[at_once * size];
    Integers most[at_once];
    for (std::int64_t first = 0; first < to.groups(); first += at_once) {
        const std::int64_t groups = std::min(at_once, to.groups() - first);
        for (std::int64_t g = 0; g < groups; ++g) {
            Vector inputs[count];
#pragma GCC unroll 8
            for (int i = 0; i < count; ++i) {
                const std::int64_t start = (first + g) * size + i * 16, left = x.columns - start;
                inputs[i] = left >= 16  ? Vector::load(from + start)
                            : left > 0 ? Vector::load(from + start, left)
                                       : Vector::zero();
            }
            if constexpr (size == spread_inputs) {
                spread_vectors(inputs);
            }
            most[g] = Integers::broadcast(0);
#pragma GCC unroll 8
            for (int i = 0; i < count; ++i) {
                inputs[i].store(prepared + g * size + i * 16);
                most[g] = max(most[g], bits(absolute(inputs[i])));
            }
        }
        for (std::int64_t g = 0; g < groups; ++g) {
            quantise_group<Isa, count>(prepared + g * size, most[g], to, row, first + g);
        }
    }
}

template <class Isa>
void quantise_inputs(const Rows<const float>& x, const IntegerInputs& to, std::int64_t row) {
    to.spread() ? quantise_row<Isa, spread_inputs / 16>(x, to, row) : quantise_row<Isa, block_inputs / 16>(x, to, row);
}

} // namespace gemlora::simd
