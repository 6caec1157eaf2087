/* The interleaved epoch with AVX-512 F, VL, DQ and BW. */
#define CMF_TEMPLATE "interleaved.h"
#include "avx512.h"
