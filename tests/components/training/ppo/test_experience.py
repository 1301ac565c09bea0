"""One iteration's answers: what each forward pass gets of them, and where its figures are put."""

import itertools
import random

import pytest
import torch

from components.training.ppo.experience import (
    Answer,
    Experience,
    distinct_share,
    minibatches,
    pair_places,
    passes,
    prompt_order,
)


def test_minibatches_use_every_prompt_once_and_are_told_by_the_seed():
    for seed in "ab":
        found = list(minibatches(12, 3, 3, seed))
        assert [[len(micro) for micro in batch] for batch in found] == [[3, 1]] * 3
        assert sorted(n for batch in found for micro in batch for n in micro) == list(range(12))
    assert list(minibatches(12, 3, 3, "a")) == list(minibatches(12, 3, 3, "a")) != list(minibatches(12, 3, 3, "b"))


def test_passes_use_every_prompt_once_short_ones_first():
    answers = [[Answer([7], [-1.0], True)]] * 5
    drawn = Experience([[1] * length for length in (4, 1, 3, 5, 2)], answers)
    assert list(passes(drawn, 2)) == [[1, 4], [2, 0], [3]]


def test_an_experience_gives_each_pass_its_tokens():
    """Values that name their place, 100 p + 10 k + r, in the order of passes: answers, then prompts, then tokens."""
    lengths = [[2, 1], [1, 3], [2, 2]]
    answers = [
        [Answer([5] * n, [100.0 * p + 10 * k + r for r in range(n)], True) for k, n in enumerate(own)]
        for p, own in enumerate(lengths)
    ]
    drawn = Experience([[1]] * 3, answers)
    assert drawn.mask.shape == (3, 2, 3) and drawn.tokens == 11
    assert drawn.flat(drawn.engine, [2, 0]).tolist() == [200, 201, 0, 1, 210, 211, 10]
    target = torch.zeros(3, 2, 3)
    drawn.put(target, [2, 0], drawn.flat(drawn.engine, [2, 0]))
    drawn.put(target, [1], drawn.flat(drawn.engine, [1]))
    assert torch.equal(target, drawn.engine)
    assert not drawn.engine[~drawn.mask].any()


def test_distinct_pairs_are_counted_over_all_answers():
    """1 2, 2 1, 1 2 and 3 4: three different ones of four."""
    answers = [[Answer([1, 2, 1, 2], [0.0] * 4, True)], [Answer([3, 4], [0.0] * 2, True), Answer([9], [0.0], True)]]
    assert distinct_share(pair_places(answers)) == pytest.approx(3 / 4, abs=1e-4)
    assert distinct_share(pair_places([[Answer([9], [0.0], True)]])) == 1.0


def test_two_workers_that_say_the_same_have_half_the_distinct_pairs_of_each():
    generator = random.Random(0)
    own = [[Answer([generator.randrange(49_152) for _ in range(101)], [0.0] * 101, True)] for _ in range(100)]
    pairs = {pair for (answer,) in own for pair in itertools.pairwise(answer.ids)}
    alone, twice = (distinct_share(pair_places(own) * workers) for workers in (1, 2))
    assert alone == pytest.approx(len(pairs) / 10_000, rel=5e-3) and twice == pytest.approx(alone / 2)


def test_prompts_come_pass_after_pass():
    order = prompt_order(5, 12, 1)
    assert sorted(order[:5]) == sorted(order[5:10]) == list(range(5)) and len(order) == 12
    assert order[:5] != order[5:10] and prompt_order(5, 7, 1) == order[:7] != prompt_order(5, 7, 2)
