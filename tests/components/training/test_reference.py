"""Reference log-probabilities: computed once, kept under what they depend on, looked up after that."""

import dataclasses

import pytest

from components.config import UserError
from components.data import store
from components.data.chat import ChatTemplate
from components.models.load import load_model
from components.training.reference import TABLE, Reference, ScoringConfig, pair_ids, reference_logprobs, score_pairs

PROMPT = [{"role": "user", "content": "Which function joins path names?"}]


def row(number: int) -> dict:
    chosen = [{"role": "assistant", "content": f"It joins path names [{number}]."}]
    rejected = [{"role": "assistant", "content": "I don't know." * (1 + number % 3)}]
    return {"pair_id": f"p{number}", "prompt": PROMPT, "chosen": chosen, "rejected": rejected}


@pytest.fixture(scope="module")
def reference(tiny_model_dir) -> Reference:
    return Reference(tiny_model_dir, "model-digest", "template-digest", "float32")


@pytest.fixture(scope="module")
def rows(tiny_model_dir) -> list[dict]:
    convert = pair_ids(ChatTemplate.from_folder(tiny_model_dir))
    return [convert(row(number))[0] for number in range(10)]


def test_only_what_is_missing_is_computed(ray_cluster, rows, reference, tmp_path):
    config = ScoringConfig(batch_pairs=4, cpus_per_actor=1)
    some, computed = reference_logprobs(str(tmp_path), rows[:6], reference, config)
    assert computed == 6 and set(some) == {f"p{number}" for number in range(6)}
    both, computed = reference_logprobs(str(tmp_path), rows, reference, config)
    assert computed == 4
    again, computed = reference_logprobs(str(tmp_path), rows, reference, config)
    assert computed == 0 and again == both
    assert store.count(store.make_ref(str(tmp_path), TABLE)) == 10
    here = score_pairs(load_model(reference.model, "float32"), rows, 2, 4096)
    assert [both[pair["pair_id"]] for pair in rows] == [pytest.approx(scores, abs=1e-4) for scores in here]


def test_pairs_that_share_an_id_are_refused(rows, reference, tmp_path):
    twice = [rows[0], {**rows[1], "pair_id": rows[0]["pair_id"]}]
    with pytest.raises(UserError, match="two different pairs have the pair_id 'p0'"):
        reference_logprobs(str(tmp_path), twice, reference, ScoringConfig())


@pytest.mark.parametrize("field", ["digest", "template_digest", "dtype"])
def test_another_model_template_or_format_has_its_own_rows(rows, reference, field):
    other = dataclasses.replace(reference, **{field: "other"})
    assert other.key(rows[0]) != reference.key(rows[0])


def test_a_reference_in_four_bits_has_its_own_rows_and_figures(ray_cluster, rows, reference, tmp_path):
    quantized = dataclasses.replace(reference, nf4=True)
    assert quantized.key(rows[0]) != reference.key(rows[0])
    config = ScoringConfig(batch_pairs=4, cpus_per_actor=1)
    both, computed = reference_logprobs(str(tmp_path), rows[:2], quantized, config)
    assert computed == 2
    there = score_pairs(load_model(reference.model, "float32", nf4=True), rows[:2], 2, 4096)
    plain = score_pairs(load_model(reference.model, "float32"), rows[:2], 2, 4096)
    for row, own, other in zip(rows[:2], there, plain, strict=True):
        assert both[row["pair_id"]] == pytest.approx(own, abs=1e-4) and abs(own[0] - other[0]) > 1e-3


def test_pairs_that_share_an_id_do_not_share_figures(rows, reference):
    assert reference.key({**rows[0], "chosen_ids": rows[1]["chosen_ids"]}) != reference.key(rows[0])


def test_length_is_that_of_the_longer_side(tiny_model_dir):
    template = ChatTemplate.from_folder(tiny_model_dir)
    ids, length = pair_ids(template)(row(2))
    assert length == len(ids["prompt_ids"]) + max(len(ids["chosen_ids"]), len(ids["rejected_ids"]))


def test_the_reference_is_scored_where_training_runs_unless_it_says_otherwise() -> None:
    assert [ScoringConfig().beside(gpu).gpu for gpu in (True, False)] == [True, False]
    assert ScoringConfig(gpu=False).beside(True).gpu is False
