/* The interleaved epoch with AVX-512 F, VL, DQ and BW. */
#if defined(__GNUC__) && (defined(__x86_64__) || defined(__i386__))
#pragma GCC target("avx512f,avx512vl,avx512dq,avx512bw,avx2,fma")
#define CMF_LEVEL avx512
#define CMF_VECTOR_BYTES 64
#include "interleaved.h"
#else
typedef int cmf_no_avx512; /* a translation unit must not be empty */
#endif
