// What outlives a call: matrices, adapters and the rows that use them, each with the arrays that it keeps alive.
#pragma once

#include "arrays.h"

#include <nanobind/stl/optional.h>

#include <map>
#include <optional>
#include <vector>

namespace gemlora::python {

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
        require_group(group);
        packed.group = group;
        const std::int64_t count = packed.panels() * packed.panel_bytes();
        if (!is_contiguous(values) || static_cast<std::int64_t>(values.nbytes()) != count) {
            refuse("values", "contiguous and " + std::to_string(count) + " bytes long");
        }
        packed.values = {values.data(), Stored::float32};
        packed.scales = group_numbers(scales, scales_, "scales");
        if (!minimums_.is_none()) {
            if (packed.spread()) {
                refuse("minimums", "None for a spread matrix");
            }
            packed.minimums = group_numbers(minimums, minimums_, "minimums");
            if (packed.minimums.type != packed.scales.type) {
                refuse("minimums", "of the scales' type");
            }
        }
    }

private:
    void require_group(std::int64_t group) const {
        if (packed.bits == 4 && packed.quantize_activations && group != 32 && group != spread_inputs) {
            refuse("group", "32 or 128");
        }
        if (packed.bits == 4 && !packed.quantize_activations && group != 32) {
            refuse("group", "32");
        }
        if (packed.bits == 8 && packed.quantize_activations && group != spread_inputs) {
            refuse("group", "128");
        }
        if (packed.bits == 8 && !packed.quantize_activations && group != 16 && group != 32) {
            refuse("group", "16 or 32");
        }
    }

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

} // namespace gemlora::python
