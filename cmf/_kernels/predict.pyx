"""Predictions r̂_ui = μ + b_u + c_i + p_u·q_i for pairs and for whole blocks.

Both functions compute in double and round once, so that a pair has the same bits whichever way it
was asked for, and at every instruction-set level: exact_template.h tells how. A row of -1 stands
for an unknown user or item, whose factors and bias count as 0.

Checked by cmf._checks, assumed here: arrays are C-contiguous (of factors each row) and share one
floating type; rows are -1 or in range; the level is one that the processor has.
"""

from cython cimport floating
from libc.stdint cimport int64_t

from .exact cimport cmf_exact_kernels, cmf_model, model_of


def predict_pairs(
    const int64_t[::1] users not None,              # in   (n,)
    const int64_t[::1] items not None,              # in   (n,)
    const floating[:, :] user_factors not None,     # in   (n_users, n_factors)
    const floating[:, :] item_factors not None,     # in   (n_items, n_factors)
    const floating[::1] user_biases not None,       # in   (n_users,)
    const floating[::1] item_biases not None,       # in   (n_items,)
    floating[::1] predictions_out not None,         # out  (n,)
    double global_mean,
    int level=0,
):
    """Write the prediction of each pair. The GIL is released."""
    cdef cmf_model model

    if users.shape[0] == 0:
        return
    model = model_of(user_factors, item_factors, user_biases, item_biases, global_mean)
    with nogil:
        cmf_exact_kernels(level, sizeof(floating)).predict_pairs(
            &model, &users[0], &items[0], users.shape[0], &predictions_out[0]
        )


def predict_block(
    const int64_t[::1] users not None,              # in   (n,)
    const int64_t[::1] items not None,              # in   (m,)
    const floating[:, :] user_factors not None,     # in   (n_users, n_factors)
    const floating[:, :] item_factors not None,     # in   (n_items, n_factors)
    const floating[::1] user_biases not None,       # in   (n_users,)
    const floating[::1] item_biases not None,       # in   (n_items,)
    floating[:, ::1] predictions_out not None,      # out  (n, m)
    double global_mean,
    int level=0,
):
    """Write the predictions of every user for every item. The GIL is released."""
    cdef cmf_model model

    if users.shape[0] == 0 or items.shape[0] == 0:
        return
    model = model_of(user_factors, item_factors, user_biases, item_biases, global_mean)
    with nogil:
        cmf_exact_kernels(level, sizeof(floating)).predict_block(
            &model,
            &users[0],
            users.shape[0],
            &items[0],
            items.shape[0],
            &predictions_out[0, 0],
        )
