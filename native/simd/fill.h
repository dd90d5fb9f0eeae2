// Fills the table of the instruction set that the including file is compiled for.
#pragma once

#include "attention.h"
#include "cache.h"
#include "float_linear.h"
#include "integer_linear.h"
#include "lora.h"
#include "rows.h"
#include "sampling.h"
#include "table.h"

namespace gemlora::simd {

template <class Isa>
constexpr KernelTable fill_table(std::string_view name) {
    return {
        .name = name,
        .float_rows = Isa::float_rows,
        .integer_rows = Isa::integer_rows,
        .integer_words = Isa::DotInput::words,
        .most_panels = 4,
        .gather_inputs = gather_inputs<Isa>,
        .quantise_inputs = quantise_inputs<Isa>,
        .float_linear = float_linear<Isa>,
        .integer_linear = integer_linear<Isa>,
        .unspread_group = unspread_group<Isa>,
        .sum_of_squares = sum_of_squares<Isa>,
        .rms_norm_row = rms_norm_row<Isa>,
        .add_row = add_row<Isa>,
        .rotate_head = rotate_head<Isa>,
        .gelu_gate_row = gelu_gate_row<Isa>,
        .softcap_row = softcap_row<Isa>,
        .store_key = store_key<Isa>,
        .store_value = store_value<Isa>,
        .attend = attend<Isa>,
        .lower = lower<Isa>,
        .raise = raise<Isa>,
        .largest_logit = largest_logit<Isa>,
        .next_at_least = next_at_least<Isa>,
        .likelihoods = likelihoods<Isa>,
        .sum_weights = sum_weights<Isa>,
    };
}

} // namespace gemlora::simd
