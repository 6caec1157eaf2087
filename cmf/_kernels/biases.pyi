from numpy import float64, int64
from numpy.typing import NDArray

from cmf._typing import FloatArray, IndexArray

def sum_deviations(
    indptr: NDArray[int64],
    indices: IndexArray,
    ratings: FloatArray,
    user_sums: NDArray[float64],
    item_sums: NDArray[float64],
    first: int,
    last: int,
    global_mean: float,
) -> float: ...
def damp_users(
    indptr: NDArray[int64],
    indices: IndexArray,
    user_sums: NDArray[float64],
    item_biases: NDArray[float64],
    user_biases: NDArray[float64],
    item_sums: NDArray[float64],
    first: int,
    last: int,
    damping: float,
) -> float: ...
def moments(
    counts: NDArray[int64],
    sums: NDArray[float64],
    values: NDArray[float64],
    damping: float,
) -> tuple[float, float, float, float]: ...
