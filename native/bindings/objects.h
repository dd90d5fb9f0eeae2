// What outlives a call: matrices, adapters and the rows that use them, each with the arrays that it keeps alive.
#pragma once

#include "arrays.h"

#include <nanobind/stl/optional.h>

#include <optional>
#include <string>
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

// One adapter: its changes of each layer's modules, and those of the embedding and the head.
struct Adapter {
    struct ModuleChange {
        std::string module;
        LowRank change;
    };

    std::vector<std::vector<ModuleChange>> layers; // each one's lie together, because every step looks for all of them
    std::optional<LowRank> embedding, head;
    std::vector<ReadOnly> kept;

    void add(int layer, const std::string& module, nb::handle a, int a_type, nb::handle b, int b_type,
             std::int64_t inputs, std::int64_t outputs, float scale, nb::handle output_scale) {
        constexpr int most_layers = 1 << 16;
        if (layer < 0 || layer >= most_layers) {
            refuse("layer", "between 0 and 65535");
        }
        if (static_cast<std::size_t>(layer) >= layers.size()) {
            layers.resize(static_cast<std::size_t>(layer) + 1);
        }
        layers[static_cast<std::size_t>(layer)].push_back(
            {module, linear_change(a, a_type, b, b_type, inputs, outputs, scale, output_scale)});
    }

    // Null if it leaves the module alone.
    const LowRank* change_of(int layer, const std::string& module) const {
        if (layer < 0 || static_cast<std::size_t>(layer) >= layers.size()) {
            return nullptr;
        }
        for (const ModuleChange& known : layers[static_cast<std::size_t>(layer)]) {
            if (known.module == module) {
                return &known.change;
            }
        }
        return nullptr;
    }

    void set_embedding(nb::handle a_, int a_type, nb::handle b, int b_type, std::int64_t outputs, float scale,
                       nb::handle output_scale) {
        const auto a = array_of<ReadOnly>(a_, "a");
        if (a.ndim() != 2) {
            refuse("a", "[inputs, rank]");
        }
        const std::int64_t inputs = extent(a, 0), rank = extent(a, 1);
        const Numbers numbers = numbers_of(a, a_type, inputs * rank, "a");
        kept.push_back(a);
        embedding = change_by(numbers, rank, b, b_type, inputs, outputs, scale, output_scale);
    }

    void set_head(nb::handle a, int a_type, nb::handle b, int b_type, std::int64_t inputs, std::int64_t outputs,
                  float scale, nb::handle output_scale) {
        head = linear_change(a, a_type, b, b_type, inputs, outputs, scale, output_scale);
    }

private:
    LowRank linear_change(nb::handle a_, int a_type, nb::handle b, int b_type, std::int64_t inputs,
                          std::int64_t outputs, float scale, nb::handle output_scale) {
        const auto a = array_of<ReadOnly>(a_, "a");
        const std::int64_t rank = a.ndim() == 3 ? extent(a, 1) : 0;
        const Numbers numbers = panels_of(a, a_type, inputs, rank, "a");
        return change_by(numbers, rank, b, b_type, inputs, outputs, scale, output_scale);
    }

    LowRank change_by(const Numbers& a, std::int64_t rank, nb::handle b, int b_type, std::int64_t inputs,
                      std::int64_t outputs, float scale, nb::handle output_scale_) {
        const Numbers numbers = panels_of(array_of<ReadOnly>(b, "b"), b_type, outputs, rank, "b");
        const float* output_scale = nullptr;
        if (!output_scale_.is_none()) {
            output_scale = span_of<float>(output_scale_, outputs, "output_scale").data;
            kept.push_back(array_of<ReadOnly>(output_scale_, "output_scale"));
        }
        return {a, numbers, rank, inputs, outputs, scale, output_scale};
    }

    // Of so many inputs or outputs, in floats or in scaled bytes.
    Numbers panels_of(const ReadOnly& array, int type, std::int64_t columns, std::int64_t rank, const char* name) {
        if (columns < 1 || columns > longest) {
            refuse(std::string("columns of ") + name, "between 1 and 2^31");
        }
        const bool scaled = type == static_cast<int>(Stored::scaled_bytes);
        const std::int64_t size = scaled ? ScaledBytes::size : panel_size;
        const std::int64_t panels = ceil_divide(columns, size), last = scaled ? sizeof(ScaledBytes) : panel_size;
        if (array.ndim() != 3 || extent(array, 0) != panels || extent(array, 1) != rank || extent(array, 2) != last) {
            refuse(name, "[ceil(" + std::to_string(columns) + " / " + std::to_string(size) + "), rank, " +
                             std::to_string(last) + "]");
        }
        kept.push_back(array);
        return scaled ? scaled_bytes_of(array, panels * rank, name)
                      : numbers_of(array, type, panels * rank * panel_size, name);
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
