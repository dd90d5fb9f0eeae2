// The kernels with their threads and instruction set. Arguments are checked for what shapes cannot say: ids, positions
// and block numbers in range; std::invalid_argument names what is wrong, before anything is written.
#pragma once

#include "scratch.h"
#include "simd/table.h"
#include "thread_pool.h"

#include <mutex>
#include <optional>
#include <vector>

namespace gemlora {

struct Sampling {
    Span<float> temperature;
    Span<std::int32_t> top_k;
    Span<float> top_p;
    Span<std::uint64_t> seed, index;
    Span<float> repetition_penalty, frequency_penalty, presence_penalty;
    Span<std::int32_t> history_tokens, history_counts;
    Span<std::int64_t> history_ends;
    Rows<const std::uint32_t> masks; // a bit for each token that may be drawn, the lowest bit of a word first
    Span<std::int32_t> mask_rows;    // whose they are, ascending; the other rows have none
};

// What a half of a layer adds to the stream, after a norm if there is one.
struct Branch {
    Rows<float> rows;
    const float* norm; // or null
};

// Heads that get their position, after a norm if there is one.
struct RotatedHeads {
    Heads<float> heads;
    const float* norm; // [size] or null
};

// One call at a time runs; others wait.
class Kernels {
public:
    Kernels(int threads, const KernelTable& table);

    void linear(const Rows<const float>& x, const std::vector<const PackedMatrix*>& matrices, const Rows<float>& out);
    void most_likely(const Rows<const float>& x, const PackedMatrix& head, std::optional<float> softcap,
                     std::int32_t* tokens);
    void embed(const PackedMatrix& matrix, Span<std::int32_t> tokens, float scale, const Rows<float>& out);
    void rms_norm(const Heads<const float>& x, const float* weight, float epsilon, const Heads<float>& out);
    void add_branch(const Rows<float>& stream, const Branch& branch, const float* norm, float epsilon,
                    const Rows<float>& normed);
    void rotate(const RotatedHeads& queries, const RotatedHeads& keys, float epsilon, const Rows<const float>& cosines,
                const Rows<const float>& sines, Span<std::int32_t> positions);
    void store_kv(const Heads<const float>& keys, const Heads<const float>& values, const Cache& cache,
                  const Paging& paging);
    void attend(const AttentionInputs& inputs);
    void gelu_gate(const Rows<const float>& gate_up, const Rows<float>& out);
    void softcap(const Rows<float>& x, float cap);
    void adapt(const Rows<const float>& x, const Rows<float>& out, const std::vector<LowRankRows>& changes);
    void adapt_embedding(Span<std::int32_t> tokens, float scale, const Rows<float>& out,
                         const std::vector<LowRankRows>& changes);
    void row_norms(const Changed& weights, float* norms);
    void column_norms(const Changed& weights, float* norms);
    void sample(const Rows<float>& logits, const Sampling& sampling, std::int32_t* tokens);

private:
    struct LinearInputs;
    struct Work;

    LinearInputs lay_out(const Rows<const float>& x, const std::vector<const PackedMatrix*>& matrices);
    Work work_on(const PackedMatrix& matrix, const LinearInputs& inputs) const;
    void multiply(const PackedMatrix& matrix, const LinearInputs& inputs, const Rows<float>& out,
                  const LinearPart& part, int thread);

    // body(row) for all rows, in parallel if they are worth it.
    template <class Function>
    void for_rows(std::int64_t rows, std::int64_t numbers_per_row, Function&& body) {
        constexpr std::int64_t worthwhile = 16384; // numbers; a few microseconds of work
        const std::int64_t most = ceil_divide(worthwhile, numbers_per_row > 0 ? numbers_per_row : 1);
        pool_.run(ceil_divide(rows, most), [&](std::int64_t task, int) {
            const std::int64_t end = (task + 1) * most < rows ? (task + 1) * most : rows;
            for (std::int64_t row = task * most; row < end; ++row) {
                body(row);
            }
        });
    }

    template <class Function>
    void changed_rows(const Changed& weights, const std::vector<float>& right, std::int64_t begin, std::int64_t end,
                      float* numbers, Function&& row);
    template <class Function>
    void raise(const Rows<float>& out, const std::vector<LowRankRows>& changes, Function&& lower);

    Scratch& thread_scratch(int thread) { return thread_scratch_[static_cast<std::size_t>(thread)]; }

    const KernelTable& table_;
    ThreadPool pool_;
    std::mutex mutex_;
    Scratch input_scratch_, spread_scratch_, plain_scratch_, logit_scratch_;
    std::vector<Scratch> thread_scratch_; // one a thread
};

} // namespace gemlora
