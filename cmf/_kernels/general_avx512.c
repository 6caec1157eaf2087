/* The general step with AVX-512. */
#define CMF_TEMPLATE "general_levels.h"
#include "avx512.h"
