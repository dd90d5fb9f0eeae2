// The Python face of the kernels: checks types, dimensions and sizes of the arrays, releases the GIL, calls.
#include "kernels.h"

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/string_view.h>
#include <nanobind/stl/vector.h>

#include <functional>
#include <map>
#include <stdexcept>
#include <string>

namespace nb = nanobind;

namespace {

using namespace gemlora;
using ReadOnly = nb::ndarray<nb::ro, nb::device::cpu>;
using Writable = nb::ndarray<nb::device::cpu>;

[[noreturn]] void refuse(const std::string& name, const std::string& expectation) {
    throw std::invalid_argument(name + " must be " + expectation);
}

template <class Array>
Array array_of(nb::handle object, const char* name) {
    Array array;
    if (!nb::try_cast(object, array, false)) {
        refuse(name, std::is_same_v<Array, Writable> ? "a writable array in main memory" : "an array in main memory");
    }
    return array;
}

template <class Number>
constexpr const char* type_name() {
    if constexpr (std::is_same_v<Number, float>) {
        return "float32";
    } else if constexpr (std::is_same_v<Number, std::int32_t>) {
        return "int32";
    } else if constexpr (std::is_same_v<Number, std::uint32_t>) {
        return "uint32";
    } else if constexpr (std::is_same_v<Number, std::int64_t>) {
        return "int64";
    } else if constexpr (std::is_same_v<Number, std::uint64_t>) {
        return "uint64";
    } else {
        static_assert(std::is_same_v<Number, std::uint8_t>);
        return "uint8";
    }
}

std::int64_t extent(const auto& array, std::size_t dimension) {
    return static_cast<std::int64_t>(array.shape(dimension));
}

// Strides mean nothing in dimensions with one element, and in empty arrays.
bool last_is_contiguous(const auto& array) {
    const std::size_t last = array.ndim() - 1;
    return array.size() == 0 || array.shape(last) == 1 || array.stride(last) == 1;
}

// In the dimensions from `first` on.
bool is_contiguous(const auto& array, std::size_t first = 0) {
    std::int64_t step = 1;
    for (std::size_t i = array.ndim(); i-- > first;) {
        if (array.size() > 0 && array.shape(i) > 1 && array.stride(i) != step) {
            return false;
        }
        step *= extent(array, i);
    }
    return true;
}

// Bounds every dimension, so that sizes with padding do not overflow 64 bits.
constexpr std::int64_t longest = std::int64_t{1} << 31;

bool is_aligned(const void* data, std::size_t bytes) { return reinterpret_cast<std::uintptr_t>(data) % bytes == 0; }

template <class Number>
void check_numbers(const auto& array, std::size_t dimensions, const char* name) {
    if (array.dtype() != nb::dtype<Number>()) {
        refuse(name, std::string("of type ") + type_name<Number>());
    }
    if (array.ndim() != dimensions) {
        refuse(name, "an array of " + std::to_string(dimensions) + " dimensions");
    }
    if (!last_is_contiguous(array)) {
        refuse(name, "contiguous in its last dimension");
    }
    if (!is_aligned(array.data(), sizeof(Number))) {
        refuse(name, "aligned to its numbers");
    }
    for (std::size_t i = 0; i < dimensions; ++i) {
        if (extent(array, i) > longest) {
            refuse(name, "at most 2^31 long in every dimension");
        }
    }
}

template <class Number>
using ArrayOf = std::conditional_t<std::is_const_v<Number>, ReadOnly, Writable>;

template <class Number>
Rows<Number> rows_of(nb::handle object, const char* name) {
    const auto array = array_of<ArrayOf<Number>>(object, name);
    check_numbers<std::remove_const_t<Number>>(array, 2, name);
    return {static_cast<Number*>(array.data()), extent(array, 0), extent(array, 1), array.stride(0)};
}

template <class Number>
Heads<Number> heads_of(nb::handle object, const char* name) {
    const auto array = array_of<ArrayOf<Number>>(object, name);
    check_numbers<std::remove_const_t<Number>>(array, 3, name);
    return {static_cast<Number*>(array.data()), extent(array, 0),  extent(array, 1),
            extent(array, 2),                   array.stride(0), array.stride(1)};
}

// [T, K] as [T, 1, K], or [T, H, D].
template <class Number>
Heads<Number> rows_or_heads_of(nb::handle object, const char* name) {
    const auto array = array_of<ArrayOf<Number>>(object, name);
    if (array.ndim() == 3) {
        return heads_of<Number>(object, name);
    }
    const Rows<Number> rows = rows_of<Number>(object, name);
    return {rows.data, rows.rows, 1, rows.columns, rows.stride, rows.columns};
}

template <class Number>
Span<Number> span_of(nb::handle object, const char* name) {
    const auto array = array_of<ReadOnly>(object, name);
    check_numbers<Number>(array, 1, name);
    return {static_cast<const Number*>(array.data()), extent(array, 0)};
}

template <class Number>
Span<Number> span_of(nb::handle object, std::int64_t size, const char* name) {
    const Span<Number> span = span_of<Number>(object, name);
    if (span.size != size) {
        refuse(name, std::to_string(size) + " long");
    }
    return span;
}

void require_size(std::int64_t size, std::int64_t expected, const char* what) {
    if (size != expected) {
        throw std::invalid_argument(std::string(what) + ": " + std::to_string(size) + " instead of " +
                                    std::to_string(expected));
    }
}

void require_shape(const auto& array, const auto& like, const char* what) {
    require_size(array.rows, like.rows, what);
    if constexpr (requires { array.heads; }) {
        require_size(array.heads, like.heads, what);
        require_size(array.size, like.size, what);
    } else {
        require_size(array.columns, like.columns, what);
    }
}

std::int64_t item_size(Stored type) { return type == Stored::float32 ? 4 : 2; }

// Float numbers that Python cannot name to us (bfloat16) come as bytes or uint16, with their type beside them.
Numbers numbers_of(const ReadOnly& array, int type, std::int64_t count, const char* name) {
    if (type < 0 || type > 2) {
        refuse(std::string(name) + "' type", "0 (float32), 1 (bfloat16) or 2 (float16)");
    }
    const auto stored = static_cast<Stored>(type);
    if (!is_contiguous(array) || !is_aligned(array.data(), static_cast<std::size_t>(item_size(stored)))) {
        refuse(name, "contiguous and aligned to its numbers");
    }
    if (static_cast<std::int64_t>(array.nbytes()) != count * item_size(stored)) {
        refuse(name, std::to_string(count * item_size(stored)) + " bytes long, not " + std::to_string(array.nbytes()));
    }
    return {array.data(), stored};
}

// Keeps the arrays of a packed matrix alive.
struct Matrix {
    PackedMatrix packed{};
    ReadOnly values, scales, minimums;

    Matrix(std::int64_t rows, std::int64_t columns, int format, nb::handle values_, nb::handle scales_,
           nb::handle minimums_, std::int64_t group, bool quantize_activations) {
        constexpr int int8_format = 3, int4_format = 4;
        constexpr std::int64_t most = std::int64_t{1} << 28;
        if (rows < 1 || columns < 1 || rows > most || columns > most) {
            refuse("rows and columns", "between 1 and 2^28");
        }
        packed.rows = rows;
        packed.columns = columns;
        packed.bits = format == int8_format ? 8 : format == int4_format ? 4 : 0;
        packed.quantize_activations = quantize_activations;
        values = array_of<ReadOnly>(values_, "values");
        if (!packed.integers()) {
            packed.group = block_inputs;
            packed.values = numbers_of(values, format, packed.panels() * panel_size * columns, "values");
            return;
        }
        if (group != 32 && (group != 16 || packed.bits == 4)) {
            refuse("group", packed.bits == 4 ? "32" : "16 or 32");
        }
        packed.group = group;
        const std::int64_t count = packed.panels() * packed.panel_bytes();
        if (!is_contiguous(values) || static_cast<std::int64_t>(values.nbytes()) != count) {
            refuse("values", "contiguous and " + std::to_string(count) + " bytes long");
        }
        packed.values = {values.data(), Stored::float32};
        packed.scales = group_numbers(scales, scales_, "scales");
        if (!minimums_.is_none()) {
            packed.minimums = group_numbers(minimums, minimums_, "minimums");
            if (packed.minimums.type != packed.scales.type) {
                refuse("minimums", "of the scales' type");
            }
        }
    }

private:
    Numbers group_numbers(ReadOnly& kept, nb::handle object, const char* name) const {
        kept = array_of<ReadOnly>(object, name);
        const bool half = kept.dtype() == nb::dlpack::dtype{static_cast<std::uint8_t>(nb::dlpack::dtype_code::Float), 16, 1};
        if (!half && kept.dtype() != nb::dtype<float>()) {
            refuse(name, "float16 or float32");
        }
        return numbers_of(kept, half ? 2 : 0, packed.panels() * panel_size * packed.groups(), name);
    }
};

// One adapter: its pairs by layer and module, and those of the embedding and the head.
struct Adapter {
    std::map<std::pair<int, std::string>, LowRank, std::less<>> pairs;
    std::optional<LowRank> embedding, head;
    std::vector<ReadOnly> kept;

    void add(int layer, const std::string& module, nb::handle a, int a_type, nb::handle b, int b_type, float scale,
             nb::handle output_scale) {
        pairs[{layer, module}] = low_rank(a, a_type, b, b_type, scale, output_scale, false);
    }

    void set_embedding(nb::handle a, int a_type, nb::handle b, int b_type, float scale, nb::handle output_scale) {
        embedding = low_rank(a, a_type, b, b_type, scale, output_scale, true);
    }

    void set_head(nb::handle a, int a_type, nb::handle b, int b_type, float scale, nb::handle output_scale) {
        head = low_rank(a, a_type, b, b_type, scale, output_scale, false);
    }

private:
    // `transposed`: a is [inputs, rank].
    LowRank low_rank(nb::handle a_, int a_type, nb::handle b_, int b_type, float scale, nb::handle output_scale,
                     bool transposed) {
        const auto a = array_of<ReadOnly>(a_, "a"), b = array_of<ReadOnly>(b_, "b");
        const std::size_t rank_of_a = transposed ? 1 : 0;
        if (a.ndim() != 2 || b.ndim() != 2 || a.shape(rank_of_a) != b.shape(0)) {
            refuse("a and b", transposed ? "[inputs, rank] and [rank, outputs]" : "[rank, inputs] and [rank, outputs]");
        }
        const std::int64_t rank = extent(b, 0), inputs = extent(a, 1 - rank_of_a), outputs = extent(b, 1);
        LowRank change{numbers_of(a, a_type, rank * inputs, "a"), numbers_of(b, b_type, rank * outputs, "b"),
                       rank, inputs, outputs, scale, nullptr};
        kept.push_back(a);
        kept.push_back(b);
        if (!output_scale.is_none()) {
            change.output_scale = span_of<float>(output_scale, outputs, "output_scale").data;
            kept.push_back(array_of<ReadOnly>(output_scale, "output_scale"));
        }
        return change;
    }
};

// Which rows use which adapter; the objects are kept alive.
struct Segments {
    std::vector<const Adapter*> adapters; // null: none
    std::vector<std::int64_t> ends;
    nb::tuple kept;

    Segments(const nb::list& adapters_, nb::handle ends_) : kept(adapters_) {
        const auto span = span_of<std::int32_t>(ends_, static_cast<std::int64_t>(adapters_.size()), "ends");
        std::int64_t start = 0;
        for (std::int64_t i = 0; i < span.size; ++i) {
            if (span[i] < start) {
                refuse("ends", "in order");
            }
            start = span[i];
            ends.push_back(start);
        }
        for (nb::handle adapter : adapters_) {
            adapters.push_back(adapter.is_none() ? nullptr : nb::cast<const Adapter*>(adapter));
        }
    }
};

// A cache of heads of `size` numbers.
Cache cache_of(nb::handle object, std::int64_t size) {
    const auto array = array_of<Writable>(object, "cache");
    const bool integers = array.dtype() == nb::dtype<std::uint8_t>();
    if (!integers && array.dtype() != nb::dtype<float>()) {
        refuse("cache", "uint8 or float32");
    }
    if (array.ndim() != 5 || array.shape(1) != 2 || array.shape(3) == 0 || array.shape(3) % 16 != 0 ||
        !is_contiguous(array, 1)) {
        refuse("cache", "an array [blocks, 2, heads, block size, size], contiguous within a block, whose size 16 divides");
    }
    const auto stride = static_cast<std::int64_t>(array.stride(0));
    if (!is_aligned(array.data(), sizeof(float)) || (integers && stride % std::int64_t{sizeof(float)} != 0)) {
        refuse("cache", "aligned to its numbers");
    }
    const Cache cache{array.data(), integers, extent(array, 0), extent(array, 2), extent(array, 3), size, stride};
    require_size(extent(array, 4), cache.position_numbers(), "numbers of a cached position");
    if (integers && size > most_integer_head) {
        refuse("a head in a cache of whole numbers", "at most 1024 long");
    }
    return cache;
}

Paging paging_of(nb::handle tables, nb::handle sequences, nb::handle positions, std::int64_t rows) {
    return {rows_of<const std::int32_t>(tables, "block_tables"), span_of<std::int32_t>(sequences, rows, "sequence_of_row"),
            span_of<std::int32_t>(positions, rows, "positions")};
}

class Library {
public:
    Library(int threads, const std::string& instruction_set) : kernels_(threads, find(instruction_set)) {}

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
        const nb::gil_scoped_release release;
        kernels_.linear(x, packed, out);
    }

    void most_likely(nb::handle x_, const Matrix& head, std::optional<float> softcap, nb::handle tokens_) {
        const auto x = rows_of<const float>(x_, "x");
        const auto tokens = array_of<Writable>(tokens_, "tokens");
        check_numbers<std::int32_t>(tokens, 1, "tokens");
        require_size(head.packed.columns, x.columns, "inputs of the head");
        require_size(extent(tokens, 0), x.rows, "tokens");
        const nb::gil_scoped_release release;
        kernels_.most_likely(x, head.packed, softcap, static_cast<std::int32_t*>(tokens.data()));
    }

    void embed(const Matrix& matrix, nb::handle tokens_, float scale, nb::handle out_) {
        const auto out = rows_of<float>(out_, "out");
        const auto tokens = span_of<std::int32_t>(tokens_, out.rows, "tokens");
        require_size(out.columns, matrix.packed.columns, "columns of out");
        const nb::gil_scoped_release release;
        kernels_.embed(matrix.packed, tokens, scale, out);
    }

    void rms_norm(nb::handle x_, nb::handle weight_, float epsilon, nb::handle out_) {
        const auto x = rows_or_heads_of<const float>(x_, "x");
        const auto out = rows_or_heads_of<float>(out_, "out");
        const auto weight = span_of<float>(weight_, x.size, "weight");
        require_shape(out, x, "shape of out");
        const nb::gil_scoped_release release;
        kernels_.rms_norm(x, weight.data, epsilon, out);
    }

    void add_branch(nb::handle stream_, nb::handle branch_, nb::handle branch_norm, nb::handle norm_, float epsilon,
                    nb::handle normed_) {
        const auto stream = rows_of<float>(stream_, "stream");
        const Branch branch{rows_of<float>(branch_, "branch"), norm_of(branch_norm, stream.columns, "branch_norm")};
        const auto norm = span_of<float>(norm_, stream.columns, "norm");
        const auto normed = rows_of<float>(normed_, "normed");
        require_shape(branch.rows, stream, "shape of branch");
        require_shape(normed, stream, "shape of normed");
        const nb::gil_scoped_release release;
        kernels_.add_branch(stream, branch, norm.data, epsilon, normed);
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
        const nb::gil_scoped_release release;
        kernels_.rotate(rotated_queries, rotated_keys, epsilon, cosines, sines, positions);
    }

    void store_kv(nb::handle keys_, nb::handle values_, nb::handle cache_, nb::handle tables, nb::handle sequences,
                  nb::handle positions) {
        const auto keys = heads_of<const float>(keys_, "keys"), values = heads_of<const float>(values_, "values");
        require_shape(values, keys, "shape of values");
        const Cache cache = cache_of(cache_, keys.size);
        const Paging paging = paging_of(tables, sequences, positions, keys.rows);
        require_size(keys.heads, cache.heads, "heads of keys");
        const nb::gil_scoped_release release;
        kernels_.store_kv(keys, values, cache, paging);
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
        const nb::gil_scoped_release release;
        kernels_.attend({queries, cache, paging, scale, window.value_or(std::int64_t{1} << 40), softcap, out});
    }

    void gelu_gate(nb::handle gate_up_, nb::handle out_) {
        const auto gate_up = rows_of<const float>(gate_up_, "gate_up");
        const auto out = rows_of<float>(out_, "out");
        require_size(out.rows, gate_up.rows, "rows of out");
        require_size(gate_up.columns, 2 * out.columns, "columns of gate_up");
        const nb::gil_scoped_release release;
        kernels_.gelu_gate(gate_up, out);
    }

    void softcap(nb::handle x_, float cap) {
        const auto x = rows_of<float>(x_, "x");
        const nb::gil_scoped_release release;
        kernels_.softcap(x, cap);
    }

    void adapt(nb::handle x, nb::handle out, const Segments& segments, int layer,
               const std::vector<std::pair<std::string, std::int64_t>>& modules) {
        std::vector<Place> places;
        for (const auto& [module, column] : modules) {
            const std::pair<int, std::string> key{layer, module};
            places.push_back({column, [key](const Adapter& adapter) -> const LowRank* {
                                  const auto found = adapter.pairs.find(key);
                                  return found == adapter.pairs.end() ? nullptr : &found->second;
                              }});
        }
        adapt_rows(x, out, segments, places);
    }

    void adapt_head(nb::handle x, nb::handle out, const Segments& segments) {
        adapt_rows(x, out, segments,
                   {{0, [](const Adapter& adapter) { return adapter.head ? &*adapter.head : nullptr; }}});
    }

    void adapt_embedding(nb::handle tokens_, float scale, nb::handle out_, const Segments& segments) {
        const auto out = rows_of<float>(out_, "out");
        const auto tokens = span_of<std::int32_t>(tokens_, out.rows, "tokens");
        const Place place{0, [](const Adapter& adapter) { return adapter.embedding ? &*adapter.embedding : nullptr; }};
        std::vector<LowRankRows> changes;
        add_changes(changes, segments, out, place);
        for (const LowRankRows& rows : changes) {
            require_size(rows.change->outputs, out.columns, "outputs of b");
        }
        const nb::gil_scoped_release release;
        kernels_.adapt_embedding(tokens, scale, out, changes);
    }

    void row_norms(const Matrix& matrix, nb::handle left, nb::handle right, nb::handle out_) {
        const auto out = array_of<Writable>(out_, "out");
        check_numbers<float>(out, 1, "out");
        const Changed weights = changed_of(matrix, left, right);
        require_size(extent(out, 0), matrix.packed.rows, "out");
        const nb::gil_scoped_release release;
        kernels_.row_norms(weights, static_cast<float*>(out.data()));
    }

    void column_norms(const Matrix& matrix, nb::handle left, nb::handle right, nb::handle out_) {
        const auto out = array_of<Writable>(out_, "out");
        check_numbers<float>(out, 1, "out");
        const Changed weights = changed_of(matrix, left, right);
        require_size(extent(out, 0), matrix.packed.columns, "out");
        const nb::gil_scoped_release release;
        kernels_.column_norms(weights, static_cast<float*>(out.data()));
    }

    void sample(nb::handle logits_, nb::handle batch, nb::handle tokens_) {
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
        if (right.rows > 1 && right.stride != right.columns) {
            refuse("right", "contiguous");
        }
        return {&matrix.packed, left, right};
    }

    static const float* norm_of(nb::handle object, std::int64_t size, const char* name) {
        return object.is_none() ? nullptr : span_of<float>(object, size, name).data;
    }

    // Where the outputs of a change begin, and an adapter's change or null.
    struct Place {
        std::int64_t column;
        std::function<const LowRank*(const Adapter&)> change_of;
    };

    static void add_changes(std::vector<LowRankRows>& changes, const Segments& segments, const Rows<float>& out,
                            const Place& place) {
        if (!segments.ends.empty() && segments.ends.back() > out.rows) {
            refuse("segments", "within the rows of out");
        }
        for (std::size_t i = 0; i < segments.ends.size(); ++i) {
            const std::int64_t start = i > 0 ? segments.ends[i - 1] : 0;
            const Adapter* const adapter = segments.adapters[i];
            if (adapter == nullptr || segments.ends[i] == start) {
                continue;
            }
            if (const LowRank* const change = place.change_of(*adapter)) {
                changes.push_back({change, start, segments.ends[i] - start, place.column});
            }
        }
    }

    // The outputs of the places lie side by side, each ends where the next one begins.
    void adapt_rows(nb::handle x_, nb::handle out_, const Segments& segments, const std::vector<Place>& places) {
        const auto x = rows_of<const float>(x_, "x");
        const auto out = rows_of<float>(out_, "out");
        require_size(out.rows, x.rows, "rows of out");
        std::vector<LowRankRows> changes;
        for (std::size_t i = 0; i < places.size(); ++i) {
            const std::int64_t end = i + 1 < places.size() ? places[i + 1].column : out.columns;
            if (places[i].column < 0 || end > out.columns || (i == 0 && places[i].column != 0)) {
                refuse("columns", "from 0, in order and within out");
            }
            const std::size_t known = changes.size();
            add_changes(changes, segments, out, places[i]);
            for (std::size_t added = known; added < changes.size(); ++added) {
                require_size(changes[added].change->outputs, end - places[i].column, "outputs of b");
                require_size(changes[added].change->inputs, x.columns, "inputs of a");
            }
        }
        const nb::gil_scoped_release release;
        kernels_.adapt(x, out, changes);
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
};

} // namespace

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
             nb::arg("b_type"), nb::arg("scale"), nb::arg("output_scale").none())
        .def("set_embedding", &Adapter::set_embedding, nb::arg("a"), nb::arg("a_type"), nb::arg("b"),
             nb::arg("b_type"), nb::arg("scale"), nb::arg("output_scale").none())
        .def("set_head", &Adapter::set_head, nb::arg("a"), nb::arg("a_type"), nb::arg("b"), nb::arg("b_type"),
             nb::arg("scale"), nb::arg("output_scale").none());
    nb::class_<Segments>(module, "Segments")
        .def(nb::init<const nb::list&, nb::handle>(), nb::arg("adapters"), nb::arg("ends"));
    nb::class_<Library>(module, "Library")
        .def(nb::init<int, const std::string&>(), nb::arg("threads"), nb::arg("instruction_set"))
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
