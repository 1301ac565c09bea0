"""Exercises on a real LanceDB: what is held out stays unseen, what is taught as wrong is no answer."""

import random
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.config import UserError
from components.data import search, store
from components.data.records import PASSAGE, passage_schema
from components.retrieval import exercises
from components.retrieval.exam_questions import Asked
from components.retrieval.exercises import AskConfig, Exercise
from components.retrieval.negatives import NegativesConfig
from components.retrieval.retrieve import Retriever
from components.retrieval.settings import RetrieveConfig

D = 16
_SUBJECTS = ("queue", "heap", "lock", "socket", "thread", "buffer", "cursor", "parser", "timer", "cache")
_VERBS = ("Close", "Open", "Copy", "Merge", "Split", "Reset", "Rotate", "Encode", "Validate", "Compress")
ALL_PASS = NegativesConfig(margin=-2, max_likeness=1)
QUESTION = pa.schema([("question", pa.string()), ("passage_id", pa.string())])


def word(number: int) -> str:
    return "".join("bcdfghjklm"[int(digit)] + "a" for digit in str(number))


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> str:
    """150 documented functions, ten of which are there twice under two ids."""
    uri, rng, rows = str(tmp_path_factory.mktemp("db")), np.random.default_rng(0), []
    for number in (*range(150), *range(10)):
        subject, verb = _SUBJECTS[number % 10], _VERBS[number // 10 % 10]
        name = f"{subject}.{verb.lower()}{number}"
        purpose, reason = f"{verb} the {subject} of kind {word(number)}.", word(7 * number)
        text = f"{name}()\n\n{purpose} Raises Error{number} when it is {reason}."
        shared = dict.fromkeys(PASSAGE.names, name) | {"corpus": "c", "metadata": '{"kind": "function"}'}
        own = {"passage_id": f"{len(rows)}", "text": text, "group": subject, "start": 0, "end": len(text)}
        rows.append(shared | own | {"n_tokens": 20, "vector": rng.normal(size=D), "doc_id": f"{len(rows)}"})
    store.write(uri, "passages", rows, schema=passage_schema(D), key="passage_id")
    return search.create_fulltext(f"{uri}#passages", "text")


class Base:
    """What exercises ask of a hybrid retriever: its index, and questions as vectors."""

    def __init__(self, index: str) -> None:
        self.index = index

    def embed_query(self, question: str) -> list[float]:
        return np.random.default_rng(len(question)).normal(size=D).tolist()


def gathered(index: str, negatives: NegativesConfig = ALL_PASS, seed: int = 0, **ask) -> list[Exercise]:
    way = Retriever(index, "unused", RetrieveConfig(mode="text"))
    return exercises.gather(Base(index), way, AskConfig(**{"limit": 300, "test_share": 0.5, **ask}), negatives, seed)


def own_table(folder: Path, rows: list[tuple[str, str]]) -> str:
    made = [{"question": question, "passage_id": passage} for question, passage in rows]
    return store.write(str(folder), "questions", made, schema=QUESTION, key=None)


def test_no_passage_of_a_held_out_question_is_in_training(index: str) -> None:
    made = gathered(index)
    texts = {row["passage_id"]: row["text"] for row in store.read(index)}
    held_out = {texts[key] for one in made if one.split == "test" for key in one.answers}
    training = [one for one in made if one.split == "train"]
    seen = {texts[key] for one in training for key in (*one.answers, *one.negatives)}
    assert len(training) > 20 and len(held_out) >= exercises.FEWEST_GROUPS
    assert not held_out & seen


def test_questions_of_one_passage_are_on_one_side(index: str) -> None:
    made = gathered(index)
    sides: dict[str, set[str]] = {}
    for one in made:
        for key in one.answers:
            sides.setdefault(key, set()).add(one.split)
    asked_twice = sum(len([one for one in made if key in one.answers]) > 1 for key in sides)
    assert asked_twice > 10 and all(len(own) == 1 for own in sides.values())


def test_a_negative_is_never_an_answer_nor_a_copy_of_one(index: str, tmp_path: Path) -> None:
    """Each passage is asked for by its own words, so that the copies of the first ten are found beside them."""
    texts = {row["passage_id"]: row["text"] for row in store.read(index)}
    table = own_table(tmp_path, [(" ".join(texts[str(n)].split()[1:]), str(n)) for n in range(120)])
    way = Retriever(index, "unused", RetrieveConfig(mode="text"))
    tempted = 0
    for one in (*gathered(index), *gathered(index, table=table)):
        own = {texts[key] for key in one.answers}
        found = [hit.passage_id for hit in way.search(one.question, k=20)]
        tempted += one.split == "train" and any(texts[key] in own and key not in one.answers for key in found)
        assert not {texts[key] for key in one.negatives} & own
        assert (len(one.negatives) == 7) if one.split == "train" else (one.negatives == ())
    assert tempted > 2


def test_negatives_are_hard_first_and_the_rest_is_drawn(index: str) -> None:
    way = Retriever(index, "unused", RetrieveConfig(mode="text"))
    for one in gathered(index, NegativesConfig(margin=-2, max_likeness=1, depth=3, per_question=6)):
        if one.split == "train":
            found = [hit.passage_id for hit in way.search(one.question, k=3)]
            hard = [key for key in one.negatives if key in found]
            assert one.negatives[: len(hard)] == tuple(key for key in found if key in hard)
            assert len(one.negatives) == 6


def test_some_are_drawn_even_where_a_search_brings_enough(index: str) -> None:
    """Four are the first that the search brings (10 are more than enough), two come from other questions' passages."""
    way = Retriever(index, "unused", RetrieveConfig(mode="text"))
    for one in gathered(index, NegativesConfig(margin=-2, max_likeness=1, depth=10, per_question=6, drawn=2)):
        if one.split == "train":
            found = [hit.passage_id for hit in way.search(one.question, k=10)]
            assert set(one.negatives[:4]) <= set(found) and len(set(one.negatives)) == 6
            positions = [found.index(key) for key in one.negatives[:4]]
            assert positions == sorted(positions) and positions[-1] <= 6, "no hard one was passed over for a later one"


def test_the_same_seed_gives_the_same_exercises(index: str) -> None:
    assert gathered(index, seed=1) == gathered(index, seed=1) != gathered(index, seed=2)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 8), st.integers(0, 8)), min_size=1, max_size=25), st.randoms())
def test_groups_are_the_connected_parts_whatever_the_order(pairs, shuffle: random.Random) -> None:
    asked = [Asked(f"q{question}", f"p{passage}", "", "own") for question, passage in pairs]
    texts = {f"p{passage}": f"text {passage // 2}" for passage in range(9)}  # p0 and p1 have the same text, …
    made = {one.question: one for one in exercises.divided(asked, texts, 0.5, "s")}
    shuffle.shuffle(asked)
    again = {one.question: one for one in exercises.divided(asked, texts, 0.5, "s")}
    assert {question: (one.group, one.split) for question, one in made.items()} == {
        question: (one.group, one.split) for question, one in again.items()
    }
    for question, one in made.items():
        reached, texts_of = {question}, set()
        while True:
            texts_of |= {texts[a.passage_id] for a in asked if a.question in reached}
            more = {a.question for a in asked if texts[a.passage_id] in texts_of} - reached
            if not more:
                break
            reached |= more
        assert {name for name, other in made.items() if other.group == one.group} == reached
        assert set(one.answers) == {a.passage_id for a in asked if a.question == question}


def test_a_split_is_about_as_large_as_was_asked_for() -> None:
    asked = [Asked(f"q{n}", f"p{n}", "", "own") for n in range(2000)]
    texts = {f"p{n}": f"text {n}" for n in range(2000)}
    held_out = [one for one in exercises.divided(asked, texts, 0.3, "s") if one.split == "test"]
    assert 0.26 < len(held_out) / 2000 < 0.34
    assert held_out != [one for one in exercises.divided(asked, texts, 0.3, "t") if one.split == "test"]


def test_ones_own_questions_may_have_several_answers(index: str, tmp_path: Path) -> None:
    rows = [(f"what is {n}?", str(n)) for n in range(10, 120)] + [("what is 10?", "140"), ("what is 11?", "gone")]
    made = {one.question: one for one in gathered(index, table=own_table(tmp_path, rows))}
    assert set(made["what is 10?"].answers) == {"10", "140"} and made["what is 11?"].answers == ("11",)
    assert len(made) == 110
    limited = gathered(index, table=own_table(tmp_path / "b", rows), limit=90)
    assert 85 < len(limited) <= 90  # rows, of which two may be of one question and one names no passage


def test_exercises_are_made_once(tmp_path: Path) -> None:
    made = [
        Exercise("is it \u2028 so?", ("a", "b"), ("c",), "g", "train"),
        Exercise("and this?", ("d",), (), "h", "test"),
    ]
    path = tmp_path / "exercises.jsonl"
    assert exercises.remembered(path, lambda: made) == made
    assert exercises.remembered(path, lambda: pytest.fail("they are there")) == made
    counts = exercises.figures(made)
    assert counts == {"questions/train": 1.0, "questions/held_out": 1.0, "negatives/mean": 1.0}


def test_wrong_input_is_said(index: str, tmp_path: Path) -> None:
    few = [(f"what is {n}?", str(n)) for n in range(30)]
    with pytest.raises(UserError, match=r"30 questions about .* hold out \d+ groups, and at least 20 are needed"):
        gathered(index, table=own_table(tmp_path / "few", few))
    with pytest.raises(UserError, match=r"none of the 2 in .*questions.* names a passage that it has"):
        gathered(index, table=own_table(tmp_path / "other", [("a?", "x"), ("b?", "y")]))
    with pytest.raises(UserError, match="has no rows"):
        gathered(index, table=own_table(tmp_path / "empty", []))
    with pytest.raises(UserError, match="has no column 'question'"):
        gathered(index, table=index)
    with pytest.raises(UserError, match="no table 'nothing'"):
        gathered(index, table=f"{tmp_path}#nothing")
    strict = NegativesConfig(margin=2)
    with pytest.raises(UserError, match=r"none can be trained on.*lower negatives\.margin"):
        gathered(index, strict)
    bare = [row | {"text": "x"} for row in store.read(index)[:5]]
    poor = store.write(str(tmp_path / "poor"), "poor", bare, schema=passage_schema(D), key="passage_id")
    search.create_fulltext(poor, "text")
    with pytest.raises(UserError, match="no questions can be made"):
        gathered(poor.partition("@")[0])
