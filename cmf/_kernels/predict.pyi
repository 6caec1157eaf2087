from numpy import int64
from numpy.typing import NDArray

from cmf._typing import FloatArray

def predict_pairs(
    users: NDArray[int64],
    items: NDArray[int64],
    user_factors: FloatArray,
    item_factors: FloatArray,
    user_biases: FloatArray,
    item_biases: FloatArray,
    predictions_out: FloatArray,
    global_mean: float,
    level: int = 0,
) -> None: ...
def predict_block(
    users: NDArray[int64],
    items: NDArray[int64],
    user_factors: FloatArray,
    item_factors: FloatArray,
    user_biases: FloatArray,
    item_biases: FloatArray,
    predictions_out: FloatArray,
    global_mean: float,
    level: int = 0,
) -> None: ...
