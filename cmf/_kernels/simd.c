/* The choice of a level at run time. */
#include "simd.h"

#if defined(__GNUC__) && (defined(__x86_64__) || defined(__i386__))
#define CMF_X86 1
#else
#define CMF_X86 0
#endif

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

double cmf_interleaved_f32(int level, const cmf_job_f32 *job) {
#if CMF_X86
    if (level == CMF_AVX512) return cmf_interleaved_f32_avx512(job);
    if (level == CMF_AVX2) return cmf_interleaved_f32_avx2(job);
#endif
    (void)level;
    return cmf_interleaved_f32_baseline(job);
}

double cmf_interleaved_f64(int level, const cmf_job_f64 *job) {
#if CMF_X86
    if (level == CMF_AVX512) return cmf_interleaved_f64_avx512(job);
    if (level == CMF_AVX2) return cmf_interleaved_f64_avx2(job);
#endif
    (void)level;
    return cmf_interleaved_f64_baseline(job);
}
