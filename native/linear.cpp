// Linear layers: lays out the inputs once, then gives panels of all matrices to the threads.
#include "kernels.h"

#include <algorithm>

namespace gemlora {
namespace {

bool uses_integers(const PackedMatrix& matrix) { return matrix.integers() && matrix.quantize_activations; }

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

// The sums that the matrices with this group size need.
GroupSums take_sums(Pieces& pieces, std::int64_t rows, std::int64_t inputs, std::int64_t group,
                    const std::vector<const PackedMatrix*>& matrices) {
    const auto some = [&](auto&& needs) {
        return std::ranges::any_of(
            matrices, [&](const auto* m) { return uses_integers(*m) && m->group == group && needs(*m); });
    };
    const std::int64_t count = rows * (inputs / group);
    GroupSums result;
    if (some([](const PackedMatrix& m) { return m.minimums.data != nullptr; })) {
        result.sums = pieces.take<float>(count);
    }
    if (some([](const PackedMatrix& m) { return m.zero_point() == 128; })) {
        result.minus_128_sums = pieces.take<std::int32_t>(count);
    }
    if (some([](const PackedMatrix& m) { return m.zero_point() == 8; })) {
        result.minus_8_sums = pieces.take<std::int32_t>(count);
    }
    return result;
}

IntegerInputs integer_inputs(Scratch& scratch, std::int64_t rows, std::int64_t inputs, const KernelTable& table,
                             const std::vector<const PackedMatrix*>& matrices) {
    IntegerInputs result{RowBlocks(rows, table.integer_rows), inputs, nullptr, nullptr, {}, {}};
    const std::int64_t words = rows * (inputs / 4) * table.integer_words, groups = rows * (inputs / block_inputs);
    const std::int64_t scales = rows * result.spans();
    Pieces pieces(scratch.get<std::byte>((words + scales + 9 * groups) * 4 + 8 * 64));
    result.words = pieces.take<std::int32_t>(words);
    result.scales = pieces.take<float>(scales);
    result.by_32 = take_sums(pieces, rows, inputs, 32, matrices);
    result.by_16 = take_sums(pieces, rows, inputs, 16, matrices);
    return result;
}

// The parts of one matrix: some panels of some blocks of rows each, the blocks of one chunk before those of the next.
struct Work {
    const PackedMatrix* matrix;
    std::int64_t column; // of the matrix's first output
    RowBlocks blocks;
    std::int64_t panels, chunk; // per part
    std::int64_t first_task;

    std::int64_t parts_of_chunk() const { return ceil_divide(matrix->panels(), panels); }
    std::int64_t parts() const { return parts_of_chunk() * ceil_divide(blocks.count, chunk); }
    LinearPart part(std::int64_t index) const {
        const std::int64_t panel = index % parts_of_chunk() * panels, block = index / parts_of_chunk() * chunk;
        return {panel, std::min(panel + panels, matrix->panels()), block, std::min(block + chunk, blocks.count)};
    }
};

// Tasks of about 1 MMAC or 128 KiB of weights, whichever is more, are long enough to be worth handing out. Of many
// panels each task gets a longer run, because the first ones of a run are not fetched ahead; but every thread should get
// some.
std::int64_t panels_per_task(const PackedMatrix& matrix, std::int64_t rows, std::int64_t multiple, int threads) {
    const std::int64_t macs = matrix.inputs() * panel_size * std::max<std::int64_t>(rows, 8);
    const std::int64_t worthwhile = std::max(ceil_divide(std::int64_t{1} << 20, macs), matrix.panels() / (32 * threads));
    const std::int64_t fair = ceil_divide(matrix.panels(), 2 * threads);
    return ceil_divide(std::min(worthwhile, fair), multiple) * multiple;
}

// The inputs of a chunk of blocks stay in the second-level cache while all panels go by.
std::int64_t blocks_per_chunk(const RowBlocks& blocks, std::int64_t row_bytes) {
    constexpr std::int64_t chunk_bytes = 160 << 10, fewest = 8;
    const std::int64_t most = std::max(fewest, chunk_bytes / (row_bytes * blocks.size(0)));
    const std::int64_t chunks = ceil_divide(blocks.count, most);
    return ceil_divide(blocks.count, chunks);
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
    IntegerInputs integer_x = integer_inputs(quantised_scratch_, x.rows, inputs, table_, matrices);
    if (integers) {
        pool_.run(integer_x.blocks.count,
                  [&](std::int64_t block, int) { table_.quantise_inputs(x, integer_x, block); });
    }

    std::vector<Work> work;
    std::int64_t tasks = 0, column = 0, scratch = 0;
    for (const PackedMatrix* matrix : matrices) {
        const bool whole = uses_integers(*matrix);
        const RowBlocks& blocks = whole ? integer_x.blocks : float_x.blocks;
        const std::int64_t chunk = blocks_per_chunk(blocks, whole ? table_.integer_words * inputs : 4 * inputs);
        const std::int64_t panels =
            panels_per_task(*matrix, chunk * blocks.size(0), table_.most_panels, pool_.size());
        work.push_back({matrix, column, blocks, panels, chunk, tasks});
        tasks += work.back().parts();
        column += matrix->rows;
        if (matrix->integers() && !whole) {
            scratch = std::max(scratch, table_.most_panels * panel_size * matrix->inputs());
        }
    }
    for (Scratch& each : thread_scratch_) {
        each.get<float>(scratch);
    }
    pool_.run(tasks, [&](std::int64_t task, int thread) {
        const auto after = std::ranges::find_if(work, [&](const Work& w) { return w.first_task > task; });
        const Work& mine = *(after - 1);
        const LinearPart part = mine.part(task - mine.first_task);
        const Rows<float> to{out.data + mine.column, out.rows, mine.matrix->rows, out.stride};
        if (uses_integers(*mine.matrix)) {
            table_.integer_linear(*mine.matrix, integer_x, to, part);
        } else {
            table_.float_linear(*mine.matrix, float_x, to, part, thread_scratch(thread).get<float>(scratch));
        }
    });
}

} // namespace gemlora
