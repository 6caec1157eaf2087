/* The general step with AVX2 and FMA. */
#define CMF_TEMPLATE "general_levels.h"
#include "avx2.h"
