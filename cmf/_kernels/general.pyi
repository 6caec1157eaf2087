from numpy import int64
from numpy.typing import NDArray

from cmf._typing import FloatArray, IndexArray

def general_epoch(
    cuts: NDArray[int64],
    indices: IndexArray,
    ratings: FloatArray,
    weights: FloatArray | None,
    row_order: NDArray[int64] | None,
    user_factors: FloatArray,
    item_factors: FloatArray,
    user_biases: FloatArray,
    item_biases: FloatArray,
    user_records: FloatArray,
    item_records: FloatArray,
    first: int,
    last: int,
    strip: int,
    n_strips: int,
    level: int,
    loss: int,
    huber_threshold: float,
    slope_limit: float,
    biased: bool,
    global_mean: float,
    user_rate: float,
    item_rate: float,
    bias_rate: float,
    gradient_weight: float,
    l1_user: float,
    l1_item: float,
    nonnegative: bool,
    together: bool,
) -> float: ...
def sum_losses(
    ratings: FloatArray,
    weights: FloatArray | None,
    predictions: FloatArray,
    loss: int,
    huber_threshold: float,
) -> float: ...
