"""Single passes over the arrays of a CSR matrix: what the gate asks, and cuts for the grid.

Every function is safe for any content of the arrays it names as unchecked. Positions are offsets
into `indices`; -1 means that nothing was found.
"""

from cython cimport floating
from libc.math cimport isfinite
from libc.stdint cimport INT32_MAX, int64_t

from .types cimport index_t


# The question is put to so many entries at once, without a branch that would keep the compiler from
# using vectors; only where the answer is yes are they looked at one by one.
cdef enum:
    BLOCK = 4096

# Of indices that ascend, so many are passed over at once.
cdef enum:
    STEP = 8


def first_out_of_range(const index_t[::1] indices not None, Py_ssize_t n_items):
    """Position of the first index that is not in ``[0, n_items)``; `indices` is unchecked."""
    cdef:
        Py_ssize_t n = indices.shape[0]
        Py_ssize_t start = 0
        Py_ssize_t end, j
        Py_ssize_t found = -1
        # The largest index there may be, in the type of the indices: comparing in it is cheaper.
        index_t last = <index_t> min(n_items - 1, <Py_ssize_t> INT32_MAX)
        bint bad

    if index_t is int64_t:
        last = n_items - 1
    with nogil:
        while start < n and found < 0:
            end = min(start + BLOCK, n)
            bad = False
            for j in range(start, end):
                bad |= (indices[j] < 0) | (indices[j] > last)
            if bad:
                for j in range(start, end):
                    if indices[j] < 0 or indices[j] > last:
                        found = j
                        break
            start = end
    return found


def first_nonfinite(const floating[::1] values not None):
    """Position of the first NaN or infinity; `values` is unchecked."""
    cdef:
        Py_ssize_t n = values.shape[0]
        Py_ssize_t start = 0
        Py_ssize_t end, j
        Py_ssize_t found = -1
        bint bad

    with nogil:
        while start < n and found < 0:
            end = min(start + BLOCK, n)
            bad = False
            for j in range(start, end):
                bad |= not isfinite(values[j])
            if bad:
                for j in range(start, end):
                    if not isfinite(values[j]):
                        found = j
                        break
            start = end
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


def first_unsorted(
    const int64_t[::1] indptr not None,     # in      (n_users + 1,) monotone, ends at nnz
    const index_t[::1] indices not None,    # in      (nnz,)
):
    """Position of the first index that is not above the one before it in its row.

    Where there is none, no row holds an index twice either.
    """
    cdef:
        Py_ssize_t u, j
        Py_ssize_t found = -1
        bint bad

    with nogil:
        for u in range(indptr.shape[0] - 1):
            bad = False
            for j in range(indptr[u] + 1, indptr[u + 1]):
                bad |= indices[j] <= indices[j - 1]
            if bad:
                for j in range(indptr[u] + 1, indptr[u + 1]):
                    if indices[j] <= indices[j - 1]:
                        found = j
                        break
                break
    return found


def count_columns(
    const index_t[::1] indices not None,    # in      (nnz,) in range of counts
    int64_t[::1] counts not None,           # in/out  (n_items,)
):
    """Add the number of entries of each column to its count."""
    cdef:
        Py_ssize_t j

    with nogil:
        for j in range(indices.shape[0]):
            counts[indices[j]] += 1


def cut_rows(
    const int64_t[::1] indptr not None,     # in      (n_users + 1,) monotone, ends at nnz
    const index_t[::1] indices not None,    # in      (nnz,) ascending inside rows
    const int64_t[::1] bounds not None,     # in      (n_strips + 1,) monotone, from 0 to n_items
    int64_t[::1] cuts_out not None,         # out     (n_users * n_strips,)
):
    """Write where each strip of each row begins; where it ends, the next one begins."""
    cdef:
        Py_ssize_t n_strips = bounds.shape[0] - 1
        Py_ssize_t n_rows = indptr.shape[0] - 1
        Py_ssize_t u, s
        int64_t j

    with nogil:
        for u in range(n_rows):
            j = indptr[u]
            for s in range(n_strips):
                cuts_out[u * n_strips + s] = j
                while j + STEP <= indptr[u + 1] and indices[j + STEP - 1] < bounds[s + 1]:
                    j += STEP
                while j < indptr[u + 1] and indices[j] < bounds[s + 1]:
                    j += 1


def cut_in_parts(
    const int64_t[::1] indptr not None,     # in      (n_rows + 1,) monotone
    const int64_t[::1] row_order,           # in      (n_rows,) the rows; None: 0, 1, ...
    int64_t[::1] parts_out not None,        # out     (n_parts + 1,)
):
    """Cut rows into parts of about the same number of entries: where each begins, then n_rows.

    Part k begins with the row that reaches k parts of n_parts of all entries.
    """
    cdef:
        bint in_row_order = row_order is None
        Py_ssize_t n_rows = indptr.shape[0] - 1
        Py_ssize_t n_parts = parts_out.shape[0] - 1
        Py_ssize_t part = 1
        Py_ssize_t s, u
        int64_t total = indptr[n_rows] - indptr[0]
        int64_t done = 0

    parts_out[0] = 0
    with nogil:
        for s in range(n_rows):
            u = s if in_row_order else row_order[s]
            done += indptr[u + 1] - indptr[u]
            while part < n_parts and done * n_parts >= total * part:
                parts_out[part] = s
                part += 1
        for part in range(part, n_parts + 1):
            parts_out[part] = n_rows
