// Causal attention over the paged cache, in floats or in whole numbers.
#pragma once

#include "float_attention.h"
#include "integer_attention.h"

namespace gemlora::simd {

template <class Isa>
void attend(const AttentionInputs& inputs, const AttentionTask& task, float* scratch) {
    if (inputs.cache.integers) {
        IntegerAttention<Isa>(inputs, task, scratch).run();
    } else {
        FloatAttention<Isa>(inputs, task, scratch).run();
    }
}

} // namespace gemlora::simd
