// Philox4x32-10, a counter-based random number (Salmon et al., Parallel random numbers: as easy as 1, 2, 3, SC 2011).
#pragma once

#include <cstdint>

namespace gemlora {

// 64 random bits with the seed as key and the index as counter.
inline std::uint64_t random_bits(std::uint64_t seed, std::uint64_t index) {
    const auto low = [](std::uint64_t number) { return static_cast<std::uint32_t>(number); };
    const auto high = [](std::uint64_t number) { return static_cast<std::uint32_t>(number >> 32); };
    std::uint32_t counter[4] = {low(index), high(index), 0, 0};
    std::uint32_t key[2] = {low(seed), high(seed)};
    for (int round = 0; round < 10; ++round) {
        const std::uint64_t first = std::uint64_t{0xD2511F53} * counter[0];
        const std::uint64_t second = std::uint64_t{0xCD9E8D57} * counter[2];
        counter[0] = high(second) ^ counter[1] ^ key[0];
        counter[1] = low(second);
        counter[2] = high(first) ^ counter[3] ^ key[1];
        counter[3] = low(first);
        key[0] += 0x9E3779B9;
        key[1] += 0xBB67AE85;
    }
    return std::uint64_t{counter[0]} << 32 | counter[1];
}

} // namespace gemlora
