/* Both floating types of the general step, for the level that the including file names. */
#include "general.h"
#include "vectors.h"

#define NAME(base) CMF_NAME_OF(base, TYPE, CMF_LEVEL)

#define REAL float
#define TYPE f32
#include "general_template.h"
#undef REAL
#undef TYPE

#define REAL double
#define TYPE f64
#include "general_template.h"
