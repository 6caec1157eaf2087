/* Both floating types of the interleaved epoch, for the level that the including file names. */
#include <math.h>
#include <stddef.h>
#include <stdint.h>

#include "simd.h"

#if defined(__GNUC__)
#define CMF_INLINE static inline __attribute__((always_inline))
#define CMF_UNROLL _Pragma("GCC unroll 64")
#define CMF_UNROLL_BLOCKS _Pragma("GCC unroll 8")
#define CMF_ROLL _Pragma("GCC unroll 1")
#define CMF_FETCH(address) __builtin_prefetch((address), 1, 3)
#define CMF_UNLIKELY(condition) __builtin_expect(!!(condition), 0)
#else
#define CMF_INLINE static inline
#define CMF_UNROLL
#define CMF_UNROLL_BLOCKS
#define CMF_ROLL
#define CMF_FETCH(address) ((void)(address))
#define CMF_UNLIKELY(condition) (condition)
#endif

/* Makes the compiler keep a vector in a register, where it would read it from memory twice. */
#if defined(__GNUC__) && (defined(__x86_64__) || defined(__i386__))
#define CMF_KEEP(vector) __asm__("" : "+v"(vector))
#elif defined(__GNUC__) && defined(__aarch64__)
#define CMF_KEEP(vector) __asm__("" : "+w"(vector))
#else
#define CMF_KEEP(vector) ((void)(vector))
#endif

/* The settings below were found by measurement; benchmarks/bench_ablation.py changes them. */

/* Rows of so many blocks of CMF_ROW_BYTES are held in registers, as far as there are any. */
#define CMF_MAX_HELD_BLOCKS 8
/* Of an item's row, at most so many vectors are. */
#ifndef CMF_MAX_KEPT
#define CMF_MAX_KEPT 8
#endif
#define CMF_MAX_STREAMS 4
#ifndef CMF_STREAMS
#define CMF_STREAMS(n_blocks) ((n_blocks) <= 4 ? 3 : 2)
#endif
/* Whether rows of so many blocks are worth a scale of their own. */
#ifndef CMF_SCALED
#define CMF_SCALED(n_blocks) ((n_blocks) >= 3)
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

#define CMF_JOIN(a, b, c) a##b##_##c
#define CMF_NAME_OF(base, type, level) CMF_JOIN(base, type, level)

#define REAL float
#define CMF_ROOT(x) sqrtf(x)
#define CMF_ROOTS(pair) __builtin_ia32_sqrtps(pair)
#define CMF_ABSOLUTE(x) fabsf(x)
#define CMF_PAIR_AND_ONES(user, item) {(user), (item), 1, 1}
#define JOB cmf_job_f32
#define NAME(base) CMF_NAME_OF(base, f32, CMF_LEVEL)
#include "interleaved_template.h"
#undef REAL
#undef CMF_ROOT
#undef CMF_ROOTS
#undef CMF_ABSOLUTE
#undef CMF_PAIR_AND_ONES
#undef JOB
#undef NAME

#define REAL double
#define CMF_ROOT(x) sqrt(x)
#define CMF_ROOTS(pair) __builtin_ia32_sqrtpd(pair)
#define CMF_ABSOLUTE(x) fabs(x)
#define CMF_PAIR_AND_ONES(user, item) {(user), (item)}
#define JOB cmf_job_f64
#define NAME(base) CMF_NAME_OF(base, f64, CMF_LEVEL)
#include "interleaved_template.h"
