"""One epoch over rows that are visited in turns, at the best instruction-set level there is.

The steps are those of sgd.pyx; the order of the visits is told in interleaved_template.h.

Checked by cmf._checks and made by cmf._rows, assumed here: as in sgd.pyx; besides, rows of factors
start at multiples of 64 bytes and are padded with zeros to one.
"""

from cython cimport floating
from libc.stdint cimport int32_t, int64_t
from libc.string cimport memset

from .simd cimport are_padded, cmf_highest_level, has_level, padded_bytes
from .walk cimport (
    CMF_OVER,
    CMF_VISIT,
    Walk,
    cmf_walk,
    cmf_walk_ends_group,
    cmf_walk_ends_strip,
    cmf_walk_enter,
    cmf_walk_next,
    cmf_walk_state,
    cmf_worker,
    walk_of,
)


cdef extern from "simd.h" nogil:
    ctypedef struct cmf_job:
        const int64_t* cuts
        int64_t row_step
        const int32_t* indices
        const void* ratings
        const int64_t* row_order
        void* user_factors
        void* item_factors
        void* user_biases
        void* item_biases
        void* item_scales
        void* user_records
        void* item_records
        int64_t n_ratings
        int64_t first
        int64_t last
        size_t stride
        double global_mean
        double user_rate
        double item_rate
        double bias_rate
        double user_decay
        double item_decay
        double user_bias_decay
        double item_bias_decay
        double gradient_weight

    double cmf_interleaved(int level, size_t itemsize, const cmf_job* job) noexcept
    double cmf_settle(
        int level, size_t itemsize, const cmf_job* job, int64_t first, int64_t last
    ) noexcept
    double cmf_user_squares(
        int level, size_t itemsize, const cmf_job* job, int64_t first, int64_t last
    ) noexcept


def highest_level():
    """Number of the highest level that this processor has: 0 baseline, 1 AVX2, 2 AVX-512."""
    return cmf_highest_level()


def interleaved_epoch(
    Walk blocks not None,                       # in/out  what is visited; the losses are added up
    Py_ssize_t worker,                          # number of the caller, below n_strips
    const int64_t[::1] bounds not None,         # in      (n_strips + 1,) items of the strips
    const int64_t[::1] cuts not None,           # in      (n_users * n_strips + 1,) see grid.py
    const int32_t[::1] indices not None,        # in      (nnz,), nnz >= 1
    const floating[::1] ratings not None,       # in      (nnz,)
    const int64_t[::1] row_order not None,      # in      (n_users,) rows to visit
    floating[:, :] user_factors not None,       # in/out  (n_users, n_factors) padded rows
    floating[:, :] item_factors not None,       # in/out  (n_items, n_factors) padded rows
    floating[::1] user_biases not None,         # in/out  (n_users,)
    floating[::1] item_biases not None,         # in/out  (n_items,)
    floating[::1] item_scales not None,         # in/out  (n_items,) ones at first; see settle_rows
    floating[:, ::1] user_records,              # in/out  (n_users, 4), see simd.h; None: none,
    floating[:, ::1] item_records,              # in/out  (n_items, 4)  and all rows are alike
    Py_ssize_t n_strips,                        # of each row; with 1, cuts is indptr
    int level,                                  # at most highest_level()
    floating global_mean,
    floating user_rate,         # steps are rate * (e q - l p)
    floating item_rate,
    floating bias_rate,         # with 0 biases, which must be zero, stay so
    floating user_decay,        # 1 - rate * l; with records, the least that rows can have
    floating item_decay,
    floating user_bias_decay,   # likewise; with records it is not read
    floating item_bias_decay,
    floating gradient_weight,   # of squared gradients in the records' sums
):
    """Visit blocks; True when none is left. False: call again, so that Python can look for signals.

    A strip is settled after its last visit. Added up are squared errors, each as it was just before
    its own step, in double; and the squares of factors and biases, once they are what the epoch
    leaves.
    What an item's row stands for until its strip is settled is its numbers times its scale. The GIL
    is released.
    """
    cdef:
        cmf_walk* walk = walk_of(blocks, worker)
        cmf_worker* own
        cmf_walk_state state
        cmf_job job
        bint recorded = user_records is not None

    if not (
        are_padded[floating](user_factors)
        and are_padded[floating](item_factors)
        and has_level(level)
    ):
        raise ValueError("rows must be padded and aligned, and the level available")

    job.row_step = n_strips
    job.indices = &indices[0]
    job.ratings = &ratings[0]
    job.row_order = &row_order[0]
    job.user_factors = &user_factors[0, 0]
    job.item_factors = &item_factors[0, 0]
    job.user_biases = &user_biases[0]
    job.item_biases = &item_biases[0]
    job.item_scales = &item_scales[0]
    job.user_records = &user_records[0, 0] if recorded else NULL
    job.item_records = &item_records[0, 0] if recorded else NULL
    job.n_ratings = indices.shape[0]
    job.stride = padded_bytes(user_factors.shape[1], sizeof(floating)) // sizeof(floating)
    job.global_mean = global_mean
    job.user_rate = user_rate
    job.item_rate = item_rate
    job.bias_rate = bias_rate
    job.user_decay = user_decay
    job.item_decay = item_decay
    job.user_bias_decay = user_bias_decay
    job.item_bias_decay = item_bias_decay
    job.gradient_weight = gradient_weight
    with nogil:
        own = cmf_walk_enter(walk, worker)
        state = cmf_walk_next(walk, own)
        while state == CMF_VISIT:
            job.cuts = &cuts[own.strip]
            job.first = walk.calls[own.call]
            job.last = walk.calls[own.call + 1]
            walk.losses[own.group * walk.n_strips + own.strip] += cmf_interleaved(
                level, sizeof(floating), &job
            )
            if cmf_walk_ends_strip(walk, own):
                walk.squares[own.strip] = cmf_settle(
                    level, sizeof(floating), &job, bounds[own.strip], bounds[own.strip + 1]
                )
            if cmf_walk_ends_group(walk, own):
                walk.squares[walk.n_strips + own.group] = cmf_user_squares(
                    level,
                    sizeof(floating),
                    &job,
                    walk.calls[walk.group_calls[own.group]],
                    job.last,
                )
            state = cmf_walk_next(walk, own)
    return state == CMF_OVER


def settle_rows(
    floating[:, :] rows not None,       # in/out  (n_rows, n_factors) padded rows
    floating[::1] scales not None,      # in/out  (n_rows,) ones afterwards
    floating[:, ::1] records,           # in/out  (n_rows, 4) or None; the norms are written
    Py_ssize_t first,                   # rows first <= i < last
    Py_ssize_t last,
    int level,                          # at most highest_level()
):
    """Multiply rows by their scales, as an epoch leaves them; return their sum of squares.

    The GIL is released.
    """
    cdef:
        cmf_job job
        double squares

    if not (are_padded[floating](rows) and has_level(level)):
        raise ValueError("rows must be padded and aligned, and the level available")
    memset(&job, 0, sizeof(job))
    job.item_factors = &rows[0, 0]
    job.item_scales = &scales[0]
    job.item_records = &records[0, 0] if records is not None else NULL
    job.stride = padded_bytes(rows.shape[1], sizeof(floating)) // sizeof(floating)
    with nogil:
        squares = cmf_settle(level, sizeof(floating), &job, first, last)
    return squares
