from numpy import int64
from numpy.typing import NDArray

from cmf._typing import FloatArray, IndexArray

def sum_errors(
    indptr: NDArray[int64],
    indices: IndexArray,
    ratings: FloatArray,
    user_factors: FloatArray,
    item_factors: FloatArray,
    user_biases: FloatArray,
    item_biases: FloatArray,
    first: int,
    last: int,
    global_mean: float,
    level: int = 0,
) -> tuple[float, float]: ...
def sum_squares(rows: FloatArray, level: int = 0, more: tuple[FloatArray, ...] = ()) -> float: ...
