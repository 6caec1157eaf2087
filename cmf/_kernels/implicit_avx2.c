/* Training with implicit features, with AVX2 and FMA. */
#define CMF_TEMPLATE "implicit.h"
#include "avx2.h"
