/* Compiles CMF_TEMPLATE with AVX2 and FMA, where the processor may have them. */
#include "compiler.h"

#if CMF_X86
#define CMF_LEVEL avx2
#define CMF_VECTOR_BYTES 32
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#else
#pragma GCC target("avx2,fma")
#endif
#include CMF_TEMPLATE
#if defined(__clang__)
#pragma clang attribute pop
#endif
#else
typedef int cmf_no_avx2; /* a translation unit must not be empty */
#endif
