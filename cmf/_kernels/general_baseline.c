/* The general step with what every processor of the platform has: SSE2, NEON or plain C. */
#define CMF_LEVEL baseline
#define CMF_VECTOR_BYTES 16
#include "general_levels.h"
