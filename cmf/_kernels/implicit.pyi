from numpy import int32, int64
from numpy.typing import NDArray

from cmf._typing import FloatArray

SCRATCH_ROWS: int

def implicit_epoch(
    indptr: NDArray[int64],
    indices: NDArray[int32],
    ratings: FloatArray,
    row_order: NDArray[int64],
    weights: FloatArray,
    user_factors: FloatArray,
    item_factors: FloatArray,
    implicit_factors: FloatArray,
    user_biases: FloatArray,
    item_biases: FloatArray,
    user_records: FloatArray,
    item_records: FloatArray,
    scratch: FloatArray,
    first: int,
    last: int,
    level: int,
    global_mean: float,
    user_rate: float,
    item_rate: float,
    bias_rate: float,
    implicit_rate: float,
    implicit_shrink: float,
    gradient_weight: float,
) -> float: ...
def implicit_sums(
    indptr: NDArray[int64],
    indices: NDArray[int32],
    weights: FloatArray,
    implicit_factors: FloatArray,
    sums_out: FloatArray,
    first: int,
    last: int,
    level: int,
) -> None: ...
