from numpy import int32, int64
from numpy.typing import NDArray

from cmf._kernels.walk import Walk
from cmf._typing import FloatArray

def highest_level() -> int: ...
def interleaved_epoch(
    blocks: Walk,
    worker: int,
    bounds: NDArray[int64],
    cuts: NDArray[int64],
    indices: NDArray[int32],
    ratings: FloatArray,
    row_order: NDArray[int64],
    user_factors: FloatArray,
    item_factors: FloatArray,
    user_biases: FloatArray,
    item_biases: FloatArray,
    item_scales: FloatArray,
    user_records: FloatArray | None,
    item_records: FloatArray | None,
    n_strips: int,
    level: int,
    global_mean: float,
    user_rate: float,
    item_rate: float,
    bias_rate: float,
    user_decay: float,
    item_decay: float,
    user_bias_decay: float,
    item_bias_decay: float,
    gradient_weight: float,
) -> bool: ...
def settle_rows(
    rows: FloatArray,
    scales: FloatArray,
    records: FloatArray | None,
    first: int,
    last: int,
    level: int,
) -> float: ...
