/* The exact kernels with what every processor of the platform has: SSE2, NEON or plain C. */
#define CMF_LEVEL baseline
#define CMF_VECTOR_BYTES 16
#define CMF_ITEMS_OF_ONE 4
#define CMF_USERS 2
#define CMF_ITEMS 2
#if defined(__GNUC__) && defined(__SSE2__)
#include <emmintrin.h>
#define CMF_LOAD_FLOATS(p) _mm_cvtps_pd(_mm_castsi128_ps(_mm_loadl_epi64((const __m128i *)(p))))
#elif defined(__GNUC__) && defined(__aarch64__)
#include <arm_neon.h>
#define CMF_LOAD_FLOATS(p) vcvt_f64_f32(vld1_f32(p))
#define CMF_FUSED(a, b, sum) vfmaq_f64(sum, a, b)
#endif
#include "exact_levels.h"
