"""The losses of reward models by hand and by finite differences, and the rows that become their batches."""

import math
from collections import Counter
from types import SimpleNamespace

import pytest
import torch

from components.data.chat import ChatTemplate
from components.training.reward import (
    RewardLossConfig,
    collate_rewarded,
    pair_loss,
    pair_rows,
    resampled,
    step_loss,
    step_rows,
)

QUESTION = [{"role": "user", "content": "What is 2+3, times two?"}]


def softplus(x):
    """-ln sigmoid(-x)."""
    return math.log1p(math.exp(x))


def said(text):
    return [{"role": "assistant", "content": text}]


@pytest.fixture(scope="module")
def template(tiny_model_dir):
    return ChatTemplate.from_folder(tiny_model_dir)


def test_the_pair_loss_by_hand():
    """Two pairs, two heads; chosen rewards first. Each term is w (softplus(r + margin - c) + 0.1 (c + r)^2)."""
    chosen, rejected = [[1.0, 0.5], [-1.0, 2.0]], [[0.0, 1.5], [0.5, 2.0]]
    margins, weights = [0.5, 0.0], [[1.0, 2.0], [0.0, 0.5]]
    terms = [
        1.0 * (softplus(0.0 + 0.5 - 1.0) + 0.1 * 1.0**2),
        2.0 * (softplus(1.5 + 0.5 - 0.5) + 0.1 * 2.0**2),
        0.0,
        0.5 * (softplus(2.0 + 0.0 - 2.0) + 0.1 * 4.0**2),
    ]
    found = pair_loss(torch.tensor(chosen + rejected), torch.tensor(margins), torch.tensor(weights), 0.1)
    assert float(found) == pytest.approx(sum(terms) / 4)


def test_rewards_of_zero_cost_ln_2():
    assert float(pair_loss(torch.zeros(6, 4), torch.zeros(3), torch.ones(3, 4), 0.5)) == pytest.approx(math.log(2))
    assert float(step_loss(torch.zeros(5, 3), torch.tensor([0.0, 1, 1, 0, 1]), torch.ones(5, 3))) == pytest.approx(
        5 * math.log(2)
    )


def test_a_head_learns_from_a_step_as_often_as_it_drew_the_solution():
    rewards, labels = torch.tensor([[2.0, -1.0], [0.5, 3.0]]), torch.tensor([1.0, 0.0])
    weights = torch.tensor([[2.0, 0.0], [1.0, 3.0]])
    expected = (2 * softplus(-2.0) + 0 + softplus(0.5) + 3 * softplus(3.0)) / 2
    assert float(step_loss(rewards, labels, weights)) == pytest.approx(expected)


def test_pairs_far_apart_cost_nothing_or_their_gap_and_are_finite():
    rewards = torch.tensor([[1e4], [-1e4], [-1e4], [1e4]])
    found = [float(pair_loss(rewards[[p, p + 2]], torch.zeros(1), torch.ones(1, 1), 0.0)) for p in (0, 1)]
    assert found == [0.0, 2e4]


def test_heads_learn_apart():
    """A pair's other head may say anything: the first one's gradient stays what it is."""
    grads = []
    for other in (0.0, 50.0):
        rewards = torch.tensor([[1.0, other], [0.3, -other]], requires_grad=True)
        pair_loss(rewards, torch.tensor([0.2]), torch.ones(1, 2), 0.1).backward()
        grads.append(rewards.grad[:, 0])
    torch.testing.assert_close(grads[0], grads[1])


def test_gradients_are_finite_differences():
    generator = torch.Generator().manual_seed(0)

    def draw(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    rewards, margins, weights = draw(8, 3).requires_grad_(), draw(4).abs(), draw(4, 3).abs()
    assert torch.autograd.gradcheck(lambda r: pair_loss(r, margins, weights, 0.3), rewards)
    labels, often = torch.tensor([1.0, 0.0, 1.0, 1.0, 0.0], dtype=torch.float64), draw(5, 3).abs()
    assert torch.autograd.gradcheck(lambda r: step_loss(r, labels, often), draw(5, 3).requires_grad_())


def test_the_pair_loss_of_a_batch_is_the_mean_over_its_parts():
    """However six pairs are split into equal micro-batches."""
    generator = torch.Generator().manual_seed(1)
    chosen, rejected = torch.randn(2, 6, 2, generator=generator)
    margins, weights = torch.rand(6, generator=generator), torch.rand(6, 2, generator=generator) * 3
    whole = pair_loss(torch.cat([chosen, rejected]), margins, weights, 0.2)
    for size in (1, 2, 3):
        parts = [slice(at, at + size) for at in range(0, 6, size)]
        losses = [pair_loss(torch.cat([chosen[own], rejected[own]]), margins[own], weights[own], 0.2) for own in parts]
        torch.testing.assert_close(torch.stack(losses).mean(), whole)


def test_the_step_loss_by_hand_and_in_parts():
    """-ln sigmoid(r) of a right step, -ln sigmoid(-r) of a wrong one: the sum over steps, the mean over heads."""
    rewards, labels = torch.tensor([[1.0, -2.0], [0.5, 0.0], [-3.0, 4.0]]), torch.tensor([1.0, 0.0, 1.0])
    by_step = [
        (softplus(-1.0) + softplus(2.0)) / 2,
        (softplus(0.5) + softplus(0.0)) / 2,
        (softplus(3.0) + softplus(-4.0)) / 2,
    ]
    all_S2 = torch.ones(3, 2)
    assert float(step_loss(rewards, labels, all_S2)) == pytest.approx(sum(by_step))
    first, rest = (step_loss(rewards[own], labels[own], all_S2[own]) for own in (slice(1), slice(1, 3)))
    assert float(first) == pytest.approx(by_step[0]) and float(first + rest) == pytest.approx(sum(by_step))


def test_heads_see_pairs_as_often_as_the_bootstrap_would():
    """Poisson(1) over 4000 draws: mean 1, variance 1, and 0, 1, 2 of them with chance e^-1, e^-1, e^-1 / 2."""
    draws = [count for number in range(1000) for count in resampled(f"pair {number}", 4, 7)]
    mean = sum(draws) / len(draws)
    assert mean == pytest.approx(1.0, abs=0.06)
    assert sum((count - mean) ** 2 for count in draws) / len(draws) == pytest.approx(1.0, abs=0.12)
    shares = {count: number / len(draws) for count, number in Counter(draws).items()}
    for count in range(3):
        assert shares[count] == pytest.approx(math.exp(-1) / math.factorial(count), abs=0.03)


def test_draws_are_told_by_pair_head_and_seed():
    assert resampled("a", 64, 1) == resampled("a", 64, 1)
    assert len({tuple(resampled(pair, 64, seed)) for pair in "ab" for seed in (1, 2)}) == 4
    assert resampled("a", 8, 1) == resampled("a", 64, 1)[:8]
    assert resampled("a", 1, 1) == [1.0]


def row_of(**changes):
    row = {"prompt": QUESTION, "chosen": said("10"), "rejected": said("It is eleven."), "pair_id": "p"}
    return {**row, "chosen_score": 1.5, "rejected_score": 0.25, **changes}


def test_a_pair_becomes_ids_margin_and_weights(template):
    ids, length = pair_rows(template, RewardLossConfig(heads=3, margin=2.0), 5)(row_of(weight=0.5))
    prompt = "<|im_start|>user\nWhat is 2+3, times two?<|im_end|>\n<|im_start|>assistant\n"
    decode = template.tokenizer.decode
    assert [decode(ids[name]) for name in ("prompt_ids", "chosen_ids", "rejected_ids")] == [
        prompt,
        "10<|im_end|>",
        "It is eleven.<|im_end|>",
    ]
    assert length == len(ids["prompt_ids"]) + max(len(ids["chosen_ids"]), len(ids["rejected_ids"]))
    assert ids["margin"] == pytest.approx(2.0 * (1.5 - 0.25))
    assert ids["weights"] == [0.5 * count for count in resampled("p", 3, 5)]


@pytest.mark.parametrize(
    ("changes", "margin"),
    [
        ({"chosen_score": None}, 0.0),
        ({"rejected_score": None}, 0.0),
        ({"chosen_score": 0.0}, 0.0),  # the label says otherwise than the scores: no gap is demanded
        ({}, 1.25),
    ],
)
def test_a_margin_needs_scores_that_agree_with_the_label(template, changes, margin):
    ids, _ = pair_rows(template, RewardLossConfig(margin=1.0), 5)(row_of(**changes))
    assert ids["margin"] == margin and ids["weights"] == [1.0]


def steps_row(*steps):
    return {"prompt": QUESTION, "steps": [{"text": text, "label": label} for text, label in steps]}


def test_labelled_steps_are_read_at_the_line_break_after_them(template):
    """The last one at the end of the turn; one without a label is not read."""
    ids, length = step_rows(template)(steps_row(("2+3 = 5", 1.0), ("so far", None), ("5*2 = 11", 0.0)))
    decode = template.tokenizer.decode
    assert decode(ids["answer_ids"]) == "2+3 = 5\nso far\n5*2 = 11<|im_end|>"
    assert [decode(ids["answer_ids"][: end + 1]) for end in ids["ends"]] == [
        "2+3 = 5\n",
        "2+3 = 5\nso far\n5*2 = 11<|im_end|>",
    ]
    assert ids["step_labels"] == [1.0, 0.0]
    assert length == len(ids["prompt_ids"]) + len(ids["answer_ids"])


def test_a_step_of_several_lines_is_read_at_the_end_of_its_last_and_a_blank_one_nowhere(template):
    ids, _ = step_rows(template)(
        steps_row(("2+3:\n\n5", 1.0), (" ", 1.0), ("so\nfar\n", None), ("", None), ("5*2\n= 11", 0.0))
    )
    decode = template.tokenizer.decode
    first, last = (decode(ids["answer_ids"][: end + 1]) for end in ids["ends"])
    assert first.rstrip() == "2+3:\n\n5" and last == decode(ids["answer_ids"])
    assert ids["step_labels"] == [1.0, 0.0] and ids["unread"] == 1


def test_a_solution_of_blank_steps_has_nothing_to_read(template):
    ids, _ = step_rows(template)(steps_row((" ", 1.0), ("", 0.0)))
    assert (ids["ends"], ids["step_labels"], ids["unread"]) == ([], [], 2)


@pytest.mark.parametrize(("last", "read"), [(0.0, [0.0]), (None, [])])
def test_where_a_token_holds_the_ends_of_two_steps_only_the_last_one_is_read(last, read):
    """Prompt 0, then the tokens of an answer: the second one ends two lines."""
    texts = {1: "a", 2: "\nb\n", 3: "c", 4: ""}
    template = SimpleNamespace(
        example=lambda prompt, answer: SimpleNamespace(input_ids=[0, 1, 2, 3, 4]),
        prompt_ids=lambda prompt: [0],
        text_of=lambda ids: "".join(texts[token] for token in ids),
    )
    ids, length = step_rows(template)(steps_row(("a", 1.0), ("b", 1.0), ("c", last)))
    assert ids["step_labels"] == read and ids["ends"] == [3] * len(read) and length == 5
    assert ids["unread"] == 2


def test_a_batch_of_pairs_has_the_chosen_rows_first():
    rows = [
        {"prompt_ids": [5, 6], "chosen_ids": [7], "rejected_ids": [8, 9], "margin": 0.5, "weights": [1.0, 2.0]},
        {"prompt_ids": [10], "chosen_ids": [11, 12], "rejected_ids": [13], "margin": 0.0, "weights": [0.0, 1.0]},
    ]
    batch = collate_rewarded(rows, "outcome")
    kept = [ids[mask == 1].tolist() for ids, mask in zip(batch["input_ids"], batch["attention_mask"], strict=True)]
    assert kept == [[5, 6, 7], [10, 11, 12], [5, 6, 8, 9], [10, 13]]
    read = [ids[mask].tolist() for ids, mask in zip(batch["input_ids"], batch["completion_mask"], strict=True)]
    assert read == [[7], [11, 12], [8, 9], [13]]
    assert batch["margins"].tolist() == [0.5, 0.0] and batch["weights"].tolist() == [[1.0, 2.0], [0.0, 1.0]]
    assert "labels" not in batch


def test_a_batch_of_steps_marks_where_they_end():
    rows = [
        {"prompt_ids": [5, 6], "answer_ids": [7, 8, 9], "ends": [0, 2], "step_labels": [1.0, 0.0], "weights": [2.0]},
        {"prompt_ids": [10], "answer_ids": [11], "ends": [0], "step_labels": [0.0], "weights": [1.0]},
    ]
    batch = collate_rewarded(rows, "process")
    assert [ids[at].tolist() for ids, at in zip(batch["input_ids"], batch["at"], strict=True)] == [[7, 9], [11]]
    assert batch["step_labels"].tolist() == [1.0, 0.0, 0.0]
    assert batch["weights"].tolist() == [[2.0], [2.0], [1.0]]
    assert (batch["labels"] != -100).sum() == 3  # what transformers divides the step's loss by
    assert torch.equal(batch["labels"] != -100, batch["at"])
