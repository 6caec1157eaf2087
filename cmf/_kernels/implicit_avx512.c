/* Training with implicit features, with AVX-512 F, VL, DQ and BW. */
#define CMF_TEMPLATE "implicit.h"
#include "avx512.h"
