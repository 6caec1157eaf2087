/* The choice of exact kernels at run time. */
#include "exact.h"

#include "simd.h"

extern const cmf_exact cmf_exact_f32_baseline, cmf_exact_f64_baseline;
#if CMF_X86
extern const cmf_exact cmf_exact_f32_avx2, cmf_exact_f64_avx2;
#endif

const cmf_exact *cmf_exact_kernels(int level, size_t itemsize) {
    const int narrow = itemsize == sizeof(float);
#if CMF_X86
    /* There is hardly more to AVX-512: the order of sums has four lanes, and rows come from memory
     * no faster. benchmarks/README.md has what was tried. */
    if (level >= CMF_AVX2) return narrow ? &cmf_exact_f32_avx2 : &cmf_exact_f64_avx2;
#endif
    (void)level;
    return narrow ? &cmf_exact_f32_baseline : &cmf_exact_f64_baseline;
}
