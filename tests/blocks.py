"""Epoch kernels on one block, called as their twins are; and walks that Python takes part in."""

import numpy as np

from cmf._kernels.general import general_epoch
from cmf._kernels.interleaved import interleaved_epoch
from cmf._kernels.walk import Walk
from cmf._threads import Team

# Where both twins have the first position, the last + 1 and the strip, behind the arrays.
FIRST = 11


def interleaved_block(*given):
    """Visit one block; items are not settled."""
    return _visit(interleaved_epoch, given, np.zeros(2, dtype=np.int64))


def general_block(**given):
    """Visit one block."""
    return _visit(general_epoch, tuple(given.values()))


def _visit(kernel, given, *bounds):
    cuts, first, last, strip = given[0], *given[FIRST : FIRST + 3]
    walk = Walk(1, np.array([first, last]), np.array([0, 1]), 10.0)
    others = (*given[1:FIRST], *given[FIRST + 3 :])
    while not kernel(walk, 0, *bounds, cuts[strip:], *others):
        pass
    return walk.losses


def walk_of(n_strips, per_strip=1):
    """Return a walk over groups of one row each, so many for a strip."""
    calls = np.arange(n_strips * per_strip + 1)
    return Walk(n_strips, calls, calls, 10.0)


def run_grid(task, n_strips, n_threads, per_strip=1, team=None):
    """Call ``task(group, strip)`` for every block, with a team of its own if none is given."""
    walk = walk_of(n_strips, per_strip)

    def work(worker):
        while (call := walk.next_call(worker)) is not None:
            group, strip, first, last = call
            assert (first, last) == (group, group + 1)
            task(group, strip)

    if team is not None:
        team.run(work, walk.stop, n_strips)
        return
    with Team(n_threads) as own:
        own.run(work, walk.stop, n_strips)
