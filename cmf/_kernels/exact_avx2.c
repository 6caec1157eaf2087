/* The exact kernels with AVX2 and FMA. */
#include "compiler.h"

#if CMF_X86
#include <immintrin.h>
#endif

#define CMF_ITEMS_OF_ONE 8
#define CMF_USERS 2
#define CMF_ITEMS 4
#define CMF_LOAD_FLOATS(p) _mm256_cvtps_pd(_mm_loadu_ps(p))
#define CMF_GATHER_FLOATS(t, i) \
    _mm256_cvtps_pd(_mm_setr_ps((t)[(i)[0]], (t)[(i)[1]], (t)[(i)[2]], (t)[(i)[3]]))
#define CMF_FUSED(a, b, sum) _mm256_fmadd_pd(a, b, sum)
#define CMF_TEMPLATE "exact_levels.h"
#include "avx2.h"
