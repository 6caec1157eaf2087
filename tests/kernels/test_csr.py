"""What the gate asks of CSR arrays, and the random order of entries inside rows."""

import itertools

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
import reference
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import chdtrc
from strategies import FLOATS, INDICES, patterns, row_lengths

from cmf._kernels.csr import first_duplicate, first_nonfinite, first_out_of_range, shuffle_rows

SEEDS = st.integers(0, 2**64 - 1)


def read_only(array):
    array.flags.writeable = False
    return array


# --- what the gate asks -------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", INDICES)
@pytest.mark.parametrize(
    ("indices", "n_items", "expected"),
    [
        ([], 0, -1),
        ([0, 2, 1], 3, -1),
        ([0, 3, 4], 3, 1),  # the first of two, one past the end
        ([0, 2, -1], 3, 2),
        ([0], 0, 0),  # nothing is in range of no items
    ],
)
def test_first_index_out_of_range(indices, n_items, expected, dtype):
    assert first_out_of_range(read_only(np.array(indices, dtype=dtype)), n_items) == expected


@pytest.mark.parametrize("dtype", INDICES)
def test_extreme_indices_are_out_of_range(dtype):
    ends = np.iinfo(dtype)
    for extreme in (ends.min, ends.max):
        assert first_out_of_range(np.array([0, extreme], dtype=dtype), ends.max) == 1


def test_indices_beyond_32_bits_are_compared_as_they_are():
    assert first_out_of_range(np.array([2**32 + 1]), 10) == 0
    assert first_out_of_range(np.array([2**32 + 1]), 2**33) == -1


@given(
    indices=st.sampled_from(INDICES).flatmap(
        lambda dtype: hnp.arrays(dtype, st.integers(0, 12), elements=st.integers(-2, 6))
    ),
    n_items=st.integers(0, 7),
)
def test_first_out_of_range_equals_its_twin(indices, n_items):
    assert first_out_of_range(indices, n_items) == reference.first_out_of_range(indices, n_items)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_first_number_that_is_not_finite(bad, dtype):
    values = np.array([1.0, bad, 2.0, bad], dtype=dtype)
    assert first_nonfinite(read_only(values)) == 1
    assert first_nonfinite(values[:1]) == -1
    assert first_nonfinite(values[:0]) == -1


@pytest.mark.parametrize("dtype", FLOATS)
def test_extreme_numbers_are_finite(dtype):
    ends = np.finfo(dtype)
    values = np.array([ends.max, ends.min, ends.tiny, ends.smallest_subnormal, -0.0], dtype=dtype)
    assert first_nonfinite(values) == -1


@given(
    st.sampled_from((32, 64)).flatmap(
        lambda width: hnp.arrays(
            f"f{width // 8}", st.integers(0, 9), elements=st.floats(width=width)
        )
    )
)
def test_first_nonfinite_equals_its_twin(values):
    assert first_nonfinite(values) == reference.first_nonfinite(values)


def duplicate(indptr, indices, kernel=first_duplicate, n_items=8):
    return kernel(indptr, indices, np.full(n_items, -1, dtype=np.int64))


@pytest.mark.parametrize("dtype", INDICES)
@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([], -1),
        ([[]], -1),
        ([[3, 1], [1, 3]], -1),  # in two rows, not in one
        ([[3, 1, 3]], 2),  # not next to each other
        ([[2], [], [0, 0], [5, 5]], 2),  # the first of two, after an empty row
        ([[7, 7]], 1),
    ],
)
def test_first_index_twice_in_a_row(rows, expected, dtype):
    indptr = read_only(np.cumsum([0, *map(len, rows)]))
    indices = read_only(np.array([index for row in rows for index in row], dtype=dtype))
    assert duplicate(indptr, indices) == expected


@given(patterns())
def test_first_duplicate_equals_its_twin(pattern):
    assert duplicate(*pattern) == duplicate(*pattern, reference.first_duplicate)


# --- the order of visits ------------------------------------------------------------------------


def shuffled(indptr, seed, kernel=shuffle_rows):
    order = np.full(indptr[-1], -1, dtype=np.int32)
    kernel(indptr, order, seed)
    return order


def shuffled_rows(lengths, seed):
    """Return the order of each row of these lengths."""
    indptr = np.cumsum([0, *lengths])
    return np.split(shuffled(indptr, seed), indptr[1:-1])


def test_twin_draws_the_published_numbers():
    # First outputs of SplitMix64 for seed 1234567, as its reference implementation prints them.
    numbers = itertools.islice(reference.split_mix_64(1234567), 5)
    assert list(numbers) == [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]


@given(indptr=row_lengths(), seed=SEEDS)
def test_shuffle_equals_its_twin_bit_for_bit(indptr, seed):
    np.testing.assert_array_equal(
        shuffled(indptr, seed), shuffled(indptr, seed, reference.shuffle_rows)
    )


@given(indptr=row_lengths(max_length=200), seed=SEEDS)
def test_every_row_is_a_permutation(indptr, seed):
    order = shuffled(read_only(indptr), seed)
    for start, stop in itertools.pairwise(indptr):
        assert sorted(order[start:stop].tolist()) == list(range(stop - start))


@given(
    lengths=st.lists(st.integers(0, 9), min_size=1, max_size=6),
    others=st.lists(st.integers(0, 9), min_size=6, max_size=6),
    seed=SEEDS,
    data=st.data(),
)
def test_order_of_a_row_does_not_depend_on_other_rows(lengths, others, seed, data):
    row = data.draw(st.integers(0, len(lengths) - 1))
    changed = [lengths[u] if u == row else others[u] for u in range(len(lengths))]
    np.testing.assert_array_equal(
        shuffled_rows(lengths, seed)[row], shuffled_rows(changed, seed)[row]
    )


def test_orders_differ_from_row_to_row_and_from_seed_to_seed():
    # Of 20! orders no two of 200 should meet.
    orders = {tuple(row.tolist()) for seed in (1, 2) for row in shuffled_rows([20] * 100, seed)}
    assert len(orders) == 200


def assert_uniform(counts):
    """Chi-square against equal chances; the seeds are fixed, so the answer is too."""
    expected = counts.sum() / counts.size
    statistic = ((counts - expected) ** 2 / expected).sum()
    assert chdtrc(counts.size - 1, statistic) > 1e-3


def count_orders(rows):
    index = {order: n for n, order in enumerate(itertools.permutations(range(4)))}
    return np.bincount([index[tuple(row.tolist())] for row in rows], minlength=24)


def test_all_orders_of_four_are_equally_likely_over_seeds():
    assert_uniform(count_orders(shuffled(np.array([0, 4]), seed) for seed in range(12_000)))


def test_all_orders_of_four_are_equally_likely_over_rows():
    assert_uniform(count_orders(shuffled_rows([4] * 12_000, seed=5)))


@pytest.mark.parametrize("place", [0, 10, 29])
def test_every_entry_is_equally_likely_at_every_place(place):
    orders = np.stack(shuffled_rows([30] * 20_000, seed=6))
    assert_uniform(np.bincount(orders[:, place], minlength=30))
