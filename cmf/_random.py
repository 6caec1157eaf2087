"""The one place where a caller's seed becomes random numbers.

NumPy's legacy global state is neither read nor changed.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from cmf._typing import RandomState

_N_WORDS = 4  # of 32 bits: 128 bits, as much as a SeedSequence gathers itself
_WANTED = (
    "None, an int of 0 or more, a sequence of such ints, or a SeedSequence, BitGenerator, "
    "Generator or RandomState of numpy.random"
)


def make_generator(random_state: RandomState, name: str = "random_state") -> np.random.Generator:
    """Return the generator that a seed of any kind stands for.

    Parameters
    ----------
    random_state : None, int, sequence of int, SeedSequence, BitGenerator, Generator or RandomState
        None draws fresh entropy from the operating system. An int (0 or more, of any size), a
        sequence of such ints or a SeedSequence gives the same generator every time and is not
        changed. A BitGenerator or Generator is used as it is, so the caller's is advanced. A
        RandomState gives 128 bits of entropy to a new generator and is advanced by that.
    name : str, default "random_state"
        What error messages call the argument.

    Returns
    -------
    numpy.random.Generator
        `random_state` itself if it is a Generator already.

    Raises
    ------
    TypeError
        If `random_state` is of no such kind; a bool is not an int here.
    ValueError
        If an int is negative.

    Examples
    --------
    >>> int(make_generator(7).integers(100)) == int(make_generator([7]).integers(100))
    True
    """
    if isinstance(random_state, np.random.Generator):
        return random_state
    if isinstance(random_state, np.random.BitGenerator):
        return np.random.Generator(random_state)
    if isinstance(random_state, np.random.RandomState):
        return np.random.default_rng(_as_int(_legacy_words(random_state)))
    if random_state is None or isinstance(random_state, np.random.SeedSequence):
        return np.random.default_rng(random_state)
    return np.random.default_rng(_check_seed(random_state, name))


def draw_seed(random_state: RandomState, name: str = "random_state") -> int:
    """Return one number from which everything that follows can be drawn again.

    Parameters
    ----------
    random_state : None, int, sequence of int, SeedSequence, BitGenerator, Generator or RandomState
        As for `make_generator`. Generators, bit generators and RandomStates are advanced.
    name : str, default "random_state"
        What error messages call the argument.

    Returns
    -------
    int
        From 0 to 2**128 - 1: the int itself if one was given (a larger one is condensed), fresh
        entropy for None, and otherwise 128 bits that depend on all of `random_state`, the spawn
        key of a SeedSequence included.

    Raises
    ------
    TypeError
        If `random_state` is of no such kind; a bool is not an int here.
    ValueError
        If an int is negative.

    Examples
    --------
    >>> draw_seed(7)
    7
    """
    if random_state is None:
        return secrets.randbits(32 * _N_WORDS)
    if isinstance(random_state, np.random.RandomState):
        return _as_int(_legacy_words(random_state))
    if isinstance(random_state, np.random.Generator | np.random.BitGenerator):
        generator = make_generator(random_state)
        return _as_int(generator.integers(0, 2**32, size=_N_WORDS, dtype=np.uint32))
    if isinstance(random_state, np.random.SeedSequence):
        return _as_int(random_state.generate_state(_N_WORDS))
    seed = _check_seed(random_state, name)
    if isinstance(seed, int) and seed < 2 ** (32 * _N_WORDS):
        return seed
    return _as_int(np.random.SeedSequence(seed).generate_state(_N_WORDS))


def _check_seed(random_state: object, name: str) -> int | list[int]:
    """Return an int or a sequence of ints as plain Python ints, 0 or more."""
    if isinstance(random_state, np.ndarray) and random_state.ndim == 1:
        random_state = list(random_state)
    if isinstance(random_state, Sequence) and not isinstance(random_state, str | bytes):
        return [
            _check_int(number, f"{name}[{k}]", "an int of 0 or more")
            for k, number in enumerate(random_state)
        ]
    return _check_int(random_state, name, _WANTED)


def _check_int(number: object, name: str, wanted: str) -> int:
    """Return one int of a seed as a plain Python int, 0 or more."""
    if isinstance(number, bool) or not isinstance(number, int | np.integer):
        raise TypeError(f"{name} must be {wanted}, got {type(number).__name__}")
    if number < 0:
        raise ValueError(f"{name} must be 0 or more, got {number}")
    return int(number)


def _legacy_words(random_state: np.random.RandomState) -> NDArray[np.unsignedinteger]:
    """Draw 128 bits from a RandomState, which moves on by that."""
    return random_state.randint(0, 2**32, size=_N_WORDS, dtype=np.uint32)


def _as_int(words: NDArray[np.unsignedinteger]) -> int:
    """Return 32-bit words as one int, the same on machines of either byte order."""
    return int.from_bytes(words.astype("<u4").tobytes(), "little")
