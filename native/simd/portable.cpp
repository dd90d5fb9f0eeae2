#include "fill.h"
#include "vector_portable.h"

namespace gemlora::portable {

extern const KernelTable table;
constexpr KernelTable table = simd::fill_table<InstructionSet>("portable");

} // namespace gemlora::portable
