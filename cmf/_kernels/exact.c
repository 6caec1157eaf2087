/* The choice of exact kernels at run time. */
#include "exact.h"

#include "simd.h"

extern const cmf_exact cmf_exact_f32_baseline, cmf_exact_f64_baseline;
#if defined(__GNUC__) && (defined(__x86_64__) || defined(__i386__))
extern const cmf_exact cmf_exact_f32_avx2, cmf_exact_f64_avx2;
#endif

const cmf_exact *cmf_exact_kernels(int level, size_t itemsize) {
    const int narrow = itemsize == sizeof(float);
#if defined(__GNUC__) && (defined(__x86_64__) || defined(__i386__))
    /* There is no more to AVX-512: loads and conversions are what takes time, and converting eight
     * numbers at once takes as long as converting four twice, or longer. */
    if (level >= CMF_AVX2) return narrow ? &cmf_exact_f32_avx2 : &cmf_exact_f64_avx2;
#endif
    (void)level;
    return narrow ? &cmf_exact_f32_baseline : &cmf_exact_f64_baseline;
}
