// The paged cache as the kernels see it.
#pragma once

#include "arrays.h"

namespace gemlora::python {

// A cache of heads of `size` numbers.
inline Cache cache_of(nb::handle object, std::int64_t size) {
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

inline Paging paging_of(nb::handle tables, nb::handle sequences, nb::handle positions, std::int64_t rows) {
    return {rows_of<const std::int32_t>(tables, "block_tables"), span_of<std::int32_t>(sequences, rows, "sequence_of_row"),
            span_of<std::int32_t>(positions, rows, "positions")};
}

} // namespace gemlora::python
