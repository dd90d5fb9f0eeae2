#include "fill.h"
#include "vector_avx512.h"

namespace gemlora::avx512 {

extern const KernelTable table;
constexpr KernelTable table = simd::fill_table<InstructionSet>("avx512");

} // namespace gemlora::avx512
