/* The interleaved epoch with AVX2 and FMA. */
#define CMF_TEMPLATE "interleaved.h"
#include "avx2.h"
