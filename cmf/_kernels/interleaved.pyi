from numpy import int32, int64
from numpy.typing import NDArray

from cmf._typing import FloatArray

def highest_level() -> int: ...
def interleaved_epoch(
    cuts: NDArray[int64],
    indices: NDArray[int32],
    ratings: FloatArray,
    row_order: NDArray[int64],
    user_factors: FloatArray,
    item_factors: FloatArray,
    user_biases: FloatArray,
    item_biases: FloatArray,
    item_scales: FloatArray,
    first: int,
    last: int,
    strip: int,
    n_strips: int,
    level: int,
    biased: bool,
    global_mean: float,
    learning_rate: float,
    regularization: float,
) -> float: ...
def settle_rows(rows: FloatArray, scales: FloatArray, first: int, last: int) -> None: ...
