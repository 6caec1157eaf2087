from numpy import int64
from numpy.typing import NDArray

from cmf._typing import FloatArray, IndexArray

def first_out_of_range(indices: IndexArray, n_items: int) -> int: ...
def first_nonfinite(values: FloatArray) -> int: ...
def first_duplicate(
    indptr: NDArray[int64], indices: IndexArray, last_row: NDArray[int64]
) -> int: ...
def first_unsorted(indptr: NDArray[int64], indices: IndexArray) -> int: ...
def cut_rows(
    indptr: NDArray[int64],
    indices: IndexArray,
    bounds: NDArray[int64],
    cuts_out: NDArray[int64],
) -> None: ...
