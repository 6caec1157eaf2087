"""Single passes over the arrays of a CSR matrix: what the gate asks, and the order of an epoch.

Every function is safe for any content of the arrays it names as unchecked. Positions are offsets
into `indices`; -1 means that nothing was found.
"""

from cython cimport floating
from libc.math cimport isfinite
from libc.stdint cimport int32_t, int64_t, uint64_t

from .types cimport index_t


def first_out_of_range(const index_t[::1] indices not None, Py_ssize_t n_items):
    """Position of the first index that is not in ``[0, n_items)``; `indices` is unchecked."""
    cdef:
        Py_ssize_t j
        Py_ssize_t found = -1

    with nogil:
        for j in range(indices.shape[0]):
            if indices[j] < 0 or indices[j] >= n_items:
                found = j
                break
    return found


def first_nonfinite(const floating[::1] values not None):
    """Position of the first NaN or infinity; `values` is unchecked."""
    cdef:
        Py_ssize_t j
        Py_ssize_t found = -1

    with nogil:
        for j in range(values.shape[0]):
            if not isfinite(values[j]):
                found = j
                break
    return found


def first_duplicate(
    const int64_t[::1] indptr not None,     # in      (n_users + 1,) monotone, ends at nnz
    const index_t[::1] indices not None,    # in      (nnz,) in range of last_row
    int64_t[::1] last_row not None,         # scratch (n_items,) filled with -1
):
    """Position of the first index that its own row holds already."""
    cdef:
        Py_ssize_t u, j
        Py_ssize_t found = -1

    with nogil:
        for u in range(indptr.shape[0] - 1):
            for j in range(indptr[u], indptr[u + 1]):
                if last_row[indices[j]] == u:
                    found = j
                    break
                last_row[indices[j]] = u
            if found >= 0:
                break
    return found


cdef inline uint64_t next_random(uint64_t* state) noexcept nogil:
    # SplitMix64: G. L. Steele, D. Lea, C. H. Flood, "Fast splittable pseudorandom number
    # generators", OOPSLA 2014. Its state is a counter, so that each row can have its own stream.
    cdef uint64_t z
    state[0] += <uint64_t> 0x9E3779B97F4A7C15
    z = state[0]
    z = (z ^ (z >> 30)) * <uint64_t> 0xBF58476D1CE4E5B9
    z = (z ^ (z >> 27)) * <uint64_t> 0x94D049BB133111EB
    return z ^ (z >> 31)


def shuffle_rows(
    const int64_t[::1] indptr not None,     # in      (n_users + 1,) monotone, ends at nnz
    int32_t[::1] entry_order not None,      # out     (nnz,) a permutation of 0..length-1 per row
    uint64_t seed,
):
    """Write a random order of the entries inside each row, as offsets from the row's start.

    The order of row ``u`` depends on `seed` and ``u`` alone: an inside-out Fisher-Yates shuffle fed
    by SplitMix64 started at ``seed + u * 0xD1342543DE82EF95``. Bounded draws are taken from the
    upper 32 bits by multiplication; their bias is below ``length / 2**32``.
    """
    cdef:
        Py_ssize_t u, length, i, swap
        int64_t start
        uint64_t state

    with nogil:
        for u in range(indptr.shape[0] - 1):
            start = indptr[u]
            length = indptr[u + 1] - start
            state = seed + <uint64_t> u * <uint64_t> 0xD1342543DE82EF95
            for i in range(length):
                swap = <Py_ssize_t> (
                    ((next_random(&state) >> 32) * <uint64_t> (i + 1)) >> 32
                )
                entry_order[start + i] = entry_order[start + swap] if swap < i else <int32_t> i
                entry_order[start + swap] = <int32_t> i
