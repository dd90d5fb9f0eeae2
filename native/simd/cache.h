// Writing keys and values of one position and head into the paged cache; `place` is the position in its block.
#pragma once

#include "integer_heads.h"

#include <algorithm>

namespace gemlora::simd {

template <class Isa>
void store_integer_head(const float* numbers, const Cache& cache, std::int64_t offset, std::int64_t place, bool key) {
    using Vector = typename Isa::Vector;
    const std::int64_t padded = cache.padded_size();
    auto* const head = static_cast<std::uint8_t*>(cache.data) + offset;
    float copy[most_integer_head];
    copy_padded<Vector>(numbers, cache.size, padded, copy);
    float scale;
    if (key) {
        // Queries are spread too, so that their products with keys stay what they were, times the squared length.
        spread<Vector>(copy, padded);
        scale = store_integers<Vector>(copy, padded, 128, head + place * 4, cache.block_size * 4, 1);
    } else {
        scale = store_integers<Vector>(copy, padded, 0, head + place / 4 * padded * 4 + place % 4, 16, 4);
    }
    reinterpret_cast<float*>(head + cache.block_size * padded)[place] = scale;
}

template <class Isa>
void store_key(const float* key, const Cache& cache, std::int64_t block, std::int64_t head, std::int64_t place) {
    const std::int64_t offset = cache.keys(block, head);
    if (cache.integers) {
        store_integer_head<Isa>(key, cache, offset, place, true);
        return;
    }
    float* const to = static_cast<float*>(cache.data) + offset + place;
    for (std::int64_t d = 0; d < cache.size; ++d) {
        to[d * cache.block_size] = key[d];
    }
}

template <class Isa>
void store_value(const float* value, const Cache& cache, std::int64_t block, std::int64_t head, std::int64_t place) {
    const std::int64_t offset = cache.values(block, head);
    if (cache.integers) {
        store_integer_head<Isa>(value, cache, offset, place, false);
        return;
    }
    std::copy(value, value + cache.size, static_cast<float*>(cache.data) + offset + place * cache.size);
}

} // namespace gemlora::simd
