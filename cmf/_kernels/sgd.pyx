"""One epoch of stochastic gradient descent over the stored entries of a CSR matrix.

For every stored rating r_ui, in the order given, with r̂_ui = μ + b_u + c_i + p_u·q_i:

    e    = r_ui − r̂_ui                                       (before the step)
    p_u <- p_u + learning_rate (2 e q_i − regularization p_u)
    q_i <- q_i + learning_rate (2 e p_u − regularization q_i)   (p_u just updated)
    b_u <- b_u + learning_rate (2 e − regularization b_u)       and c_i likewise

computed as decay·x + gain·y with decay = 1 − learning_rate·regularization and
gain = 2·learning_rate·e. This is the rule of the classic teaching programs; the slow twin is
tests/reference.py.

Checked by cmf._checks, assumed here: arrays are C-contiguous (of factors each row) and
share one floating type; indptr is monotone from 0 to nnz; every index and every order is in range;
n_factors >= 1; no two arrays overlap. Breaking any of these reads or writes outside the arrays.
"""

from cython cimport floating
from libc.stdint cimport int32_t, int64_t

from .point cimport dot, step
from .types cimport index_t


def sgd_epoch(
    const int64_t[::1] indptr not None,         # in      (n_users + 1,)
    const index_t[::1] indices not None,        # in      (nnz,)
    const floating[::1] ratings not None,       # in      (nnz,)
    const int64_t[::1] row_order,               # in      (n_users,) rows to visit; None: 0, 1, ...
    const int32_t[::1] entry_order,             # in      (nnz,) offsets in rows; None: as stored
    floating[:, :] user_factors not None,       # in/out  (n_users, n_factors)
    floating[:, :] item_factors not None,       # in/out  (n_items, n_factors)
    floating[::1] user_biases,                  # in/out  (n_users,); None: a model without biases
    floating[::1] item_biases,                  # in/out  (n_items,); None: a model without biases
    Py_ssize_t first,                           # positions first <= s < last of the order of rows
    Py_ssize_t last,
    floating global_mean,                       # scalars last: the arrays choose the type
    floating learning_rate,
    floating regularization,
):
    """Visit the rows at positions ``first`` to ``last - 1`` and return the sum of squared errors.

    Each error is measured just before its own step, so the sum describes the factors *during* the
    pass, not after it; `cmf.losses` measures finished factors. The sum is kept in double whatever
    the factor type. The GIL is released.
    """
    cdef:
        bint in_row_order = row_order is None
        bint in_entry_order = entry_order is None
        bint biased = user_biases is not None and item_biases is not None
        Py_ssize_t n_factors = user_factors.shape[1]
        Py_ssize_t s, u, i, j, entry
        floating decay = 1 - learning_rate * regularization
        floating error, gain
        floating* p
        floating* q
        double squared_errors = 0

    with nogil:
        for s in range(first, last):
            u = s if in_row_order else row_order[s]
            p = &user_factors[u, 0]
            for j in range(indptr[u], indptr[u + 1]):
                entry = j if in_entry_order else indptr[u] + entry_order[j]
                i = indices[entry]
                q = &item_factors[i, 0]
                error = ratings[entry] - dot(p, q, n_factors)
                if biased:
                    error = error - (global_mean + user_biases[u] + item_biases[i])
                squared_errors += <double> error * <double> error
                gain = 2 * learning_rate * error
                step(p, q, n_factors, decay, gain)
                if biased:
                    user_biases[u] = decay * user_biases[u] + gain
                    item_biases[i] = decay * item_biases[i] + gain

    return squared_errors
