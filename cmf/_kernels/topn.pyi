from numpy import int64, uint8
from numpy.typing import NDArray

from cmf._typing import FloatArray

def select_top(
    scores: FloatArray, left_out: NDArray[uint8], positions_out: NDArray[int64]
) -> int: ...
