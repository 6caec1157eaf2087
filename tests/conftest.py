"""What several test files need."""

import zlib

import numpy as np
import pytest
from hypothesis import HealthCheck, settings

# Time limits for single examples say more about a busy machine than about the code.
settings.register_profile("cmf", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("cmf")


class SeededGenerator(np.random.Generator):
    """A generator that tells its seed, so that the report of a failed test shows it."""

    def __init__(self, seed):
        super().__init__(np.random.PCG64(seed))
        self.seed = seed

    def __repr__(self):
        return f"SeededGenerator({self.seed})"


@pytest.fixture
def rng(request):
    """Random numbers that differ from test to test but not from run to run."""
    return SeededGenerator(zlib.crc32(request.node.name.encode()))
