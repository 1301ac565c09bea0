"""Hard negatives: hard, surely wrong, and never an answer."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from components.retrieval.negatives import NegativesConfig, choose

D = 6


def unit(values: list[float]) -> np.ndarray:
    vector = np.asarray(values, dtype=np.float32)
    return vector / max(float(np.linalg.norm(vector)), 1e-6)


def cosine(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.dot(one, other))  # a float32 would have what it is compared with rounded to its own format


VECTOR = st.lists(st.floats(-1, 1, width=32), min_size=D, max_size=D).map(unit)


@settings(max_examples=200, deadline=None)
@given(
    vectors=st.lists(VECTOR, min_size=2, max_size=12),
    query=VECTOR,
    answers=st.integers(1, 3),
    n=st.integers(1, 4),
    margin=st.floats(-0.5, 0.5),
    likeness=st.floats(-0.5, 1),
)
def test_what_is_chosen_is_what_a_loop_over_the_rules_chooses(vectors, query, answers, n, margin, likeness) -> None:
    named = {f"p{number}": vector for number, vector in enumerate(vectors)}
    found, right = list(named), list(named)[:answers]
    config = NegativesConfig(margin=margin, max_likeness=likeness)
    chosen = choose(found, right, query, named, config, n)
    expected = []
    for key in found:
        is_answer = key in right
        too_close = cosine(query, named[key]) > max(cosine(query, named[answer]) for answer in right) - margin
        too_alike = any(cosine(named[key], named[answer]) > likeness for answer in right)
        if not (is_answer or too_close or too_alike) and len(expected) < n:
            expected.append(key)
    assert chosen == expected
    assert not set(chosen) & set(right)


def test_what_may_answer_as_well_is_left_out() -> None:
    """Cosines to the question are 0.8 (the answer), 0.9, 0.78 and 0.6; the margin of 0.05 bounds at 0.75."""
    query = unit([1, 0, 0, 0, 0, 0])
    named = {
        name: unit([cosine, (1 - cosine**2) ** 0.5 * (place == 1), 0, (1 - cosine**2) ** 0.5 * (place == 0), 0, 0])
        for name, cosine, place in (("answer", 0.8, 0), ("closer", 0.9, 1), ("near", 0.78, 1), ("far", 0.6, 1))
    }
    everything = ["closer", "near", "far", "answer"]
    assert choose(everything, ["answer"], query, named, NegativesConfig(margin=0.05), 7) == ["far"]
    assert choose(everything, ["answer"], query, named, NegativesConfig(margin=0.0), 7) == ["near", "far"]
    assert choose(everything, ["answer"], query, named, NegativesConfig(margin=-2), 7) == ["closer", "near", "far"]


def test_a_copy_of_the_answer_is_left_out() -> None:
    """The copy is as far from the question as the margin asks for, but its cosine to the answer is 0.98."""
    query, answer = unit([1, 0, 0, 0, 0, 0]), unit([1, 1, 0, 0, 0, 0])
    copy = unit([0.75, 1, 0.1, 0, 0, 0])
    named = {"answer": answer, "copy": copy, "other": unit([0, 0, 1, 0, 0, 0])}
    assert 0.95 < float(copy @ answer) < 1 and float(query @ copy) < float(query @ answer) - 0.05
    assert choose(["copy", "other"], ["answer"], query, named, NegativesConfig(), 7) == ["other"]
    assert choose(["copy", "other"], ["answer"], query, named, NegativesConfig(max_likeness=1), 7) == ["copy", "other"]


def test_the_hardest_come_first_and_none_comes_twice() -> None:
    named = {name: unit([0, 1 + place, 1, 0, 0, 0]) for place, name in enumerate(("a", "b", "c", "d"))}
    named["answer"] = unit([1, 0, 0, 0, 0, 0])
    query = unit([1, 0, 0, 0, 0, 0])
    found = ["c", "a", "c", "d", "b"]
    assert choose(found, ["answer"], query, named, NegativesConfig(), 3) == ["c", "a", "d"]
