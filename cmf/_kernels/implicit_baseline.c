/* Training with implicit features with what every processor has: SSE2, NEON or plain C. */
#define CMF_LEVEL baseline
#define CMF_VECTOR_BYTES 16
#include "implicit.h"
