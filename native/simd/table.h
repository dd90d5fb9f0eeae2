// The kernels of one instruction set as a table of functions. They compute rows, panels or tasks on the calling thread.
#pragma once

#include "../attention.h"
#include "../inputs.h"
#include "../views.h"

#include <string_view>

namespace gemlora {

struct KernelTable {
    std::string_view name;
    // Most rows of a block of inputs, and int32 words per four quantised activations.
    std::int64_t float_rows, integer_rows, integer_words;
    // Panels to give to one thread at a time are a multiple of this.
    std::int64_t most_panels;

    void (*gather_inputs)(const Rows<const float>& x, const FloatInputs& to, std::int64_t block);
    void (*quantise_inputs)(const Rows<const float>& x, const IntegerInputs& to, std::int64_t row);
    void (*float_linear)(const PackedMatrix& matrix, const FloatInputs& x, const Rows<float>& out,
                         const LinearPart& part, float* scratch);
    void (*integer_linear)(const PackedMatrix& matrix, const IntegerInputs& x, const Rows<float>& out,
                           const LinearPart& part);
    void (*unspread_group)(float* numbers);
    float (*sum_of_squares)(const float* numbers, std::int64_t size);
    void (*rms_norm_row)(const float* x, const float* weight, std::int64_t size, float epsilon, float* out);
    void (*add_row)(float* x, const float* y, std::int64_t size);
    void (*rotate_head)(float* x, const float* cosines, const float* sines, std::int64_t half);
    void (*gelu_gate_row)(const float* gate, const float* up, std::int64_t size, float* out);
    void (*softcap_row)(float* x, std::int64_t size, float cap);
    void (*store_key)(const float* key, const Cache& cache, std::int64_t block, std::int64_t head, std::int64_t place);
    void (*store_value)(const float* value, const Cache& cache, std::int64_t block, std::int64_t head,
                        std::int64_t place);
    void (*attend)(const AttentionInputs& inputs, const AttentionTask& task, float* scratch);
    void (*lower)(const LowRank& change, const Rows<const float>& x, float* low_rank);
    void (*raise)(const LowRank& change, const float* low_rank, const Rows<float>& out, std::int64_t begin,
                  std::int64_t end);
    float (*largest_logit)(const float* logits, std::int64_t size);
    std::int64_t (*next_at_least)(const float* numbers, std::int64_t start, std::int64_t size, float floor);
    void (*likelihoods)(float* logits, std::int64_t size, float most, float temperature);
    std::uint64_t (*sum_weights)(const float* likelihoods, std::int64_t size);
};

// The tables of the instruction sets that this build has and this processor can run, the fastest first.
struct KernelTables {
    const KernelTable* tables[3];
    int count;
};
KernelTables available_tables();

} // namespace gemlora
