from numpy import float32, float64, int32, int64
from numpy.typing import NDArray

MAX_WIDTH: int
MAX_COLUMNS: int
MAX_STRIP: int

def draw_rows(
    indptr: NDArray[int64],
    indices: NDArray[int32],
    ratings: NDArray[float32],
    others: NDArray[float32],
    prior_means: NDArray[float32],
    precision: NDArray[float64],
    normals: NDArray[float32],
    rows: NDArray[float32],
    means: NDArray[float32],
    first: int,
    last: int,
    biased: bool,
    noise_precision: float,
    level: int,
) -> int: ...
def squared_errors(
    indptr: NDArray[int64],
    indices: NDArray[int32],
    ratings: NDArray[float32],
    others: NDArray[float32],
    rows: NDArray[float32],
    first: int,
    last: int,
    biased: bool,
    level: int,
) -> float: ...
def add_predictions(
    users: NDArray[int32],
    items: NDArray[int32],
    user_rows: NDArray[float32],
    item_rows: NDArray[float32],
    means: NDArray[float64],
    squares: NDArray[float64],
    number: int,
    biased: bool,
    level: int,
) -> None: ...
def draw_features(
    indptr: NDArray[int64],
    indices: NDArray[int32],
    weights: NDArray[float32],
    noise: NDArray[float32],
    features: NDArray[float32],
    residuals: NDArray[float32],
    first: int,
    last: int,
    column: int,
    n_columns: int,
    strength: float,
    level: int,
) -> None: ...
def row_products(rows: NDArray[float32], products_out: NDArray[float64], level: int) -> None: ...
def multiply_rows(
    rows: NDArray[float32], matrix: NDArray[float32], rows_out: NDArray[float32], level: int
) -> None: ...
