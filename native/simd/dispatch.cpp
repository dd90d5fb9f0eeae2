#include "table.h"

namespace gemlora {

#if defined(GEMLORA_X86)
namespace avx512 {
extern const KernelTable table;
}
namespace avx2 {
extern const KernelTable table;
}
#endif
#if defined(GEMLORA_ARM)
namespace neon {
extern const KernelTable table;
}
#endif
namespace portable {
extern const KernelTable table;
}

KernelTables available_tables() {
    KernelTables result{};
    const auto add = [&](const KernelTable& table) { result.tables[result.count++] = &table; };
#if defined(GEMLORA_X86)
    __builtin_cpu_init(); // also asks the operating system whether it saves the registers
    const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
    const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
                        __builtin_cpu_supports("avx512vnni");
    if (avx512) {
        add(avx512::table);
    }
    if (avx2) {
        add(avx2::table);
    }
#endif
#if defined(GEMLORA_ARM)
    add(neon::table);
#endif
    add(portable::table);
    return result;
}

} // namespace gemlora
