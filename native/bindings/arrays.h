// Python's arrays as the kernels see them; what does not fit raises ValueError with the argument's name.
#pragma once

#include "../views.h"

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <stdexcept>
#include <string>
#include <type_traits>

namespace gemlora::python {

namespace nb = nanobind;

using ReadOnly = nb::ndarray<nb::ro, nb::device::cpu>;
using Writable = nb::ndarray<nb::device::cpu>;

[[noreturn]] inline void refuse(const std::string& name, const std::string& expectation) {
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

inline bool is_aligned(const void* data, std::size_t bytes) { return reinterpret_cast<std::uintptr_t>(data) % bytes == 0; }

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

inline void require_size(std::int64_t size, std::int64_t expected, const char* what) {
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

inline std::int64_t item_size(Stored type) { return type == Stored::float32 ? 4 : 2; }

// Float numbers that Python cannot name to us (bfloat16) come as bytes or uint16, with their type beside them.
inline Numbers numbers_of(const ReadOnly& array, int type, std::int64_t count, const char* name) {
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

// `ScaledBytes` come as bytes.
inline Numbers scaled_bytes_of(const ReadOnly& array, std::int64_t count, const char* name) {
    constexpr std::int64_t size = sizeof(ScaledBytes);
    if (!is_contiguous(array) || !is_aligned(array.data(), alignof(ScaledBytes)) ||
        static_cast<std::int64_t>(array.nbytes()) != count * size) {
        refuse(name, "contiguous, aligned and " + std::to_string(count * size) + " bytes long");
    }
    return {array.data(), Stored::scaled_bytes};
}

} // namespace gemlora::python
