// Checks of the numbers in the caller's arrays.
#pragma once

#include "views.h"

#include <stdexcept>
#include <string>

namespace gemlora {

inline void require(bool condition, const char* message) {
    if (!condition) {
        throw std::invalid_argument(message);
    }
}

// Every number must be in [0, end).
template <class Number>
void require_below(Span<Number> numbers, std::int64_t end, const char* name) {
    for (std::int64_t i = 0; i < numbers.size; ++i) {
        if (numbers[i] < 0 || numbers[i] >= end) {
            throw std::invalid_argument(std::string(name) + "[" + std::to_string(i) + "] is " +
                                        std::to_string(numbers[i]) + ", must be in 0 … " + std::to_string(end - 1));
        }
    }
}

} // namespace gemlora
