"""Generated questions against an independent reader of them."""

import re
from collections import Counter

import pytest

from components.config import UserError
from components.data.arithmetic import claims, evaluate
from components.data.generated_tasks import TaskConfig, make_tasks

CONFIG = TaskConfig(arithmetic=60, stories=60, logic=60, steps=3)


def of(kind, config=CONFIG, seed=1):
    return [task for task in make_tasks(config, seed) if task.kind == kind]


def test_equal_seeds_make_equal_questions_and_none_twice():
    tasks = make_tasks(CONFIG, 1)
    assert tasks == make_tasks(CONFIG, 1) and tasks != make_tasks(CONFIG, 2)
    assert len({task.question for task in tasks}) == 180
    assert Counter(task.kind for task in tasks) == {"arithmetic": 60, "story": 60, "logic": 60}
    assert [task.kind for task in tasks[:3]] == ["arithmetic", "story", "logic"], "a part of them has all kinds"


def test_arithmetic_is_what_an_evaluator_says():
    for task in of("arithmetic"):
        expression = task.question.removeprefix("What is ").removesuffix("?")
        assert evaluate(expression) == int(task.answer) >= 0


def test_stories_are_what_a_reader_counts():
    for task in of("story"):
        first, *others = [part.strip() for part in task.question.split(". ")]
        have = int(re.search(r"\d+", first)[0])
        for sentence in others[:-1]:
            number = int(re.search(r"\d+", sentence)[0])
            have = have * number if "times" in sentence else have - number if "gives" in sentence else have + number
        assert have == int(task.answer) > 0, task.question


@pytest.mark.parametrize("kind", ["arithmetic", "story"])
def test_each_step_of_a_solution_is_right_and_the_last_is_the_answer(kind):
    for task in of(kind):
        found = [claim for line in task.reasoning.splitlines() for claim in claims(line)]
        assert len(found) == CONFIG.steps and all(claim.holds for claim in found)
        assert found[-1].result == task.answer


def test_logic_follows_from_what_is_told_by_exhaustion():
    answers = Counter()
    for task in of("logic", TaskConfig(arithmetic=0, stories=0, logic=100, steps=3), 4):
        pairs = re.findall(r"(\w+) is \w+ than (\w+)\.", task.question) or re.findall(
            r"All (\w+) are (\w+)\.", task.question
        )
        reach = {(a, b) for a, b in pairs}
        while True:  # the transitive closure
            more = {(a, d) for a, b in reach for c, d in reach if b == c} - reach
            if not more:
                break
            reach |= more
        if asked := re.search(r"all (\w+) are (\w+)\? Answer", task.question):
            assert task.answer == ("yes" if asked.groups() in reach else "no")
            answers[task.answer] += 1
        else:
            people = {person for pair in pairs for person in pair}
            tops = [p for p in people if all((p, other) in reach for other in people - {p})]
            bottoms = [p for p in people if all((other, p) in reach for other in people - {p})]
            most = re.search(r"Who is the (\w+)\?", task.question)[1] in ("tallest", "oldest", "fastest")
            assert [task.answer] == (tops if most else bottoms)
    assert min(answers["yes"], answers["no"]) > 10, "neither is a good guess"


def test_too_many_questions_of_one_difficulty_are_refused():
    with pytest.raises(UserError, match="raise one of them"):
        make_tasks(TaskConfig(arithmetic=5000, stories=0, logic=0, steps=1, largest=5), 0)
