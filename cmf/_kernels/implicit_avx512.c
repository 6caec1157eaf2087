/* Training with implicit features with AVX-512 F, VL, DQ and BW. */
#include "simd.h"

#if defined(__GNUC__) && (defined(__x86_64__) || defined(__i386__))
#define CMF_LEVEL avx512
#define CMF_VECTOR_BYTES 64
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512vl,avx512dq,avx512bw,avx2,fma"))), apply_to = function)
#include "implicit.h"
#pragma clang attribute pop
#else
#pragma GCC target("avx512f,avx512vl,avx512dq,avx512bw,avx2,fma")
#include "implicit.h"
#endif
#else
typedef int cmf_no_avx512; /* a translation unit must not be empty */
#endif
