"""Log-probabilities of completions against slow loops and transformers' own loss."""

import math
import random
from pathlib import Path

import pytest
import torch

from components.models.load import load_model
from components.models.logprobs import batches_by_length, completion_logprobs, score_completions, token_logprobs


def _slow_sum(logits_TV: torch.Tensor, ids: list[int], positions: range) -> float:
    """Sum of log p(ids[t]) for t in positions, one number at a time in float64."""
    total = 0.0
    for t in positions:
        row = [float(value) for value in logits_TV[t - 1].double()]
        top = max(row)
        total += row[ids[t]] - top - math.log(sum(math.exp(value - top) for value in row))
    return total


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_sums_match_a_slow_loop_and_nothing_outside_the_mask_is_read(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    spans = [(2, 5), (1, 7), (6, 6)]  # [start, end) of the completions; the last is empty
    logits = (torch.randn(3, 7, 11) * 4).to(dtype)
    ids = torch.randint(11, (3, 7))
    mask = torch.zeros(3, 7, dtype=torch.bool)
    for row, (start, end) in enumerate(spans):
        mask[row, start:end] = True
    expected = [_slow_sum(logits[row], ids[row].tolist(), range(*span)) for row, span in enumerate(spans)]
    used = torch.zeros(3, 7, dtype=torch.bool)
    used[:, :-1] = mask[:, 1:]
    poisoned = logits.masked_fill(~used[..., None], float("nan"))
    sums = completion_logprobs(poisoned, ids, mask)
    assert sums.dtype == torch.float32
    assert sums.tolist() == pytest.approx(expected, abs=1e-4)


def test_a_first_token_has_nothing_that_predicts_it() -> None:
    logits, ids = torch.zeros(1, 3, 8), torch.tensor([[1, 2, 3]])
    everything = completion_logprobs(logits, ids, torch.ones(1, 3))
    assert everything.item() == pytest.approx(-2 * math.log(8))


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    from components.models import logprobs

    torch.manual_seed(0)
    logits, targets = torch.randn(50, 9), torch.randint(9, (50,))
    whole = token_logprobs(logits, targets)
    monkeypatch.setattr(logprobs, "_CHUNK_VALUES", 9 * 7)
    assert torch.equal(token_logprobs(logits, targets), whole)
    assert token_logprobs(logits[:0], targets[:0]).shape == (0,)


def test_gradients_are_those_of_cross_entropy() -> None:
    torch.manual_seed(0)
    logits = torch.randn(6, 5, dtype=torch.float32, requires_grad=True)
    targets = torch.randint(5, (6,))
    (ours,) = torch.autograd.grad(-token_logprobs(logits, targets).sum(), logits)
    (theirs,) = torch.autograd.grad(torch.nn.functional.cross_entropy(logits, targets, reduction="sum"), logits)
    assert torch.allclose(ours, theirs, atol=1e-6)


@pytest.fixture(scope="module")
def rows() -> tuple[list[list[int]], list[list[int]]]:
    pick = random.Random(0)
    prompts = [[pick.randrange(384) for _ in range(pick.randrange(1, 30))] for _ in range(12)]
    completions = [[pick.randrange(384) for _ in range(pick.randrange(0, 12))] for _ in range(12)]
    return prompts, completions


def test_scores_match_transformers_loss_one_sequence_at_a_time(
    tiny_model_dir: Path, rows: tuple[list[list[int]], list[list[int]]]
) -> None:
    model = load_model(tiny_model_dir, "float32")
    scores = score_completions(model, *rows, pad_id=2, max_batch_tokens=100)
    for prompt, completion, score in zip(*rows, scores, strict=True):
        if not completion:
            assert score == 0.0
            continue
        labels = torch.tensor([[-100] * len(prompt) + completion])
        with torch.no_grad():
            loss = model(input_ids=torch.tensor([prompt + completion]), labels=labels).loss
        assert score == pytest.approx(-loss.item() * len(completion), abs=1e-3)


@pytest.mark.parametrize(("pad_id", "max_batch_tokens"), [(0, 1), (2, 64), (383, 10_000)])
def test_scores_do_not_depend_on_padding_or_batches(
    tiny_model_dir: Path, rows: tuple[list[list[int]], list[list[int]]], pad_id: int, max_batch_tokens: int
) -> None:
    model = load_model(tiny_model_dir, "float32")
    alone = [score_completions(model, [p], [c])[0] for p, c in zip(*rows, strict=True)]
    assert score_completions(model, *rows, pad_id=pad_id, max_batch_tokens=max_batch_tokens) == pytest.approx(
        alone, abs=1e-3
    )


def test_batches_hold_every_row_once_and_stay_within_the_budget() -> None:
    lengths = [random.Random(n).randrange(1, 60) for n in range(100)]
    batches = list(batches_by_length(lengths, 128))
    assert sorted(i for batch in batches for i in batch) == list(range(100))
    for batch in batches:
        assert len(batch) == 1 or len(batch) * max(lengths[i] for i in batch) <= 128
    firsts = [max(lengths[i] for i in batch) for batch in batches]
    assert firsts == sorted(firsts, reverse=True)
    assert list(batches_by_length([], 128)) == []
