# The index types of SciPy's compressed matrices. Fixed widths: C long is 32 bits on Windows.

from libc.stdint cimport int32_t, int64_t

ctypedef fused index_t:
    int32_t
    int64_t
