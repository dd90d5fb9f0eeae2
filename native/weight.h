// The sampler's weights: likelihoods as whole numbers, so that sums are exact in any order.
#pragma once

#include <cstdint>

namespace gemlora {

// ⌊likelihood · 2^40⌋ for a likelihood in [0, 1].
[[gnu::always_inline]] inline std::uint64_t whole_weight(float likelihood) {
    return static_cast<std::uint64_t>(static_cast<std::int64_t>(likelihood * 0x1p40f));
}

} // namespace gemlora
