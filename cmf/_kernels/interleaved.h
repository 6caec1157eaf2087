/* Both floating types of the interleaved epoch, for the level that the including file names. */
#include <stddef.h>
#include <stdint.h>

#include "simd.h"

#if defined(__GNUC__)
#define CMF_INLINE static inline __attribute__((always_inline))
#define CMF_UNROLL _Pragma("GCC unroll 64")
#define CMF_UNROLL_BLOCKS _Pragma("GCC unroll 8")
#define CMF_FETCH(address) __builtin_prefetch((address), 1, 3)
#else
#define CMF_INLINE static inline
#define CMF_UNROLL
#define CMF_UNROLL_BLOCKS
#define CMF_FETCH(address) ((void)(address))
#endif

/* Rows of so many blocks of CMF_ROW_BYTES are held in registers, as far as there are any. */
#define CMF_MAX_HELD_BLOCKS 8
#define CMF_MAX_STREAMS 3
#define CMF_STREAMS(n_blocks) ((n_blocks) <= 4 ? 3 : 2)
/* How many of a stream's own visits ahead an item's row is fetched. */
#define CMF_STEPS_AHEAD 2
/* How many rows of row_order ahead a user's row is fetched, and twice as many its cuts. */
#define CMF_ROWS_AHEAD 3

#define CMF_JOIN(a, b, c) a##b##_##c
#define CMF_NAME_OF(base, type, level) CMF_JOIN(base, type, level)

#define REAL float
#define JOB cmf_job_f32
#define NAME(base) CMF_NAME_OF(base, f32, CMF_LEVEL)
#include "interleaved_template.h"
#undef REAL
#undef JOB
#undef NAME

#define REAL double
#define JOB cmf_job_f64
#define NAME(base) CMF_NAME_OF(base, f64, CMF_LEVEL)
#include "interleaved_template.h"
