from numpy import int64
from numpy.typing import NDArray
from typing_extensions import disjoint_base

@disjoint_base
class Walk:
    def __new__(
        cls,
        n_strips: int,
        calls: NDArray[int64],
        group_calls: NDArray[int64],
        patience: float,
    ) -> Walk: ...
    @property
    def losses(self) -> float: ...
    @property
    def squares(self) -> float: ...
    def stop(self) -> None: ...
    def next_call(self, worker: int) -> tuple[int, int, int, int] | None: ...
