// Memory that grows to the largest request and is kept for the next call.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>

namespace gemlora {

class Scratch {
public:
    // At least `count` numbers, aligned to a cache line, with any content.
    template <class Number>
    Number* get(std::int64_t count) {
        const std::size_t bytes = static_cast<std::size_t>(count) * sizeof(Number);
        if (bytes > size_) {
            memory_.reset();
            size_ = 0; // in case that there is no memory
            memory_.reset(static_cast<std::byte*>(::operator new(bytes, std::align_val_t{64})));
            size_ = bytes;
        }
        return reinterpret_cast<Number*>(memory_.get());
    }

private:
    struct Free {
        void operator()(std::byte* memory) const { ::operator delete(memory, std::align_val_t{64}); }
    };

    std::unique_ptr<std::byte, Free> memory_;
    std::size_t size_ = 0;
};

} // namespace gemlora
