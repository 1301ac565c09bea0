"""A language model as judge, with scripted replies: what it is told, how it is read, and the swap."""

import re

import pytest

from components.config import UserError, parse
from components.data.verdicts import ComparisonConfig, ask, compare, read

PLAIN = ComparisonConfig()
ONE = [{"role": "user", "content": "What is {first}?"}]


def scripted(verdict):
    """A judge that says what ``verdict(first answer, second answer)`` is, and remembers what it was told."""
    told = []

    def generate(prompts):
        told.extend(prompts)
        found = [re.search(r"\[Answer A\]\n(.*?)\n\n\[Answer B\]\n(.*?)\n\n", text, re.DOTALL) for text in prompts]
        return [verdict(*match.groups()) for match in found]

    return generate, told


def of_one(answers, verdict, **changes):
    generate, _ = scripted(verdict)
    (judged,), figures = compare([ONE], [answers], generate, ComparisonConfig(**changes), seed=0)
    return judged, figures


def test_it_is_told_the_texts_as_they_are() -> None:
    text = ask(PLAIN, ONE, "{second} {x}", "b {prompt}")
    assert "[Request]\nWhat is {first}?\n" in text and "[Answer A]\n{second} {x}\n" in text
    assert "[Answer B]\nb {prompt}\n" in text
    turns = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    assert "system: Be brief.\n\nuser: Hi" in ask(PLAIN, turns, "a", "b")


@pytest.mark.parametrize(
    ("reply", "verdict"),
    [
        ("A", "A"),
        (" B\n", "B"),
        ("C.", "C"),
        ("[[A]]", "A"),
        ("(B)", "B"),
        ("**C**", "C"),
        ("a", None),
        ("D", None),
        ("", None),
        ("A or B", None),
        ("Answer A", None),
        ("A is better than B", None),
        ("AB", None),
        ("I think that it is A", None),
    ],
)
def test_a_reply_is_a_verdict_only_if_it_is_nothing_else(reply: str, verdict: str | None) -> None:
    assert read(PLAIN, reply) == verdict


def test_a_judge_that_thinks_first_is_read_by_its_own_pattern() -> None:
    thinks = ComparisonConfig(verdict=r".*\[\[([ABC])\]\]\s*")
    assert read(thinks, "B is wrong.\nSo [[A]]\n") == "A"
    assert read(thinks, "[[A]] or not") is None and read(thinks, "A") is None


def test_the_longer_answer_wins_in_both_orders() -> None:
    judged, figures = of_one(["aa", "aaa", "a"], lambda first, second: "A" if len(first) > len(second) else "B")
    assert judged.better == {(1, 0), (1, 2), (0, 2)}
    assert judged.scores == [0.5, 1.0, 0.0]
    shares = {"agreed": 1.0, "equal": 0.0, "swapped": 0.0, "unparsable": 0.0, "first": 0.5, "comparisons": 3.0}
    assert figures == {f"judge/{name}": value for name, value in shares.items()}


def test_a_judge_that_likes_what_it_sees_first_decides_nothing() -> None:
    judged, figures = of_one(["a", "b", "c"], lambda first, second: "A")
    assert judged.better == frozenset() and judged.scores == [0.5, 0.5, 0.5]
    assert figures["judge/swapped"] == 1.0 and figures["judge/agreed"] == 0.0 and figures["judge/first"] == 1.0


def test_ties_half_ties_and_what_is_no_verdict_are_told_apart() -> None:
    """a-b equal both times, a-c equal one way only, b-c no verdict one way: nothing is decided."""

    def verdict(first, second):
        if {first, second} == {"a", "b"}:
            return "C"
        if {first, second} == {"a", "c"}:
            return "C" if first == "a" else "A"
        return "B" if first == "b" else "B, because"

    judged, figures = of_one(["a", "b", "c"], verdict)
    assert judged.better == frozenset() and judged.scores == [0.5, 0.5, 0.5]
    third = pytest.approx(1 / 3)
    assert figures["judge/equal"] == figures["judge/swapped"] == figures["judge/unparsable"] == third
    assert figures["judge/agreed"] == 0.0


def test_an_unparsable_comparison_counts_for_neither() -> None:
    """a beats b; c is never compared with success, so that its score is nobody's: 0.5."""
    judged, _ = of_one(["a", "b", "c"], lambda first, second: "?" if "c" in (first, second) else "AB"[first == "b"])
    assert judged.better == {(0, 1)} and judged.scores == [1.0, 0.0, 0.5]


def test_prompts_are_kept_apart_and_those_with_one_answer_are_not_asked_about() -> None:
    generate, told = scripted(lambda first, second: "A" if first > second else "B")
    judged, figures = compare([ONE] * 4, [["b", "a"], ["a"], [], ["a", "b"]], generate, PLAIN, seed=0)
    assert [one.better for one in judged] == [{(0, 1)}, frozenset(), frozenset(), {(1, 0)}]
    assert [one.scores for one in judged] == [[1.0, 0.0], [0.5], [], [0.0, 1.0]]
    assert len(told) == 4 and figures["judge/comparisons"] == 2


def test_comparisons_are_limited_and_drawn_by_the_seed() -> None:
    answers = [["a", "b", "c", "d", "e"]]  # ten pairs
    config = ComparisonConfig(comparisons=4)
    drawn = []
    for seed in (0, 0, 1):
        generate, told = scripted(lambda first, second: "C")
        compare([ONE], answers, generate, config, seed)
        assert len(told) == 8 == len(set(told))
        drawn.append(told)
    assert drawn[0] == drawn[1] != drawn[2]


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"template": "{prompt} {first}"}, "has {second} 0 times"),
        ({"template": "{prompt} {first} {second} {first}"}, "has {first} 2 times"),
        ({"verdict": "A|B"}, "has 0 groups"),
        ({"verdict": "("}, "is no regular expression"),
    ],
)
def test_a_judge_that_could_not_be_read_is_refused(values: dict, says: str) -> None:
    with pytest.raises(UserError, match=says):
        parse(ComparisonConfig, values)
