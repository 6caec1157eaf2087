/* The highest level of the processor at hand. */
#include "simd.h"

int cmf_highest_level(void) {
#if CMF_X86
    /* These ask the operating system too: whether it keeps the wide registers. */
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
        return CMF_AVX512;
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return CMF_AVX2;
#endif
    return CMF_BASELINE;
}
