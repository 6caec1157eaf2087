from numpy import uint16
from numpy.typing import NDArray

from cmf._typing import FloatArray

def look_up(table: FloatArray, drawn: NDArray[uint16], rows_out: FloatArray) -> None: ...
