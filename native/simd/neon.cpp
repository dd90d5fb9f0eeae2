#include "fill.h"
#include "vector_neon.h"

namespace gemlora::neon {

extern const KernelTable table;
constexpr KernelTable table = simd::fill_table<InstructionSet>("neon");

} // namespace gemlora::neon
