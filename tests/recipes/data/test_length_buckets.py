"""Batches of items of similar length: each item once a round, little padding, and an order that the seed decides."""

import numpy as np
import pytest

from zoo.recipes.data.length_buckets import LengthBuckets


def lengths(count=500, most=400):
    return np.random.default_rng(0).integers(20, most, (count, 1))


def test_every_item_comes_once_a_round():
    buckets = LengthBuckets(lengths(), budget=2000)
    for number_of_round in (0, 3):
        batches = [buckets.batch(number_of_round * len(buckets) + k) for k in range(len(buckets))]
        assert sorted(np.concatenate(batches)) == list(range(500))


@pytest.mark.parametrize("ratio", [1.1, 1.5])
def test_batches_keep_to_the_budget_and_padding_to_its_bound(ratio):
    shapes = lengths()
    buckets = LengthBuckets(shapes, budget=2000, ratio=ratio)
    cells = padding = 0
    for batch in buckets.round(1):
        longest = shapes[batch].max()
        assert len(batch) * longest <= 2000
        assert longest <= ratio * shapes[batch].min()
        cells += len(batch) * longest
        padding += len(batch) * longest - shapes[batch].sum()
    assert 0 < padding / cells <= 1 - 1 / ratio
    # The same items meet in other batches each round, so that only the magnitude is the same.
    assert buckets.padding() == pytest.approx(padding / cells, rel=0.2)


def test_unsorted_batches_would_hold_far_more_padding():
    # What the buckets are for: lengths of 20 to 400 at random, ten to a batch, are 45 % padding.
    shapes = lengths()
    unsorted = sum(len(rows) * rows.max() for rows in np.array_split(shapes[:, 0], 50))
    assert 1 - shapes.sum() / unsorted > 0.4
    assert LengthBuckets(shapes, budget=2000).padding() < 0.08


def test_a_batch_is_a_function_of_seed_and_number_alone():
    first, other = (LengthBuckets(lengths(), 2000, seed=seed) for seed in (1, 2))
    forwards = [first.batch(k) for k in range(2 * len(first))]
    again = LengthBuckets(lengths(), 2000, seed=1)
    for k in reversed(range(2 * len(first))):
        assert np.array_equal(again.batch(k), forwards[k])
    assert any(not np.array_equal(other.batch(k), forwards[k]) for k in range(3))
    assert not np.array_equal(forwards[0], forwards[len(first)])


def test_pictures_are_together_by_height_and_by_width():
    shapes = np.array([[8, 32], [32, 8], [8, 32], [16, 16], [32, 8], [10, 31]])
    batches = LengthBuckets(shapes, budget=10_000, ratio=1.2).round(0)
    assert sorted(sorted(batch.tolist()) for batch in batches) == [[0, 2], [1, 4], [3], [5]]


def test_an_item_beyond_the_budget_makes_a_batch_of_its_own():
    batches = LengthBuckets(np.array([[50], [51], [10]]), budget=40).round(0)
    assert sorted(batch.tolist() for batch in batches) == [[0], [1], [2]]


@pytest.mark.parametrize("settings", [{"budget": 0}, {"budget": 10, "ratio": 1.0}])
def test_senseless_settings_are_refused(settings):
    with pytest.raises(ValueError, match="budget of 1 cell"):
        LengthBuckets(lengths(), **settings)


def test_no_items_make_no_batches():
    with pytest.raises(ValueError, match="no items"):
        LengthBuckets(np.empty((0, 1), int), 10)
