/* What the kernels ask of a compiler beyond the C standard, for those that have it. */
#ifndef CMF_COMPILER_H
#define CMF_COMPILER_H

#if defined(_MSC_VER)
#define CMF_RESTRICT __restrict
#define CMF_INLINE static __forceinline
#elif defined(__GNUC__) && !defined(CMF_SANITIZED)
#define CMF_RESTRICT __restrict__
#define CMF_INLINE static inline __attribute__((always_inline))
#else
#define CMF_RESTRICT
#define CMF_INLINE static inline
#endif

/* Before a loop whose rounds are to be written out: all of up to 64, eight at a time, none. With
 * CMF_SANITIZED loops stay loops, and functions above functions: sanitizers make much of every
 * access, and compilers would take a minute for a file. */
#if defined(__GNUC__) && !defined(CMF_SANITIZED)
#define CMF_UNROLL _Pragma("GCC unroll 64")
#define CMF_UNROLL_BY_8 _Pragma("GCC unroll 8")
#define CMF_ROLL _Pragma("GCC unroll 1")
#else
#define CMF_UNROLL
#define CMF_UNROLL_BY_8
#define CMF_ROLL
#endif

#if defined(__GNUC__)
#define CMF_FETCH_TO_READ(address) __builtin_prefetch((address), 0, 3)
#define CMF_FETCH_TO_WRITE(address) __builtin_prefetch((address), 1, 3)
#define CMF_UNLIKELY(condition) __builtin_expect(!!(condition), 0)
#define CMF_NOINLINE __attribute__((noinline))
#else
#define CMF_FETCH_TO_READ(address) ((void)(address))
#define CMF_FETCH_TO_WRITE(address) ((void)(address))
#define CMF_UNLIKELY(condition) (condition)
#define CMF_NOINLINE
#endif

/* Whether there are instruction-set levels above the baseline. */
#if defined(__GNUC__) && (defined(__x86_64__) || defined(__i386__))
#define CMF_X86 1
#else
#define CMF_X86 0
#endif

/* Names with the type, the level or both behind them, once these are expanded. */
#define CMF_JOIN(a, b) a##b
#define CMF_JOIN_BOTH(a, b, c) a##b##_##c
#define CMF_NAME(base, suffix) CMF_JOIN(base, suffix)
#define CMF_NAME_OF(base, type, level) CMF_JOIN_BOTH(base, type, level)

#endif
