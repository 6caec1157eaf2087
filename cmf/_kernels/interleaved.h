/* Both floating types of the interleaved epoch, for the level that the including file names. */
#include "simd.h"
#include "vectors.h"

/* Makes the compiler keep a vector in a register, where it would read it from memory twice. */
#if CMF_X86
#define CMF_KEEP(vector) __asm__("" : "+v"(vector))
#elif defined(__GNUC__) && defined(__aarch64__)
#define CMF_KEEP(vector) __asm__("" : "+w"(vector))
#else
#define CMF_KEEP(vector) ((void)(vector))
#endif

/* The settings below were found by measurement; benchmarks/bench_ablation.py changes them. */

/* Rows of so many blocks of CMF_ROW_BYTES are held in registers, as far as there are any. */
#define CMF_MAX_HELD_BLOCKS 8
/* How many rows take turns, at most 4: as many as fill the wait for a sum, as far as registers hold
 * them. Those of 64 bytes are twice as many, and hold a block each. */
#if CMF_VECTOR_BYTES == 64 /* most blocks of a row that is one of three */
#define CMF_MOST_OF_THREE(rowwise) ((rowwise) ? 4 : 7)
#else
#define CMF_MOST_OF_THREE(rowwise) ((rowwise) ? 2 : 4)
#endif
#ifndef CMF_STREAMS
#define CMF_STREAMS(n_blocks, rowwise)                                                             \
    ((n_blocks) <= 2 ? 4 : (n_blocks) <= CMF_MOST_OF_THREE(rowwise) ? 3 : 2)
#endif
/* Whether rows of so many blocks are worth a scale of their own. */
#ifndef CMF_SCALED
#define CMF_SCALED(n_blocks) ((n_blocks) >= 3)
#endif
/* A scaled row that a stream holds is settled after so many visits at the latest. */
#define CMF_MOST_VISITS 128
/* Whether the inner product of the next turn is taken before the rows of this one move. With AVX2
 * three rows of 3 or 4 blocks leave no register for what has to wait meanwhile. */
#ifndef CMF_EARLY
#define CMF_EARLY(n_blocks, rowwise)                                                               \
    ((rowwise) || CMF_VECTOR_BYTES == 16 || (n_blocks) > 4 ||                                      \
     (CMF_VECTOR_BYTES == 64 ? (n_blocks) > 1 : (n_blocks) < 3))
#endif
/* Whether instead each step takes its own, and an item's row of so many blocks stays in registers
 * from then until it has moved. */
#if CMF_VECTOR_BYTES == 64 && !defined(__clang__)
#define CMF_MOST_READ_ONCE 5
#else /* too few registers; clang 16 takes the row to memory and back, and twice the time */
#define CMF_MOST_READ_ONCE 0
#endif
#ifndef CMF_READ_ONCE
#define CMF_READ_ONCE(n_blocks, rowwise)                                                           \
    (!(rowwise) && (n_blocks) > 1 && (n_blocks) <= CMF_MOST_READ_ONCE)
#endif
/* How many of a stream's own visits ahead an item's row is fetched. */
#ifndef CMF_STEPS_AHEAD
#define CMF_STEPS_AHEAD 2
#endif
/* How many of a stream's own visits ahead indices and ratings are fetched; 0: they are not. */
#ifndef CMF_RATINGS_AHEAD
#define CMF_RATINGS_AHEAD 16
#endif
/* How many rows of row_order ahead a user's row is fetched, and twice as many its cuts. */
#ifndef CMF_ROWS_AHEAD
#define CMF_ROWS_AHEAD 3
#endif

#define JOB CMF_NAME(cmf_job_, TYPE)
#define CMF_OF_ONE_TYPE "interleaved_template.h"
#include "both_types.h"
