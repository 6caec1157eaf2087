/* Gibbs sampling with AVX-512 F, VL, DQ and BW. */
#define CMF_TEMPLATE "gibbs_template.h"
#include "avx512.h"
