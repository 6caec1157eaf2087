/* Both floating types of the general step, for the level that the including file names. */
#include "general.h"
#include "vectors.h"

#define CMF_OF_ONE_TYPE "general_template.h"
#include "both_types.h"
