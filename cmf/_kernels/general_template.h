/* The inner product of two rows, and the step of one rating on both, in one pass over them.
 *
 * The including file defines REAL, TYPE, NAME(base), CMF_VECTOR_BYTES. Assumed: rows are aligned
 * and padded with zeros (which finite steps leave zero), and the two rows are not the same.
 */

#include "vectors_template.h"

/* Inner product, in four sums, so that additions need not wait for each other. */
REAL NAME(cmf_general_product_)(const REAL *p, const REAL *q, ptrdiff_t n_blocks) {
    const VECTOR *user = (const VECTOR *)p, *item = (const VECTOR *)q;
    const ptrdiff_t n_vectors = n_blocks * PER_BLOCK;
    VECTOR a = {0}, b = {0}, c = {0}, d = {0};
    ptrdiff_t v = 0;
    for (; v + 4 <= n_vectors; v += 4) {
        a += user[v] * item[v];
        b += user[v + 1] * item[v + 1];
        c += user[v + 2] * item[v + 2];
        d += user[v + 3] * item[v + 3];
    }
    for (; v < n_vectors; v++) a += user[v] * item[v];
    return NAME(sum_halves_)((a + b) + (c + d));
}

/* Shrink numbers toward 0 by a threshold, then raise them to `lowest`. */
CMF_INLINE VECTOR NAME(proximal_)(VECTOR numbers, VECTOR threshold, VECTOR lowest) {
    const VECTOR removed = CMF_AT_LEAST(CMF_AT_MOST(numbers, threshold), -threshold);
    return CMF_AT_LEAST(numbers - removed, lowest);
}

CMF_INLINE void NAME(descend_)(REAL *p, REAL *q, ptrdiff_t n_blocks, REAL *user_record,
                               REAL *item_record, REAL slope,
                               const CMF_NAME(cmf_descent_, TYPE) * descent, const int together,
                               const int proximal) {
    VECTOR *user = (VECTOR *)p, *item = (VECTOR *)q;
    const ptrdiff_t n_vectors = n_blocks * PER_BLOCK;
    const REAL user_shrink = user_record[CMF_SHRINK], item_shrink = item_record[CMF_SHRINK];
    const REAL least = descent->nonnegative ? 0 : -(REAL)INFINITY;
    REAL rates[2] = {descent->user_rate, descent->item_rate}, squares[2];
    NAME(divide_by_roots_)(rates, user_record[CMF_GRADIENTS], item_record[CMF_GRADIENTS]);
    const VECTOR user_threshold = rates[0] * descent->l1_user - (VECTOR){0};
    const VECTOR item_threshold = rates[1] * descent->l1_item - (VECTOR){0};
    const VECTOR lowest = least - (VECTOR){0};
    VECTOR user_squares = {0}, item_squares = {0};

    for (ptrdiff_t v = 0; v < n_vectors; v++) {
        const VECTOR old = user[v], other = item[v];
        const VECTOR user_gradient = slope * other - user_shrink * old;
        VECTOR moved = old + rates[0] * user_gradient;
        if (proximal) moved = NAME(proximal_)(moved, user_threshold, lowest);
        const VECTOR item_gradient = slope * (together ? old : moved) - item_shrink * other;
        VECTOR passed = other + rates[1] * item_gradient;
        if (proximal) passed = NAME(proximal_)(passed, item_threshold, lowest);
        user_squares += user_gradient * user_gradient;
        item_squares += item_gradient * item_gradient;
        user[v] = moved;
        item[v] = passed;
    }
    if (descent->gradient_weight > 0) {
        NAME(sum_two_)(user_squares, item_squares, squares);
        user_record[CMF_GRADIENTS] += descent->gradient_weight * squares[0];
        item_record[CMF_GRADIENTS] += descent->gradient_weight * squares[1];
    }
}

void NAME(cmf_general_descend_)(REAL *p, REAL *q, ptrdiff_t n_blocks, REAL *user_record,
                                REAL *item_record, REAL slope,
                                const CMF_NAME(cmf_descent_, TYPE) * descent) {
    const int proximal = descent->l1_user > 0 || descent->l1_item > 0 || descent->nonnegative;
#define CMF_DESCEND(together, proximal)                                                            \
    NAME(descend_)(p, q, n_blocks, user_record, item_record, slope, descent, together, proximal)
    if (descent->together) {
        if (proximal)
            CMF_DESCEND(1, 1);
        else
            CMF_DESCEND(1, 0);
    } else {
        if (proximal)
            CMF_DESCEND(0, 1);
        else
            CMF_DESCEND(0, 0);
    }
#undef CMF_DESCEND
}

#undef VECTOR
#undef SHORT
#undef PER_BLOCK
