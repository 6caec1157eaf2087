/* The exact kernels with AVX2 and FMA. */
#include "simd.h"

#if defined(__GNUC__) && (defined(__x86_64__) || defined(__i386__))
#define CMF_LEVEL avx2
#define CMF_VECTOR_BYTES 32
#define CMF_ITEMS_OF_ONE 8
#define CMF_USERS 2
#define CMF_ITEMS 4
#define CMF_LOAD_FLOATS(p) _mm256_cvtps_pd(_mm_loadu_ps(p))
#define CMF_GATHER_FLOATS(t, i) \
    _mm256_cvtps_pd(_mm_setr_ps((t)[(i)[0]], (t)[(i)[1]], (t)[(i)[2]], (t)[(i)[3]]))
#define CMF_FUSED(a, b, sum) _mm256_fmadd_pd(a, b, sum)
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#include <immintrin.h>
#include "exact_levels.h"
#pragma clang attribute pop
#else
#pragma GCC target("avx2,fma")
#include <immintrin.h>
#include "exact_levels.h"
#endif
#else
typedef int cmf_no_exact_avx2; /* a translation unit must not be empty */
#endif
