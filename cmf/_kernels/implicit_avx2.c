/* Training with implicit features with AVX2 and FMA. */
#include "simd.h"

#if defined(__GNUC__) && (defined(__x86_64__) || defined(__i386__))
#define CMF_LEVEL avx2
#define CMF_VECTOR_BYTES 32
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#include "implicit.h"
#pragma clang attribute pop
#else
#pragma GCC target("avx2,fma")
#include "implicit.h"
#endif
#else
typedef int cmf_no_avx2; /* a translation unit must not be empty */
#endif
