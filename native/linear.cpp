// Linear layers: lays out the inputs once, then gives panels of all matrices to the threads.
#include "kernels.h"

#include <algorithm>
#include <cmath>

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

// Room for the inputs of the matrices with this group size, if there are any.
IntegerInputs integer_inputs(Scratch& scratch, const Rows<const float>& x, std::int64_t group, const KernelTable& table,
                             const std::vector<const PackedMatrix*>& matrices) {
    const auto some = [&](auto&& needs) {
        return std::ranges::any_of(
            matrices, [&](const auto* m) { return uses_integers(*m) && m->group == group && needs(*m); });
    };
    const std::int64_t inputs = ceil_divide(x.columns, group) * group;
    // A cache line between rows, so that those of a tile do not share a few sets of the cache.
    const std::int64_t row_words = inputs / 4 * table.integer_words + 16;
    IntegerInputs result{RowBlocks(x.rows, table.integer_rows), inputs, group, row_words};
    if (some([](const PackedMatrix&) { return true; })) {
        const std::int64_t words = x.rows * row_words, groups = x.rows * result.groups();
        Pieces pieces(scratch.get<std::byte>((words + 3 * groups) * 4 + 4 * 64));
        result.words = pieces.take<std::int32_t>(words);
        result.scales = pieces.take<float>(groups);
        if (some([](const PackedMatrix& m) { return m.minimums.data != nullptr; })) {
            result.sums = pieces.take<float>(groups);
        }
        if (some([](const PackedMatrix& m) { return m.zero_point() != 0; })) {
            result.starts = pieces.take<std::int32_t>(groups);
        }
    }
    return result;
}

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

// What is largest among some outputs of a row, of equal ones the first: not finite if any of them cannot be drawn.
struct Largest {
    float number = -__builtin_inff();
    std::int64_t index = -1;

    // A NaN stays.
    bool yields_to(float found, std::int64_t at) const {
        return !std::isnan(number) && (!(found <= number) || (found == number && at < index));
    }
};

} // namespace

// The parts of one matrix: some panels of some blocks of rows each, the blocks of one chunk before those of the next.
struct Kernels::Work {
    RowBlocks blocks;
    std::int64_t all_panels, panels, chunk; // the latter two per part

    std::int64_t parts_of_chunk() const { return ceil_divide(all_panels, panels); }
    std::int64_t parts() const { return parts_of_chunk() * ceil_divide(blocks.count, chunk); }
    LinearPart part(std::int64_t index) const {
        const std::int64_t panel = index % parts_of_chunk() * panels, block = index / parts_of_chunk() * chunk;
        return {panel, std::min(panel + panels, all_panels), block, std::min(block + chunk, blocks.count)};
    }
};

// The inputs in the layouts that the matrices need.
struct Kernels::LinearInputs {
    FloatInputs floats;
    IntegerInputs spread, plain;

    const IntegerInputs& integers_for(const PackedMatrix& matrix) const { return matrix.spread() ? spread : plain; }
    const RowBlocks& blocks_for(const PackedMatrix& matrix) const {
        return uses_integers(matrix) ? integers_for(matrix).blocks : floats.blocks;
    }
};

Kernels::LinearInputs Kernels::lay_out(const Rows<const float>& x, const std::vector<const PackedMatrix*>& matrices) {
    const std::int64_t inputs = ceil_divide(x.columns, block_inputs) * block_inputs;
    LinearInputs result{{RowBlocks(x.rows, table_.float_rows), inputs, nullptr},
                        integer_inputs(spread_scratch_, x, spread_inputs, table_, matrices),
                        integer_inputs(plain_scratch_, x, block_inputs, table_, matrices)};
    if (std::ranges::any_of(matrices, [](const auto* m) { return !uses_integers(*m); })) {
        result.floats.numbers = input_scratch_.get<float>(x.rows * inputs);
        pool_.run(result.floats.blocks.count,
                  [&](std::int64_t block, int) { table_.gather_inputs(x, result.floats, block); });
    }
    for (const IntegerInputs* integers : {&result.spread, &result.plain}) {
        if (integers->words != nullptr) {
            for_rows(x.rows, 4 * x.columns, [&](std::int64_t row) { table_.quantise_inputs(x, *integers, row); });
        }
    }
    return result;
}

void Kernels::multiply(const PackedMatrix& matrix, const LinearInputs& inputs, const Rows<float>& out,
                       const LinearPart& part, int thread) {
    if (uses_integers(matrix)) {
        table_.integer_linear(matrix, inputs.integers_for(matrix), out, part);
    } else {
        const std::int64_t unpacked = matrix.integers() ? table_.most_panels * panel_size * matrix.inputs() : 0;
        table_.float_linear(matrix, inputs.floats, out, part, thread_scratch(thread).get<float>(unpacked));
    }
}

Kernels::Work Kernels::work_on(const PackedMatrix& matrix, const LinearInputs& inputs) const {
    const RowBlocks& blocks = inputs.blocks_for(matrix);
    const std::int64_t number_bytes = uses_integers(matrix) ? table_.integer_words : 4;
    const std::int64_t chunk = blocks_per_chunk(blocks, number_bytes * matrix.inputs());
    return {blocks, matrix.panels(),
            panels_per_task(matrix, chunk * blocks.size(0), table_.most_panels, pool_.size()), chunk};
}

void Kernels::linear(const Rows<const float>& x, const std::vector<const PackedMatrix*>& matrices,
                     const Rows<float>& out) {
    const std::lock_guard lock(mutex_);
    if (x.rows == 0 || matrices.empty()) {
        return;
    }
    struct Share {
        const PackedMatrix* matrix;
        Rows<float> out;
        Work work;
        std::int64_t first_task;
    };
    const LinearInputs inputs = lay_out(x, matrices);
    std::vector<Share> shares;
    std::int64_t tasks = 0, column = 0;
    for (const PackedMatrix* matrix : matrices) {
        shares.push_back(
            {matrix, {out.data + column, out.rows, matrix->rows, out.stride}, work_on(*matrix, inputs), tasks});
        tasks += shares.back().work.parts();
        column += matrix->rows;
    }
    pool_.run(tasks, [&](std::int64_t task, int thread) {
        const auto after = std::ranges::find_if(shares, [&](const Share& share) { return share.first_task > task; });
        const Share& share = *(after - 1);
        multiply(*share.matrix, inputs, share.out, share.work.part(task - share.first_task), thread);
    });
}

void Kernels::most_likely(const Rows<const float>& x, const PackedMatrix& head, std::optional<float> softcap,
                          std::int32_t* tokens) {
    constexpr std::int64_t run = 16, stride = (run + 1) * panel_size; // an odd number of cache lines
    const std::lock_guard lock(mutex_);
    if (x.rows == 0) {
        return;
    }
    const LinearInputs inputs = lay_out(x, {&head});
    const Work work = work_on(head, inputs);
    const auto threads = static_cast<std::size_t>(pool_.size()), rows = static_cast<std::size_t>(x.rows);
    float* const logits = logit_scratch_.get<float>(pool_.size() * x.rows * stride);
    std::vector<Largest> found(threads * rows);
    pool_.run(work.parts(), [&](std::int64_t task, int thread) {
        const LinearPart part = work.part(task);
        const std::int64_t first_row = work.blocks.start(part.first_block), end_row = work.blocks.start(part.end_block);
        Largest* const mine = found.data() + static_cast<std::size_t>(thread) * rows;
        for (std::int64_t panel = part.first_panel; panel < part.end_panel; panel += run) {
            const PackedMatrix some = head.between(panel, std::min(panel + run, part.end_panel));
            const Rows<float> out{logits + thread * x.rows * stride, x.rows, some.rows, stride};
            multiply(some, inputs, out, {0, some.panels(), part.first_block, part.end_block}, thread);
            for (std::int64_t row = first_row; row < end_row; ++row) {
                if (softcap) {
                    table_.softcap_row(out.row(row), some.rows, *softcap);
                }
                const float largest = table_.largest_logit(out.row(row), some.rows);
                if (mine[row].yields_to(largest, panel * panel_size)) {
                    mine[row] = {largest, panel * panel_size + table_.next_at_least(out.row(row), 0, some.rows, largest)};
                }
            }
        }
    });
    for (std::size_t row = 0; row < rows; ++row) {
        Largest largest;
        for (std::size_t thread = 0; thread < threads; ++thread) {
            const Largest& other = found[thread * rows + row];
            largest = largest.yields_to(other.number, other.index) ? other : largest;
        }
        tokens[row] = std::isfinite(largest.number) ? static_cast<std::int32_t>(largest.index) : -1;
    }
}

} // namespace gemlora
