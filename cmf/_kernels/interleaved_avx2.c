/* The interleaved epoch with AVX2 and FMA. */
#if defined(__GNUC__) && (defined(__x86_64__) || defined(__i386__))
#pragma GCC target("avx2,fma")
#define CMF_LEVEL avx2
#define CMF_VECTOR_BYTES 32
#include "interleaved.h"
#else
typedef int cmf_no_avx2; /* a translation unit must not be empty */
#endif
