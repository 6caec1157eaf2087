/* Arithmetic on one row pair: what the inner loop of training in stored order is made of.
 *
 * The C standard forbids a compiler to reorder a floating-point sum, so one accumulator would make
 * each dot product wait for its own additions. The sums below are therefore written as several
 * independent ones, which a compiler may keep in vector registers.
 * Nothing here can fail; all of it relies on strict IEEE arithmetic.
 */
#ifndef CMF_POINT_H
#define CMF_POINT_H

#include <stddef.h>

#include "compiler.h"

/* NAME(p, q, n): sum of p[f] * q[f].
 *
 * 4 * WIDTH running sums, folded to WIDTH for what is left over, then to one. All bounds of the
 * loops over sums are constants, so that no sum needs to leave its register.
 */
#define CMF_DEFINE_DOT(NAME, REAL, WIDTH)                                                          \
    CMF_INLINE REAL NAME(const REAL *CMF_RESTRICT p, const REAL *CMF_RESTRICT q, ptrdiff_t n) {    \
        REAL a[WIDTH] = {0}, b[WIDTH] = {0}, c[WIDTH] = {0}, d[WIDTH] = {0};                       \
        REAL rest = 0;                                                                             \
        ptrdiff_t f = 0;                                                                           \
        for (; f + 4 * WIDTH <= n; f += 4 * WIDTH) {                                               \
            for (int l = 0; l < WIDTH; l++) a[l] += p[f + l] * q[f + l];                           \
            for (int l = 0; l < WIDTH; l++)                                                        \
                b[l] += p[f + WIDTH + l] * q[f + WIDTH + l];                                       \
            for (int l = 0; l < WIDTH; l++)                                                        \
                c[l] += p[f + 2 * WIDTH + l] * q[f + 2 * WIDTH + l];                               \
            for (int l = 0; l < WIDTH; l++)                                                        \
                d[l] += p[f + 3 * WIDTH + l] * q[f + 3 * WIDTH + l];                               \
        }                                                                                          \
        for (int l = 0; l < WIDTH; l++) a[l] = (a[l] + b[l]) + (c[l] + d[l]);                      \
        for (; f + WIDTH <= n; f += WIDTH)                                                         \
            for (int l = 0; l < WIDTH; l++) a[l] += p[f + l] * q[f + l];                           \
        for (; f < n; f++) rest += p[f] * q[f];                                                    \
        for (int l = 0; l < WIDTH; l++) rest += a[l];                                              \
        return rest;                                                                               \
    }

/* NAME(p, q, n, decay, gain): p <- decay p + gain q, then q <- decay q + gain p (new p). */
#define CMF_DEFINE_STEP(NAME, REAL)                                                                \
    CMF_INLINE void NAME(REAL *CMF_RESTRICT p, REAL *CMF_RESTRICT q, ptrdiff_t n, REAL decay,      \
                         REAL gain) {                                                              \
        for (ptrdiff_t f = 0; f < n; f++) {                                                        \
            REAL moved = decay * p[f] + gain * q[f];                                               \
            q[f] = decay * q[f] + gain * moved;                                                    \
            p[f] = moved;                                                                          \
        }                                                                                          \
    }

CMF_DEFINE_DOT(cmf_dot_f32, float, 4)
CMF_DEFINE_DOT(cmf_dot_f64, double, 2)
CMF_DEFINE_STEP(cmf_step_f32, float)
CMF_DEFINE_STEP(cmf_step_f64, double)

#endif
