"""Seeds of every kind."""

import numpy as np
import pytest

from cmf._random import draw_seed, make_generator

REPEATABLE = [0, 7, 2**200, np.int32(7), [1, 2], (3,), np.array([4, 5])]
BAD = [
    (True, TypeError, "seed must be None, an int of 0 or more.*got bool"),
    (1.0, TypeError, "seed must be .*got float"),
    ("7", TypeError, "seed must be .*got str"),
    (b"7", TypeError, "seed must be .*got bytes"),
    (np.random, TypeError, "seed must be .*got module"),
    (np.zeros((2, 2), int), TypeError, "seed must be .*got ndarray"),
    (-1, ValueError, "seed must be 0 or more, got -1"),
    ([1, -2], ValueError, r"seed\[1\] must be 0 or more, got -2"),
    ([1, True], TypeError, r"seed\[1\] must be an int of 0 or more, got bool"),
    ([[1]], TypeError, r"seed\[0\] must be an int of 0 or more, got list"),
    (np.array([1.5]), TypeError, r"seed\[0\] must be an int of 0 or more, got float64"),
]


def numbers(generator):
    return generator.integers(0, 2**62, size=4).tolist()


@pytest.mark.parametrize("seed", REPEATABLE, ids=repr)
def test_plain_seeds_repeat_and_agree_with_numpy(seed):
    assert numbers(make_generator(seed)) == numbers(np.random.default_rng(seed))
    assert draw_seed(seed) == draw_seed(seed)
    assert 0 <= draw_seed(seed) < 2**128


def test_seed_sequence_is_repeatable_and_unchanged():
    sequence = np.random.SeedSequence(5)
    assert numbers(make_generator(sequence)) == numbers(make_generator(sequence))
    assert draw_seed(sequence) == draw_seed(np.random.SeedSequence(5))
    assert sequence.n_children_spawned == 0


def test_spawn_key_of_a_seed_sequence_matters():
    first, second = np.random.SeedSequence(5).spawn(2)
    assert len({draw_seed(first), draw_seed(second), draw_seed(np.random.SeedSequence(5))}) == 3


def test_none_is_fresh_every_time():
    assert numbers(make_generator(None)) != numbers(make_generator(None))
    seeds = [draw_seed(None) for _ in range(20)]
    assert len(set(seeds)) == 20
    assert max(seeds) > 2**100


def test_generator_is_used_as_it_is():
    generator = np.random.default_rng(3)
    assert make_generator(generator) is generator


def test_bit_generator_is_advanced():
    bits = np.random.PCG64(3)
    first = numbers(make_generator(bits))
    assert first == numbers(np.random.default_rng(3))
    assert numbers(make_generator(bits)) != first


@pytest.mark.parametrize(
    "make",
    [np.random.default_rng, np.random.PCG64, np.random.RandomState],
    ids=lambda m: m.__name__,
)
def test_draw_seed_advances_generators(make):
    source = make(3)
    first, second = draw_seed(source), draw_seed(source)
    assert first != second
    assert draw_seed(make(3)) == first
    assert 2**64 < max(first, second) < 2**128


def test_random_state_gives_entropy_and_is_advanced():
    source = np.random.RandomState(3)
    first = numbers(make_generator(source))
    assert numbers(make_generator(source)) != first
    assert numbers(make_generator(np.random.RandomState(3))) == first


def test_small_ints_are_their_own_seed_and_large_ones_are_condensed():
    assert draw_seed(2**128 - 1) == 2**128 - 1
    assert type(draw_seed(np.int64(9))) is int
    assert draw_seed(2**128) != draw_seed(2**128 + 1)


@pytest.mark.parametrize("function", [make_generator, draw_seed])
@pytest.mark.parametrize(("seed", "error", "message"), BAD, ids=lambda case: repr(case)[:30])
def test_bad_seeds_are_named(function, seed, error, message):
    with pytest.raises(error, match=f"^{message}"):
        function(seed, name="seed")


@pytest.mark.parametrize("function", [make_generator, draw_seed])
def test_global_state_of_numpy_is_untouched(function):
    before = np.random.get_state()  # noqa: NPY002
    for seed in (*REPEATABLE, None, np.random.SeedSequence(1), np.random.PCG64(1)):
        function(seed)
    function(np.random.RandomState(1))
    function(np.random.default_rng(1))
    after = np.random.get_state()  # noqa: NPY002
    assert before[0] == after[0]
    np.testing.assert_array_equal(before[1], after[1])
    assert before[2:] == after[2:]
