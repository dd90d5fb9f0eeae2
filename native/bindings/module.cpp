// The Python face of the kernels: checks types, dimensions and sizes of the arrays, releases the GIL, calls.
#include "../kernels.h"
#include "arrays.h"
#include "caches.h"
#include "objects.h"

#include <nanobind/stl/pair.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/string_view.h>
#include <nanobind/stl/vector.h>

#include <functional>
#include <initializer_list>
#include <memory>
#include <stdexcept>

namespace gemlora::python {
namespace {

// Calls of a library's kernels with their arrays, which can be made again as one.
struct Program {
    std::vector<std::function<void(const Segments&)>> calls;
    std::vector<nb::object> kept;

    void keep(std::initializer_list<nb::handle> objects) {
        for (nb::handle object : objects) {
            kept.push_back(nb::borrow(object));
        }
    }

    void run(const Segments& segments) const {
        const nb::gil_scoped_release release;
        for (const auto& call : calls) {
            call(segments);
        }
    }
};

class Library {
public:
    Library(int threads, const std::string& instruction_set) : kernels_(threads, find(instruction_set)) {}

    // From now on calls are recorded, until `end_recording`.
    std::shared_ptr<Program> begin_recording() {
        require_no_recording();
        recording_ = std::make_shared<Program>();
        recording_->keep({nb::find(this)});
        return recording_;
    }

    void end_recording() { recording_.reset(); }

    static std::vector<std::string> instruction_sets() {
        const KernelTables available = available_tables();
        std::vector<std::string> names;
        for (int i = 0; i < available.count; ++i) {
            names.emplace_back(available.tables[i]->name);
        }
        return names;
    }

    void linear(nb::handle x_, const std::vector<const Matrix*>& matrices, nb::handle out_) {
        const auto x = rows_of<const float>(x_, "x");
        const auto out = rows_of<float>(out_, "out");
        std::vector<const PackedMatrix*> packed;
        std::int64_t outputs = 0;
        for (const Matrix* matrix : matrices) {
            require_size(matrix->packed.columns, x.columns, "inputs of a matrix");
            outputs += matrix->packed.rows;
            packed.push_back(&matrix->packed);
        }
        require_size(out.rows, x.rows, "rows of out");
        require_size(out.columns, outputs, "columns of out");
        if (recording_) {
            for (const Matrix* matrix : matrices) {
                recording_->keep({nb::find(matrix)});
            }
        }
        perform({x_, out_}, [=, this] { kernels_.linear(x, packed, out); });
    }

    void most_likely(nb::handle x_, const Matrix& head, std::optional<float> softcap, nb::handle tokens_) {
        const auto x = rows_of<const float>(x_, "x");
        const auto tokens = array_of<Writable>(tokens_, "tokens");
        check_numbers<std::int32_t>(tokens, 1, "tokens");
        require_size(head.packed.columns, x.columns, "inputs of the head");
        require_size(extent(tokens, 0), x.rows, "tokens");
        perform({x_, nb::find(head), tokens_},
                [=, this, packed = &head.packed, out = static_cast<std::int32_t*>(tokens.data())] {
                    kernels_.most_likely(x, *packed, softcap, out);
                });
    }

    void embed(const Matrix& matrix, nb::handle tokens_, float scale, nb::handle out_) {
        const auto out = rows_of<float>(out_, "out");
        const auto tokens = span_of<std::int32_t>(tokens_, out.rows, "tokens");
        require_size(out.columns, matrix.packed.columns, "columns of out");
        perform({nb::find(matrix), tokens_, out_},
                [=, this, packed = &matrix.packed] { kernels_.embed(*packed, tokens, scale, out); });
    }

    void rms_norm(nb::handle x_, nb::handle weight_, float epsilon, nb::handle out_) {
        const auto x = rows_or_heads_of<const float>(x_, "x");
        const auto out = rows_or_heads_of<float>(out_, "out");
        const auto weight = span_of<float>(weight_, x.size, "weight");
        require_shape(out, x, "shape of out");
        perform({x_, weight_, out_}, [=, this] { kernels_.rms_norm(x, weight.data, epsilon, out); });
    }

    void add_branch(nb::handle stream_, nb::handle branch_, nb::handle branch_norm, nb::handle norm_, float epsilon,
                    nb::handle normed_) {
        const auto stream = rows_of<float>(stream_, "stream");
        const Branch branch{rows_of<float>(branch_, "branch"), norm_of(branch_norm, stream.columns, "branch_norm")};
        const auto norm = span_of<float>(norm_, stream.columns, "norm");
        const auto normed = rows_of<float>(normed_, "normed");
        require_shape(branch.rows, stream, "shape of branch");
        require_shape(normed, stream, "shape of normed");
        perform({stream_, branch_, branch_norm, norm_, normed_},
                [=, this] { kernels_.add_branch(stream, branch, norm.data, epsilon, normed); });
    }

    void rotate(nb::handle queries_, nb::handle query_norm, nb::handle keys_, nb::handle key_norm, float epsilon,
                nb::handle cosines_, nb::handle sines_, nb::handle positions_) {
        const auto queries = heads_of<float>(queries_, "queries"), keys = heads_of<float>(keys_, "keys");
        const auto cosines = rows_of<const float>(cosines_, "cosines");
        const auto sines = rows_of<const float>(sines_, "sines");
        const auto positions = span_of<std::int32_t>(positions_, queries.rows, "positions");
        require_size(keys.rows, queries.rows, "rows of keys");
        require_size(keys.size, queries.size, "size of a head");
        require_size(queries.size, 2 * cosines.columns, "size of a head");
        require_shape(sines, cosines, "shape of sines");
        const RotatedHeads rotated_queries{queries, norm_of(query_norm, queries.size, "query_norm")};
        const RotatedHeads rotated_keys{keys, norm_of(key_norm, keys.size, "key_norm")};
        perform({queries_, query_norm, keys_, key_norm, cosines_, sines_, positions_}, [=, this] {
            kernels_.rotate(rotated_queries, rotated_keys, epsilon, cosines, sines, positions);
        });
    }

    void store_kv(nb::handle keys_, nb::handle values_, nb::handle cache_, nb::handle tables, nb::handle sequences,
                  nb::handle positions) {
        const auto keys = heads_of<const float>(keys_, "keys"), values = heads_of<const float>(values_, "values");
        require_shape(values, keys, "shape of values");
        const Cache cache = cache_of(cache_, keys.size);
        const Paging paging = paging_of(tables, sequences, positions, keys.rows);
        require_size(keys.heads, cache.heads, "heads of keys");
        perform({keys_, values_, cache_, tables, sequences, positions},
                [=, this] { kernels_.store_kv(keys, values, cache, paging); });
    }

    void attend(nb::handle queries_, nb::handle cache_, nb::handle tables, nb::handle sequences, nb::handle positions,
                float scale, std::optional<std::int64_t> window, std::optional<float> softcap, nb::handle out_) {
        const auto queries = heads_of<const float>(queries_, "queries");
        const auto out = heads_of<float>(out_, "out");
        require_shape(out, queries, "shape of out");
        const Cache cache = cache_of(cache_, queries.size);
        const Paging paging = paging_of(tables, sequences, positions, queries.rows);
        if (cache.heads == 0 || queries.heads == 0 || queries.heads % cache.heads != 0) {
            refuse("query heads", "a positive multiple of the cache's heads");
        }
        if (window && *window < 1) {
            refuse("window", "at least 1");
        }
        const AttentionInputs inputs{queries, cache, paging, scale, window.value_or(std::int64_t{1} << 40), softcap, out};
        perform({queries_, cache_, tables, sequences, positions, out_}, [=, this] { kernels_.attend(inputs); });
    }

    void gelu_gate(nb::handle gate_up_, nb::handle out_) {
        const auto gate_up = rows_of<const float>(gate_up_, "gate_up");
        const auto out = rows_of<float>(out_, "out");
        require_size(out.rows, gate_up.rows, "rows of out");
        require_size(gate_up.columns, 2 * out.columns, "columns of gate_up");
        perform({gate_up_, out_}, [=, this] { kernels_.gelu_gate(gate_up, out); });
    }

    void softcap(nb::handle x_, float cap) {
        const auto x = rows_of<float>(x_, "x");
        perform({x_}, [=, this] { kernels_.softcap(x, cap); });
    }

    void adapt(nb::handle x, nb::handle out, const Segments& segments, int layer,
               const std::vector<std::pair<std::string, std::int64_t>>& modules) {
        std::vector<std::int64_t> columns;
        for (const auto& [module, column] : modules) {
            columns.push_back(column);
        }
        adapt_rows(x, out, segments, columns, [=](const Adapter& adapter, std::size_t place) {
            return adapter.change_of(layer, modules[place].first);
        });
    }

    void adapt_head(nb::handle x, nb::handle out, const Segments& segments) {
        adapt_rows(x, out, segments, {0},
                   [](const Adapter& adapter, std::size_t) { return adapter.head ? &*adapter.head : nullptr; });
    }

    void adapt_embedding(nb::handle tokens_, float scale, nb::handle out_, const Segments& segments) {
        const auto out = rows_of<float>(out_, "out");
        const auto tokens = span_of<std::int32_t>(tokens_, out.rows, "tokens");
        perform({tokens_, out_}, segments, [=, this](const Segments& present) {
            const auto change_of = [](const Adapter& adapter, std::size_t) {
                return adapter.embedding ? &*adapter.embedding : nullptr;
            };
            kernels_.adapt_embedding(tokens, scale, out, changes_of(present, out, {0}, change_of));
        });
    }

    void row_norms(const Matrix& matrix, nb::handle left, nb::handle right, nb::handle out_) {
        const auto out = array_of<Writable>(out_, "out");
        check_numbers<float>(out, 1, "out");
        const Changed weights = changed_of(matrix, left, right);
        require_size(extent(out, 0), matrix.packed.rows, "out");
        require_no_recording();
        const nb::gil_scoped_release release;
        kernels_.row_norms(weights, static_cast<float*>(out.data()));
    }

    void column_norms(const Matrix& matrix, nb::handle left, nb::handle right, nb::handle out_) {
        const auto out = array_of<Writable>(out_, "out");
        check_numbers<float>(out, 1, "out");
        const Changed weights = changed_of(matrix, left, right);
        require_size(extent(out, 0), matrix.packed.columns, "out");
        require_no_recording();
        const nb::gil_scoped_release release;
        kernels_.column_norms(weights, static_cast<float*>(out.data()));
    }

    void sample(nb::handle logits_, nb::handle batch, nb::handle tokens_) {
        require_no_recording();
        const auto logits = rows_of<float>(logits_, "logits");
        const auto tokens = array_of<Writable>(tokens_, "tokens");
        check_numbers<std::int32_t>(tokens, 1, "tokens");
        require_size(extent(tokens, 0), logits.rows, "tokens");
        std::vector<nb::object> kept; // a batch may make its arrays when asked
        const auto array_named = [&](const char* name) -> nb::handle {
            return kept.emplace_back(nb::getattr(batch, name));
        };
        const auto per_row = [&]<class Number>(const char* name, Number) {
            return span_of<Number>(array_named(name), logits.rows, name);
        };
        const Sampling sampling{
            per_row("temperature", float{}),
            per_row("top_k", std::int32_t{}),
            per_row("top_p", float{}),
            per_row("seed", std::uint64_t{}),
            per_row("index", std::uint64_t{}),
            per_row("repetition_penalty", float{}),
            per_row("frequency_penalty", float{}),
            per_row("presence_penalty", float{}),
            span_of<std::int32_t>(array_named("history_tokens"), "history_tokens"),
            span_of<std::int32_t>(array_named("history_counts"), "history_counts"),
            per_row("history_ends", std::int64_t{}),
            rows_of<const std::uint32_t>(array_named("masks"), "masks"),
            span_of<std::int32_t>(array_named("mask_rows"), "mask_rows"),
        };
        const nb::gil_scoped_release release;
        kernels_.sample(logits, sampling, static_cast<std::int32_t*>(tokens.data()));
    }

private:
    static Changed changed_of(const Matrix& matrix, nb::handle left_, nb::handle right_) {
        const auto left = rows_of<const float>(left_, "left"), right = rows_of<const float>(right_, "right");
        require_size(left.rows, matrix.packed.rows, "rows of left");
        require_size(left.columns, right.rows, "columns of left");
        require_size(right.columns, matrix.packed.columns, "columns of right");
        return {&matrix.packed, left, right};
    }

    static const float* norm_of(nb::handle object, std::int64_t size, const char* name) {
        return object.is_none() ? nullptr : span_of<float>(object, size, name).data;
    }

    // change_of(adapter, place) or null for each place, whose outputs begin with a column and end where the next ones
    // begin. An adapter's changes follow each other, as they do in memory.
    template <class Function>
    static std::vector<LowRankRows> changes_of(const Segments& segments, const Rows<float>& out,
                                               const std::vector<std::int64_t>& columns, Function&& change_of) {
        if (!segments.ends.empty() && segments.ends.back() > out.rows) {
            refuse("segments", "within the rows of out");
        }
        const auto end_of = [&](std::size_t i) { return i + 1 < columns.size() ? columns[i + 1] : out.columns; };
        for (std::size_t i = 0; i < columns.size(); ++i) {
            if (columns[i] < 0 || end_of(i) > out.columns || (i == 0 && columns[i] != 0)) {
                refuse("columns", "from 0, in order and within out");
            }
        }
        std::vector<LowRankRows> changes;
        std::int64_t start = 0;
        for (std::size_t run = 0; run < segments.ends.size(); start = segments.ends[run++]) {
            const Adapter* const adapter = segments.adapters[run];
            if (adapter == nullptr || segments.ends[run] == start) {
                continue;
            }
            for (std::size_t i = 0; i < columns.size(); ++i) {
                if (const LowRank* const change = change_of(*adapter, i)) {
                    require_size(change->outputs, end_of(i) - columns[i], "outputs of b");
                    changes.push_back({change, start, segments.ends[run] - start, columns[i]});
                }
            }
        }
        return changes;
    }

    template <class Function>
    void adapt_rows(nb::handle x_, nb::handle out_, const Segments& segments, const std::vector<std::int64_t>& columns,
                    Function&& change_of) {
        const auto x = rows_of<const float>(x_, "x");
        const auto out = rows_of<float>(out_, "out");
        require_size(out.rows, x.rows, "rows of out");
        perform({x_, out_}, segments, [=, this](const Segments& present) {
            const std::vector<LowRankRows> changes = changes_of(present, out, columns, change_of);
            for (const LowRankRows& rows : changes) {
                require_size(rows.change->inputs, x.columns, "inputs of a");
            }
            kernels_.adapt(x, out, changes);
        });
    }

    // Makes a call without the GIL; while a program is recorded, that gets the call and what it reads and writes.
    template <class Call>
    void perform(std::initializer_list<nb::handle> arrays, Call&& call) {
        if (recording_) {
            recording_->keep(arrays);
            recording_->calls.emplace_back([call](const Segments&) { call(); });
        }
        const nb::gil_scoped_release release;
        call();
    }

    template <class Call>
    void perform(std::initializer_list<nb::handle> arrays, const Segments& segments, Call&& call) {
        if (recording_) {
            recording_->keep(arrays);
            recording_->calls.emplace_back(call);
        }
        const nb::gil_scoped_release release;
        call(segments);
    }

    void require_no_recording() const {
        if (recording_) {
            throw std::logic_error("this kernel cannot be part of a program");
        }
    }

    static const KernelTable& find(const std::string& name) {
        const KernelTables available = available_tables();
        for (int i = 0; i < available.count; ++i) {
            if (available.tables[i]->name == name) {
                return *available.tables[i];
            }
        }
        throw std::invalid_argument("this processor or build has no kernels for " + name);
    }

    Kernels kernels_;
    std::shared_ptr<Program> recording_; // null unless calls are being recorded
};

} // namespace
} // namespace gemlora::python

namespace nb = nanobind;
using namespace gemlora::python;

NB_MODULE(_native, module) {
    module.doc() = "The native kernels; gemlora.kernels.native is their typed face.";
    module.def("instruction_sets", &Library::instruction_sets, "Those this processor can run, the fastest first.");
    nb::class_<Matrix>(module, "Matrix")
        .def(nb::init<std::int64_t, std::int64_t, int, nb::handle, nb::handle, nb::handle, std::int64_t, bool>(),
             nb::arg("rows"), nb::arg("columns"), nb::arg("format"), nb::arg("values"), nb::arg("scales").none(),
             nb::arg("minimums").none(), nb::arg("group"), nb::arg("quantize_activations"));
    nb::class_<Adapter>(module, "Adapter")
        .def(nb::init<>())
        .def("add", &Adapter::add, nb::arg("layer"), nb::arg("module"), nb::arg("a"), nb::arg("a_type"), nb::arg("b"),
             nb::arg("b_type"), nb::arg("inputs"), nb::arg("outputs"), nb::arg("scale"), nb::arg("output_scale").none())
        .def("set_embedding", &Adapter::set_embedding, nb::arg("a"), nb::arg("a_type"), nb::arg("b"),
             nb::arg("b_type"), nb::arg("outputs"), nb::arg("scale"), nb::arg("output_scale").none())
        .def("set_head", &Adapter::set_head, nb::arg("a"), nb::arg("a_type"), nb::arg("b"), nb::arg("b_type"),
             nb::arg("inputs"), nb::arg("outputs"), nb::arg("scale"), nb::arg("output_scale").none());
    nb::class_<Segments>(module, "Segments")
        .def(nb::init<const nb::list&, nb::handle>(), nb::arg("adapters"), nb::arg("ends"));
    nb::class_<Program>(module, "Program").def("run", &Program::run, nb::arg("segments"));
    nb::class_<Library>(module, "Library")
        .def(nb::init<int, const std::string&>(), nb::arg("threads"), nb::arg("instruction_set"))
        .def("begin_recording", &Library::begin_recording)
        .def("end_recording", &Library::end_recording)
        .def("linear", &Library::linear, nb::arg("x"), nb::arg("matrices"), nb::arg("out"))
        .def("most_likely", &Library::most_likely, nb::arg("x"), nb::arg("head"), nb::arg("softcap").none(),
             nb::arg("tokens"))
        .def("embed", &Library::embed, nb::arg("matrix"), nb::arg("tokens"), nb::arg("scale"), nb::arg("out"))
        .def("rms_norm", &Library::rms_norm, nb::arg("x"), nb::arg("weight"), nb::arg("epsilon"), nb::arg("out"))
        .def("add_branch", &Library::add_branch, nb::arg("stream"), nb::arg("branch"), nb::arg("branch_norm").none(),
             nb::arg("norm"), nb::arg("epsilon"), nb::arg("normed"))
        .def("rotate", &Library::rotate, nb::arg("queries"), nb::arg("query_norm").none(), nb::arg("keys"),
             nb::arg("key_norm").none(), nb::arg("epsilon"), nb::arg("cosines"), nb::arg("sines"), nb::arg("positions"))
        .def("store_kv", &Library::store_kv, nb::arg("keys"), nb::arg("values"), nb::arg("cache"),
             nb::arg("block_tables"), nb::arg("sequence_of_row"), nb::arg("positions"))
        .def("attend", &Library::attend, nb::arg("queries"), nb::arg("cache"), nb::arg("block_tables"),
             nb::arg("sequence_of_row"), nb::arg("positions"), nb::arg("scale"), nb::arg("window").none(),
             nb::arg("softcap").none(), nb::arg("out"))
        .def("gelu_gate", &Library::gelu_gate, nb::arg("gate_up"), nb::arg("out"))
        .def("softcap", &Library::softcap, nb::arg("x"), nb::arg("cap"))
        .def("adapt", &Library::adapt, nb::arg("x"), nb::arg("out"), nb::arg("segments"), nb::arg("layer"),
             nb::arg("modules"))
        .def("adapt_head", &Library::adapt_head, nb::arg("x"), nb::arg("out"), nb::arg("segments"))
        .def("adapt_embedding", &Library::adapt_embedding, nb::arg("tokens"), nb::arg("scale"), nb::arg("out"),
             nb::arg("segments"))
        .def("row_norms", &Library::row_norms, nb::arg("matrix"), nb::arg("left"), nb::arg("right"), nb::arg("out"))
        .def("column_norms", &Library::column_norms, nb::arg("matrix"), nb::arg("left"), nb::arg("right"),
             nb::arg("out"))
        .def("sample", &Library::sample, nb::arg("logits"), nb::arg("batch"), nb::arg("tokens"));
}
