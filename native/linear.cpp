// Linear layers: lays out the inputs once, then gives panels of all matrices to the threads.
#include "kernels.h"

#include <algorithm>

namespace gemlora {
namespace {

bool uses_integers(const PackedMatrix& matrix) { return matrix.integers && matrix.quantize_activations; }

// Cuts one piece of memory into arrays.
class Pieces {
public:
    explicit Pieces(std::byte* memory) : memory_(memory) {}

    template <class Number>
    Number* take(std::int64_t count) {
        Number* const result = reinterpret_cast<Number*>(memory_);
        memory_ += static_cast<std::size_t>(ceil_divide(count * static_cast<std::int64_t>(sizeof(Number)), 64) * 64);
        return result;
    }

private:
    std::byte* memory_;
};

IntegerInputs integer_inputs(Scratch& scratch, std::int64_t rows, std::int64_t inputs, const KernelTable& table) {
    const std::int64_t words = rows * (inputs / 4) * table.integer_words, groups = rows * (inputs / block_inputs);
    Pieces pieces(scratch.get<std::byte>((words + 8 * groups) * 4 + 6 * 64));
    IntegerInputs result{RowBlocks(rows, table.integer_rows), inputs, nullptr, nullptr, nullptr, nullptr, nullptr, nullptr};
    result.words = pieces.take<std::int32_t>(words);
    result.scales = pieces.take<float>(groups);
    result.bias_32 = pieces.take<std::int32_t>(groups);
    result.bias_16 = pieces.take<std::int32_t>(2 * groups);
    result.scaled_sums_32 = pieces.take<float>(groups);
    result.scaled_sums_16 = pieces.take<float>(2 * groups);
    return result;
}

// Consecutive panels of one matrix.
struct Work {
    const PackedMatrix* matrix;
    std::int64_t column; // of the matrix's first output
    std::int64_t panels; // per task
    std::int64_t first_task;
};

// Tasks of about 1 MMAC or 128 KiB of weights, whichever is more, are long enough to be worth handing out; but every
// thread should get some.
std::int64_t panels_per_task(const PackedMatrix& matrix, std::int64_t rows, std::int64_t multiple, int threads) {
    const std::int64_t macs = matrix.inputs() * panel_size * std::max<std::int64_t>(rows, 8);
    const std::int64_t worthwhile = ceil_divide(std::int64_t{1} << 20, macs);
    const std::int64_t fair = ceil_divide(matrix.panels(), 2 * threads);
    return ceil_divide(std::min(worthwhile, fair), multiple) * multiple;
}

} // namespace

void Kernels::linear(const Rows<const float>& x, const std::vector<const PackedMatrix*>& matrices,
                     const Rows<float>& out) {
    const std::lock_guard lock(mutex_);
    if (x.rows == 0 || matrices.empty()) {
        return;
    }
    const std::int64_t inputs = ceil_divide(x.columns, block_inputs) * block_inputs;
    const bool integers = std::ranges::any_of(matrices, [](const auto* m) { return uses_integers(*m); });
    const bool floats = std::ranges::any_of(matrices, [](const auto* m) { return !uses_integers(*m); });
    FloatInputs float_x{RowBlocks(x.rows, table_.float_rows), inputs, nullptr};
    if (floats) {
        float_x.numbers = input_scratch_.get<float>(x.rows * inputs);
        pool_.run(float_x.blocks.count,
                  [&](std::int64_t block, int) { table_.gather_inputs(x, float_x, block); });
    }
    IntegerInputs integer_x = integer_inputs(quantised_scratch_, x.rows, inputs, table_);
    if (integers) {
        pool_.run(integer_x.blocks.count,
                  [&](std::int64_t block, int) { table_.quantise_inputs(x, integer_x, block); });
    }

    std::vector<Work> work;
    std::int64_t tasks = 0, column = 0, scratch = 0;
    for (const PackedMatrix* matrix : matrices) {
        const std::int64_t panels = panels_per_task(*matrix, x.rows, table_.most_panels, pool_.size());
        work.push_back({matrix, column, panels, tasks});
        tasks += ceil_divide(matrix->panels(), panels);
        column += matrix->rows;
        if (matrix->integers) {
            scratch = std::max(scratch, table_.most_panels * panel_size * matrix->inputs());
        }
    }
    for (Scratch& each : thread_scratch_) {
        each.get<float>(scratch);
    }
    pool_.run(tasks, [&](std::int64_t task, int thread) {
        const auto after = std::ranges::find_if(work, [&](const Work& w) { return w.first_task > task; });
        const Work& mine = *(after - 1);
        const std::int64_t begin = (task - mine.first_task) * mine.panels;
        const std::int64_t end = std::min(begin + mine.panels, mine.matrix->panels());
        const Rows<float> to{out.data + mine.column, out.rows, mine.matrix->rows, out.stride};
        float* const memory = thread_scratch(thread).get<float>(scratch);
        if (uses_integers(*mine.matrix)) {
            table_.integer_linear(*mine.matrix, integer_x, to, begin, end, memory);
        } else {
            table_.float_linear(*mine.matrix, float_x, to, begin, end, memory);
        }
    });
}

} // namespace gemlora
