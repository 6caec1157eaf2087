from numpy import int64
from numpy.typing import NDArray

from cmf._kernels.walk import Walk
from cmf._typing import FloatArray, IndexArray

def general_epoch(
    blocks: Walk,
    worker: int,
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
) -> bool: ...
def sum_losses(
    ratings: FloatArray,
    weights: FloatArray | None,
    predictions: FloatArray,
    loss: int,
    huber_threshold: float,
) -> float: ...
