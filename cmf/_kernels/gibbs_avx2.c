/* Gibbs sampling with AVX2 and FMA. */
#define CMF_TEMPLATE "gibbs_template.h"
#include "avx2.h"
