# The levels of simd.h, and how rows of factors lie in memory. Nothing here can fail.

from cython cimport floating
from libc.stdint cimport uintptr_t


cdef extern from "simd.h" nogil:
    int CMF_ROW_BYTES
    int cmf_highest_level() noexcept


cdef inline bint has_level(int level) noexcept nogil:
    # Whether the processor has an instruction-set level.
    return 0 <= level <= cmf_highest_level()


cdef inline Py_ssize_t padded_bytes(Py_ssize_t n_factors, size_t itemsize) noexcept nogil:
    # Bytes from row to row, padding included.
    cdef Py_ssize_t n_bytes = n_factors * <Py_ssize_t> itemsize
    return (n_bytes + CMF_ROW_BYTES - 1) // CMF_ROW_BYTES * CMF_ROW_BYTES


cdef inline bint are_padded(const floating[:, :] rows) noexcept:
    # Whether rows are padded and aligned. A single row has no stride of its own.
    return <uintptr_t> &rows[0, 0] % CMF_ROW_BYTES == 0 and (
        rows.shape[0] == 1 or rows.strides[0] == padded_bytes(rows.shape[1], sizeof(floating))
    )
