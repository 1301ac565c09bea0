"""A round's prompts, its pairs, their lineage, and the table that rounds are added to."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from components.config import UserError
from components.data import generations, store
from components.data.generations import Answer, Generation, append, best_and_worst, make_pairs, of_round, read_prompts
from components.data.records import DEMONSTRATION, LABELLED, ONLINE_PREFERENCE, PREFERENCE
from components.data.verdicts import Judged

DRAWN = generations.sampling_page({"n": 4, "temperature": 0.8}, 3, "/lancedb#questions@1")
FIRST = Generation(1, "digest-a", DRAWN, "reward", "judge-a")


def _prompt(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def _rows(count: int) -> list[dict]:
    return [{"prompt_id": f"q{n}", "prompt": _prompt(f"Question {n}?"), "kind": "what"} for n in range(count)]


def _answers(*texts: str) -> list[Answer]:
    return [Answer(text.removesuffix("…"), not text.endswith("…")) for text in texts]


def test_rounds_go_through_all_prompts_before_one_comes_again() -> None:
    rows = _rows(10)
    rounds = [[row["prompt_id"] for row in of_round(rows, 4, number, seed=1)] for number in (1, 2, 3)]
    assert len({*rounds[0], *rounds[1], *rounds[2][:2]}) == 10 and rounds[2][2:] == rounds[0][:2]
    assert rounds[0] != [row["prompt_id"] for row in of_round(rows, 4, 1, seed=2)]
    assert sorted(row["prompt_id"] for row in of_round(rows, 99, 7, seed=1)) == sorted(f"q{n}" for n in range(10))


def test_prompts_of_the_test_are_never_asked(tmp_path: Path) -> None:
    """Whichever table holds them out, and whatever their ids: what counts is what is said."""
    uri = str(tmp_path)
    said = [("a", "One?", "train"), ("b", "Two?", "train"), ("c", "Three?", "train"), ("d", "Four?", "test")]
    said += [("e", "One?", "train"), ("f", "Two?", "test")]
    common = {"completion": _prompt("x"), "kind": "what", "source": "s"}
    rows = [{**common, "prompt_id": i, "prompt": _prompt(text), "split": split} for i, text, split in said]
    table = store.overwrite(uri, "prompts", rows, DEMONSTRATION)
    found, left_out = read_prompts(table, None, questions=False)
    assert [row["prompt"][0]["content"] for row in found] == ["One?", "Three?"] and left_out == 1

    pairs = make_pairs(_rows(1), [_answers("a", "b")], [Judged([1.0, 0.0])], 0.1, FIRST)
    held = [{**pairs[0], "prompt": _prompt("Three?"), "split": "test", "prompt_id": "other"}]
    onto = append(uri, "pairs", None, held)
    found, left_out = read_prompts(table, onto, questions=False)
    assert [row["prompt"][0]["content"] for row in found] == ["One?"] and left_out == 2
    with pytest.raises(UserError, match=r"judge\.name=programmatic judges answers to questions"):
        read_prompts(table, onto, questions=True)


def test_answers_are_kept_once_and_empty_ones_not_at_all() -> None:
    texts = [("a b", False), ("a  b", True), ("a b", False), (" ", True), ("c", False)]
    replies = [{"text": text, "finished": finished} for text, finished in texts]
    assert generations.distinct(replies) == [Answer("a  b", True), Answer("c", False)]


@pytest.mark.parametrize(
    ("answers", "judged", "expected"),
    [
        (_answers("a", "b", "c"), Judged([0.2, 0.9, 0.4]), (1, 0)),
        (_answers("a", "b", "c"), Judged([0.2, 0.4, 0.3]), (1, 0)),  # the margin itself is enough
        (_answers("a", "b"), Judged([0.3, 0.4]), None),
        (_answers("a", "b…", "c"), Judged([0.2, 0.9, 0.6]), (2, 0)),  # cut off: it may not win
        (_answers("a…", "b", "c"), Judged([0.2, 0.9, 0.4]), (1, 0)),  # but lose
        (_answers("a"), Judged([0.9]), None),
        ([], Judged([]), None),
        (_answers("a", "b", "c"), Judged([1.0, 0.5, 0.0], frozenset({(0, 1)})), (0, 1)),  # 0 > 2 was not decided
        (_answers("a", "b"), Judged([1.0, 0.0], frozenset()), None),
    ],
)
def test_the_best_and_the_worst_are_furthest_apart(answers: list, judged: Judged, expected: tuple | None) -> None:
    assert best_and_worst(answers, judged, 0.2) == expected


def test_a_pair_says_what_it_comes_from() -> None:
    answers = [_answers("good", "bad"), _answers("same"), _answers("bad", "good", "so-so")]
    judged = [Judged([0.9, 0.1]), Judged([0.5]), Judged([0.0, 2.0, 1.0])]
    pairs = make_pairs(_rows(3), answers, judged, 0.2, FIRST)
    assert [(pair["prompt_id"], pair["chosen"][0]["content"], pair["rejected"][0]["content"]) for pair in pairs] == [
        ("q0", "good", "bad"),
        ("q2", "good", "bad"),
    ]
    assert [(pair["chosen_score"], pair["rejected_score"]) for pair in pairs] == [(0.9, 0.1), (2.0, 0.0)]
    for pair in pairs:
        assert (pair["round"], pair["policy_digest"], pair["judge"]) == (1, "digest-a", "reward")
        assert (pair["judge_digest"], pair["generation"]) == ("judge-a", FIRST.id)
        drawn = {"n": 4, "temperature": 0.8, "seed": 3, "prompts": "/lancedb#questions@1"}
        assert json.loads(pair["sampling"]) == drawn
        assert pair["split"] == "train" and pair["chosen"][0]["role"] == "assistant"
    with pytest.raises(UserError, match="tells no two answers to any of 3 prompts apart by margin=5"):
        make_pairs(_rows(3), answers, judged, 5.0, FIRST)


def test_ids_are_of_content_and_of_the_generation() -> None:
    def ids(generation: Generation, *texts: str) -> list[str]:
        return [p["pair_id"] for p in make_pairs(_rows(1), [_answers(*texts)], [Judged([1.0, 0.0])], 0.1, generation)]

    again = Generation(1, "digest-a", FIRST.sampling, "reward", "judge-a")
    assert ids(FIRST, "a", "b") == ids(again, "a", "b")
    others = [
        ids(FIRST, "a", "c"),
        ids(Generation(2, "digest-a", FIRST.sampling, "reward", "judge-a"), "a", "b"),
        ids(Generation(1, "digest-b", FIRST.sampling, "reward", "judge-a"), "a", "b"),
        ids(Generation(1, "digest-a", "{}", "reward", "judge-a"), "a", "b"),
        ids(Generation(1, "digest-a", FIRST.sampling, "llm", "judge-a"), "a", "b"),
        ids(Generation(1, "digest-a", FIRST.sampling, "reward", "judge-b"), "a", "b"),
    ]
    assert len({*map(str, others), str(ids(FIRST, "a", "b"))}) == 7


def _pairs(generation: Generation, *prompts: int) -> list[dict]:
    rows = [_rows(9)[number] for number in prompts]
    return make_pairs(rows, [_answers("a", "b")] * len(rows), [Judged([1.0, 0.0])] * len(rows), 0.1, generation)


def test_rounds_are_added_to_pairs_without_lineage_and_none_comes_twice(tmp_path: Path) -> None:
    uri = str(tmp_path)
    offline = [{k: pair[k] for k in PREFERENCE.names if k in pair} for pair in _pairs(FIRST, 7, 8)]
    for number, row in enumerate(offline):
        row |= {"pair_id": f"offline{number}", "source": "file", "split": ("train", "test")[number]}
    built = store.overwrite(uri, "preferences", offline, PREFERENCE)
    second = Generation(2, "digest-b", FIRST.sampling, "reward", "judge-a")

    one = append(uri, "online", built, _pairs(FIRST, 0, 1))
    two = append(uri, "online", one, _pairs(second, 2, 3))
    assert store.open_table(two).schema.names == ONLINE_PREFERENCE.names
    ends = [(row["source"], row["round"], row["generation"]) for row in store.read(two)]
    assert ends == [("file", None, None)] * 2 + [("online", 1, FIRST.id)] * 2 + [("online", 2, second.id)] * 2
    assert store.count(two, "split = 'train' and (round = 2)") == 2 and store.count(two, "round is null") == 2

    again = append(uri, "online", two, _pairs(second, 2, 3))
    assert store.read(again) == store.read(two)  # the same round once more changes nothing
    other = append(uri, "online", two, _pairs(second, 2, 5))
    assert [row["prompt_id"] for row in store.read(other, where="round = 2")] == ["q2", "q5"]
    branch = append(uri, "online", one, _pairs(second, 4))
    assert store.count(branch) == 5 and store.count(two) == 6  # each version holds what it goes back to


def test_a_round_of_other_prompts_is_another_generation(tmp_path: Path) -> None:
    """The same model, judge, sampling and number of the round: what was asked before stays."""
    page = generations.sampling_page({"n": 4, "temperature": 0.8}, 3, "/lancedb#questions@2")
    one = append(str(tmp_path), "online", None, _pairs(FIRST, 0, 1))
    both = append(str(tmp_path), "online", one, _pairs(replace(FIRST, sampling=page), 5))
    assert [row["prompt_id"] for row in store.read(both)] == ["q0", "q1", "q5"]


def test_what_is_no_table_of_pairs_is_refused(tmp_path: Path) -> None:
    row = {"answer_id": "a", "prompt_id": "q", "prompt": _prompt("x"), "completion": _prompt("y"), "label": True}
    labelled = store.overwrite(
        str(tmp_path), "answers", [{**row, "kind": "k", "source": "s", "split": "train"}], LABELLED
    )
    with pytest.raises(UserError, match="is no table of preference pairs"):
        append(str(tmp_path), "online", labelled, _pairs(FIRST, 0))
