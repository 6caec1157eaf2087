"""Training and measuring with any of five losses, sample weights, L1 and non-negativity.

For every stored rating r_ui of weight w, in rows one after the other:

    x    = μ + b_u + c_i + p_u·q_i                            (before the step)
    d    = w · slope(r_ui, x)                                 (within slope_limit)
    p_u <- prox(p_u + η_u (d q_i − l_u p_u)),  η_u = user_rate / √G_u
    q_i <- prox(q_i + η_i (d p_u − l_i q_i)),  η_i = item_rate / √G_i   (p_u: see together)
    b_u <- b_u + bias_rate (d − lb_u b_u)      and c_i likewise

number, loss  reported, times w                 slope                   minus the derivative by x of
0 squared     (r − x)²                          r − x                   half the loss
1 absolute    |r − x|                           sign(r − x)             the loss
2 huber       (r − x)², from |r − x| = t on     r − x, kept in [−t, t]  half the loss
              t (2 |r − x| − t)
3 logistic    log(1 + exp(x)) − r x             r − 1 / (1 + exp(−x))   the loss
4 poisson     exp(x) − r x                      r − exp(x)              the loss

A step of rows goes down w · loss (or half of it) + l/2 |p|² + l1 |p|₁, one of biases down
w · loss (or half of it) + lb/2 b²: the weight of a rating does not weigh the regularization of its
visit. With squared loss, rates of 2 · learning_rate and l of regularization / 2 this is the rule of
sgd.pyx. Logistic is the cross-entropy of r and 1 / (1 + exp(−x)). Poisson is the negative
log-likelihood of a mean of exp(x) without log r!, and may be negative; above x = 40 exp is
continued by its tangent.

After a step G_u grows by gradient_weight · |d q_i − l_u p_u|² and G_i by
gradient_weight · |d p_u − l_i q_i|², rows as they were in the step: AdaGrad with one sum for a row.
gradient_weight = 0 keeps rates constant. prox moves each factor toward 0 by up to η l1 and then, if
nonnegative, lifts what is below 0 to 0, which is exact for both together. Biases have neither, and
rows that are not visited keep what they are. The step is that of J. Duchi, Y. Singer, "Efficient
online and batch learning using forward backward splitting", JMLR 10, 2009. The slow twin is
tests/reference.py.

Checked by cmf._checks and made by cmf._rows, assumed here: as in interleaved.pyx. Of
use only if G >= 1, weights >= 0, and ratings are in [0, 1] for logistic and >= 0 for poisson loss.
"""

from cython cimport floating
from libc.stdint cimport int64_t

from .simd cimport CMF_ROW_BYTES, are_padded, has_level, padded_bytes
from .types cimport index_t
from .walk cimport (
    CMF_OVER,
    CMF_VISIT,
    Walk,
    cmf_walk,
    cmf_walk_enter,
    cmf_walk_next,
    cmf_walk_state,
    cmf_worker,
    walk_of,
)


cdef extern from "general.h" nogil:
    int CMF_N_LOSSES
    double cmf_loss(int loss, double rating, double x, double threshold, double* slope) noexcept
    void cmf_fetch_row(const void* row, Py_ssize_t n_blocks) noexcept

    ctypedef struct cmf_descent_f32:
        float user_rate
        float item_rate
        float gradient_weight
        float l1_user
        float l1_item
        bint nonnegative
        bint together

    ctypedef struct cmf_descent_f64:
        double user_rate
        double item_rate
        double gradient_weight
        double l1_user
        double l1_item
        bint nonnegative
        bint together

    float cmf_general_product_f32(
        int level, const float* p, const float* q, Py_ssize_t n_blocks
    ) noexcept
    double cmf_general_product_f64(
        int level, const double* p, const double* q, Py_ssize_t n_blocks
    ) noexcept
    void cmf_general_descend_f32(
        int level, float* p, float* q, Py_ssize_t n_blocks, float* user_record, float* item_record,
        float slope, const cmf_descent_f32* descent
    ) noexcept
    void cmf_general_descend_f64(
        int level, double* p, double* q, Py_ssize_t n_blocks, double* user_record,
        double* item_record, double slope, const cmf_descent_f64* descent
    ) noexcept


# The rating so many positions ahead has its item's row fetched.
cdef enum:
    AHEAD = 3


def general_epoch(
    Walk blocks not None,                       # in/out  what is visited; the losses are added up
    Py_ssize_t worker,                          # number of the caller, below n_strips
    const int64_t[::1] cuts not None,           # in      (n_users * n_strips + 1,) see grid.py
    const index_t[::1] indices not None,        # in      (nnz,)
    const floating[::1] ratings not None,       # in      (nnz,)
    const floating[::1] weights,                # in      (nnz,); None: all 1
    const int64_t[::1] row_order,               # in      (n_users,) rows to visit; None: 0, 1, ...
    floating[:, :] user_factors not None,       # in/out  (n_users, n_factors) padded rows
    floating[:, :] item_factors not None,       # in/out  (n_items, n_factors) padded rows
    floating[::1] user_biases not None,         # in/out  (n_users,)
    floating[::1] item_biases not None,         # in/out  (n_items,)
    floating[:, ::1] user_records not None,     # in/out  (n_users, 4): G, unused, l, lb
    floating[:, ::1] item_records not None,     # in/out  (n_items, 4): G, unused, l, lb
    Py_ssize_t n_strips,                        # of each row; with 1, cuts is indptr
    int level,                                  # at most highest_level() of interleaved.pyx
    int loss,                                   # 0 to 4, in the order of the table above
    double huber_threshold,                     # t > 0, read by huber alone
    double slope_limit,                         # d is kept in [-slope_limit, slope_limit]
    bint biased,                                # False: biases, which must be zero, stay so
    floating global_mean,                       # scalars last: the arrays choose the type
    floating user_rate,
    floating item_rate,
    floating bias_rate,
    floating gradient_weight,
    floating l1_user,
    floating l1_item,
    bint nonnegative,
    bint together,                              # the item steps from the user's old row
):
    """Visit blocks; True when none is left. False: call again, so that Python can look for signals.

    Added up are weighted losses, each as it was just before its own step, in double. The GIL is
    released.
    """
    cdef:
        cmf_walk* walk = walk_of(blocks, worker)
        cmf_worker* own
        cmf_walk_state state
        bint in_row_order = row_order is None
        bint weighted = weights is not None
        Py_ssize_t n_blocks, s, u, i, j, stop
        floating x, step
        double weight = 1
        double slope = 0
        double losses = 0
        floating* p
        floating* q
        floating* user
        floating* item
        cmf_descent_f32 narrow
        cmf_descent_f64 wide

    _check_loss(loss)
    if not (
        are_padded[floating](user_factors)
        and are_padded[floating](item_factors)
        and has_level(level)
    ):
        raise ValueError("rows must be padded and aligned, and the level available")
    n_blocks = padded_bytes(user_factors.shape[1], sizeof(floating)) // CMF_ROW_BYTES
    if floating is float:
        narrow = cmf_descent_f32(
            user_rate, item_rate, gradient_weight, l1_user, l1_item, nonnegative, together
        )
    else:
        wide = cmf_descent_f64(
            user_rate, item_rate, gradient_weight, l1_user, l1_item, nonnegative, together
        )
    with nogil:
        own = cmf_walk_enter(walk, worker)
        state = cmf_walk_next(walk, own)
        while state == CMF_VISIT:
            losses = 0
            for s in range(walk.calls[own.call], walk.calls[own.call + 1]):
                u = s if in_row_order else row_order[s]
                p = &user_factors[u, 0]
                user = &user_records[u, 0]
                stop = cuts[u * n_strips + own.strip + 1]
                for j in range(cuts[u * n_strips + own.strip], stop):
                    i = indices[j]
                    q = &item_factors[i, 0]
                    item = &item_records[i, 0]
                    if j + AHEAD < stop:
                        cmf_fetch_row(&item_factors[indices[j + AHEAD], 0], n_blocks)
                    if floating is float:
                        x = cmf_general_product_f32(level, p, q, n_blocks)
                    else:
                        x = cmf_general_product_f64(level, p, q, n_blocks)
                    x = global_mean + user_biases[u] + item_biases[i] + x
                    if weighted:
                        weight = weights[j]
                    losses += weight * cmf_loss(loss, ratings[j], x, huber_threshold, &slope)
                    slope *= weight
                    slope = slope_limit if slope > slope_limit else slope
                    slope = -slope_limit if slope < -slope_limit else slope
                    step = <floating> slope
                    if floating is float:
                        cmf_general_descend_f32(level, p, q, n_blocks, user, item, step, &narrow)
                    else:
                        cmf_general_descend_f64(level, p, q, n_blocks, user, item, step, &wide)
                    if biased:
                        user_biases[u] += bias_rate * (step - user[3] * user_biases[u])
                        item_biases[i] += bias_rate * (step - item[3] * item_biases[i])
            walk.losses[own.group * walk.n_strips + own.strip] += losses
            state = cmf_walk_next(walk, own)
    return state == CMF_OVER


def sum_losses(
    const floating[::1] ratings not None,       # in  (n,)
    const floating[::1] weights,                # in  (n,); None: all 1
    const floating[::1] predictions not None,   # in  (n,) x of each rating
    int loss,
    double huber_threshold,
):
    """Return the sum of the weighted losses, in double. The GIL is released."""
    cdef:
        bint weighted = weights is not None
        Py_ssize_t t
        double weight = 1
        double slope = 0
        double losses = 0

    _check_loss(loss)
    with nogil:
        for t in range(ratings.shape[0]):
            if weighted:
                weight = weights[t]
            losses += weight * cmf_loss(loss, ratings[t], predictions[t], huber_threshold, &slope)

    return losses


cdef int _check_loss(int loss) except -1:
    if not 0 <= loss < CMF_N_LOSSES:
        raise ValueError(f"loss must be a number from 0 to {CMF_N_LOSSES - 1}, got {loss}")
    return 0
