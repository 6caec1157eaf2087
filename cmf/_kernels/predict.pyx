"""Predictions r̂_ui = μ + b_u + c_i + p_u·q_i for pairs and for whole blocks.

Both functions compute in double and round once, so that a pair has the same bits whichever way it
was asked for. A row of -1 stands for an unknown user or item, whose factors and bias count as 0.

Checked by cmf._checks, assumed here: arrays are C-contiguous and share one floating type; rows are
-1 or in range.
"""

from cython cimport floating
from libc.stdint cimport int64_t

from .point cimport exact_dot


def predict_pairs(
    const int64_t[::1] users not None,              # in   (n,)
    const int64_t[::1] items not None,              # in   (n,)
    const floating[:, ::1] user_factors not None,   # in   (n_users, n_factors)
    const floating[:, ::1] item_factors not None,   # in   (n_items, n_factors)
    const floating[::1] user_biases not None,       # in   (n_users,)
    const floating[::1] item_biases not None,       # in   (n_items,)
    floating[::1] predictions_out not None,         # out  (n,)
    double global_mean,
):
    """Write the prediction of each pair. The GIL is released."""
    cdef:
        Py_ssize_t n_factors = user_factors.shape[1]
        Py_ssize_t t, u, i
        double prediction

    with nogil:
        for t in range(users.shape[0]):
            u = users[t]
            i = items[t]
            prediction = global_mean
            if u >= 0:
                prediction += <double> user_biases[u]
            if i >= 0:
                prediction += <double> item_biases[i]
            if u >= 0 and i >= 0:
                prediction += exact_dot(&user_factors[u, 0], &item_factors[i, 0], n_factors)
            predictions_out[t] = <floating> prediction


def predict_block(
    const int64_t[::1] users not None,              # in   (n,)
    const int64_t[::1] items not None,              # in   (m,)
    const floating[:, ::1] user_factors not None,   # in   (n_users, n_factors)
    const floating[:, ::1] item_factors not None,   # in   (n_items, n_factors)
    const floating[::1] user_biases not None,       # in   (n_users,)
    const floating[::1] item_biases not None,       # in   (n_items,)
    floating[:, ::1] predictions_out not None,      # out  (n, m)
    double global_mean,
):
    """Write the predictions of every user for every item. The GIL is released."""
    cdef:
        Py_ssize_t n_factors = user_factors.shape[1]
        Py_ssize_t s, t, u, i
        double base, prediction

    with nogil:
        for s in range(users.shape[0]):
            u = users[s]
            base = global_mean
            if u >= 0:
                base += <double> user_biases[u]
            for t in range(items.shape[0]):
                i = items[t]
                prediction = base
                if i >= 0:
                    prediction += <double> item_biases[i]
                if u >= 0 and i >= 0:
                    prediction += exact_dot(&user_factors[u, 0], &item_factors[i, 0], n_factors)
                predictions_out[s, t] = <floating> prediction
