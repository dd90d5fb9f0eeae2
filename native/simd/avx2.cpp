#include "fill.h"
#include "vector_avx2.h"

namespace gemlora::avx2 {

extern const KernelTable table;
constexpr KernelTable table = simd::fill_table<InstructionSet>("avx2");

} // namespace gemlora::avx2
