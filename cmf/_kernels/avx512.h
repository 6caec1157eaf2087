/* Compiles CMF_TEMPLATE with AVX-512 F, VL, DQ and BW, where the processor may have them. */
#include "compiler.h"

#if CMF_X86
#define CMF_LEVEL avx512
#define CMF_VECTOR_BYTES 64
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512vl,avx512dq,avx512bw,avx2,fma"))), apply_to = function)
#else
#pragma GCC target("avx512f,avx512vl,avx512dq,avx512bw,avx2,fma")
#endif
#include CMF_TEMPLATE
#if defined(__clang__)
#pragma clang attribute pop
#endif
#else
typedef int cmf_no_avx512; /* a translation unit must not be empty */
#endif
