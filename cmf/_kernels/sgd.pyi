from numpy import int32, int64
from numpy.typing import NDArray

from cmf._typing import FloatArray, IndexArray

def sgd_epoch(
    indptr: NDArray[int64],
    indices: IndexArray,
    ratings: FloatArray,
    row_order: NDArray[int64] | None,
    entry_order: NDArray[int32] | None,
    user_factors: FloatArray,
    item_factors: FloatArray,
    user_biases: FloatArray | None,
    item_biases: FloatArray | None,
    first: int,
    last: int,
    global_mean: float,
    learning_rate: float,
    regularization: float,
) -> float: ...
