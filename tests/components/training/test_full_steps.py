"""Which batches of a training full fine-tuning is measured on, and what is saved; tests of jobs run the steps."""

import pytest

from components.training.full_steps import saved, typical


def test_the_longest_batch_comes_first_and_the_others_are_spread_over_all():
    """Batches of two rows with 1 to 8 padded tokens: three others lie at 1/6, 1/2 and 5/6 of the eight, in order."""
    lengths = [length for size in (5, 1, 7, 3, 8, 2, 6, 4) for length in (size, 1)]
    batches = typical(range(16), lengths, batch_size=2, micro_batch_size=2, count=4)
    assert [max(lengths[row] for row in batch) for batch in batches] == [8, 2, 5, 7]
    assert all(batch[1] == batch[0] + 1 for batch in batches)  # they stay whole


def test_passes_are_padded_by_themselves():
    """Passes of one row: 9 + 1 tokens are fewer than 6 + 6, though they have the longest row."""
    batches = typical([0, 1, 2, 3], [9, 1, 6, 6], batch_size=2, micro_batch_size=1, count=3)
    assert batches == [[0, 1], [0, 1], [2, 3]]


@pytest.mark.parametrize("count", [2, 5])
def test_a_training_of_one_step_is_measured_on_it_again_and_again(count):
    assert typical([1, 0], [3, 4], batch_size=2, micro_batch_size=1, count=count) == [[1, 0]] * count


def test_saved_is_full_less_adapter_where_both_are_known():
    full = {"cost/full_step_seconds": 5.0, "cost/full_peak_memory_bytes": 700.0}
    assert saved({"cost/step_seconds": 3.0, "cost/peak_memory_bytes": 300.0}, full) == {
        "cost/saved_step_seconds": 2.0,
        "cost/saved_memory_bytes": 400.0,
    }
    assert saved({"cost/peak_memory_bytes": 300.0}, full) == {"cost/saved_memory_bytes": 400.0}
    assert saved({"cost/step_seconds": 3.0}, {"cost/full_failed": 1.0}) == {}
