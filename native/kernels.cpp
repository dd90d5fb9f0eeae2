#include "kernels.h"

namespace gemlora {

Kernels::Kernels(int threads, const KernelTable& table)
    : table_(table), pool_(threads), thread_scratch_(static_cast<std::size_t>(threads)) {}

} // namespace gemlora
