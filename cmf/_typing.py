"""Names for the types that several modules speak of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

FloatArray: TypeAlias = NDArray[np.float32] | NDArray[np.float64]
IndexArray: TypeAlias = NDArray[np.int32] | NDArray[np.int64]
Rows: TypeAlias = NDArray[np.int64]
Ids: TypeAlias = NDArray[Any]

# Anything that `_checks.check_ratings` or `_frames.read_wide` understands: SciPy sparse arrays and
# matrices, dense arrays, nested lists, wide data frames. Their common type is object.
RatingsLike: TypeAlias = Any

FrameKind: TypeAlias = Literal["pandas", "polars", "pyarrow"]

UnknownPolicy: TypeAlias = Literal["raise", "mean"]

RandomState: TypeAlias = (
    int
    | Sequence[int]
    | np.random.SeedSequence
    | np.random.BitGenerator
    | np.random.Generator
    | np.random.RandomState
    | None
)
