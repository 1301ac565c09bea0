"""Strategies that use tools (program-aided, ReAct), and the choice of strategies from measurements."""

import asyncio
import json

import pytest

from components.config import UserError
from components.reasoning.calculate import calculate, shown
from components.reasoning.events import Found, Piece
from components.reasoning.measured import Interval, Row, choose, kind_of, read_table
from components.reasoning.menu import needs
from components.reasoning.programs import source_of
from components.reasoning.strategies.auto import auto
from components.reasoning.strategies.program_aided import EXAMPLES, REQUEST, program_aided
from components.reasoning.strategies.react import react
from components.reasoning.tool_menu import tool_names, use
from tests.components.reasoning.fakes import QUESTION, Script, reasons, run, text, tools

WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather of a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


def extras(events):
    return {key: value for e in events if isinstance(e, Piece) for key, value in e.extra.items()}


@pytest.mark.parametrize(
    ("said", "source"),
    [
        ("Sure:\n```python\nprint(5)\n```\nThat prints 5.", "print(5)"),
        ("```\nx = 1\n```\nor\n```py\nx = 2\nprint(x)\n```", "x = 2\nprint(x)"),
        ("```python\nprint(5)", "print(5)"),  # cut off
        ("I compute it.\ntotal = 2 + 3\nprint(total)", "total = 2 + 3\nprint(total)"),
        ("2 + 3", "2 + 3"),
        ("```python\nprint(5)\n```\nThis will print:\n```\nThere are 5.\n```", "print(5)"),
        ("```\nprint(4)\n```\nor\n```\nprint(5)\n```", "print(5)"),
        ("The answer is 5.", ""),
        ("", ""),
        ("```python\ndef solution():\n\treturn 5\n```", "def solution():\n    return 5\n\nprint(solution())"),
        (
            "```python\ndef solution():\n  return 5\nprint(solution())\n```",
            "def solution():\n  return 5\nprint(solution())",
        ),
    ],
)
def test_the_program_in_a_reply(said, source):
    assert source_of(said) == source


@pytest.mark.parametrize("example", EXAMPLES)
def test_an_examples_own_program_is_no_answer(example):
    """A model that repeats it is asked again, and what it prints is not taken for an answer."""
    model = Script(f"```python\n{example[1]}\n```", "```python\nprint(6 * 7)\n```")
    events = run(program_aided(QUESTION, tools(model)))
    assert text(events) == "42" and model.calls and "an example's program" in model.asked(1)
    assert not {"17", "87"} & set(text(events, "reasoning").split())


def test_examples_are_earlier_turns_before_the_last_question():
    before = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hi."}]
    before.append({"role": "assistant", "content": "Hello."})
    model = Script("```python\nprint(6 * 7)\n```")
    run(program_aided([*before, *QUESTION], tools(model)))
    asked = model.calls[0]["messages"]
    assert asked[:3] == before and [turn["role"] for turn in asked[3:]] == ["user", "assistant"] * 2 + ["user"]
    assert asked[-1]["content"].startswith(QUESTION[-1]["content"]) and asked[-1]["content"].endswith(REQUEST)
    for (question, program), turns in zip(EXAMPLES, (asked[3:5], asked[5:7]), strict=True):
        assert turns[0]["content"] == f"{question}\n\n{REQUEST}" and source_of(turns[1]["content"]) == program


def test_a_program_computes_the_answer():
    model = Script("```python\nprint(sum(range(101)))\n```")
    given = tools(model)
    events = run(program_aided(QUESTION, given))
    assert (text(events), reasons(events)) == ("5050", ["stop"]) and given.budget.tool_calls == 1
    assert "print(sum(range(101)))" in text(events, "reasoning") and extras(events) == {}


def test_a_program_that_fails_goes_back_with_its_error():
    model = Script("```python\nprint(1/0)\n```", "```python\nprint(5)\n```")
    assert text(run(program_aided(QUESTION, tools(model)))) == "5"
    assert "ZeroDivisionError: division by zero" in model.asked(1)
    assert [turn["role"] for turn in model.calls[1]["messages"][-3:]] == ["user", "assistant", "user"]


def test_a_program_that_was_cut_off_is_not_run():
    """Four words are allowed: the first program ends within its second line, the second one is complete."""
    model = Script("```python\nprint(4)\nx = 2 + 3\nprint(x)\n```", "```python\nprint(5)\n``` prints five, as you see")
    events = run(program_aided(QUESTION, tools(model, max_tokens=4)))
    assert text(events) == "5" and "cut off" in model.asked(1)
    assert "4" not in text(events, "reasoning").split()


@pytest.mark.parametrize(
    ("said", "error"),
    [
        ("I cannot program.", "there is no program in the reply"),
        ("```python\nx = 5\n```", "the program prints nothing"),
        ("```python\nwhile True: pass\n```", "did not end within 2 s"),
        ("```python\nimport socket\n```", "No module named 'socket'"),
        ("", "there is no program in the reply"),
    ],
)
def test_without_a_program_that_works_the_model_answers_and_it_is_said(said, error):
    model = Script(said, "about 5")
    events = run(program_aided(QUESTION, tools(model), attempts=1, seconds=2.0))
    assert text(events) == "about 5" and error in extras(events)["program_error"]
    assert model.calls[1]["messages"] == QUESTION and model.calls[1]["final"]


def test_programs_are_tool_calls_of_the_budget():
    model = Script("```python\nprint(5)\n```", "about 5")
    given = tools(model, limits={"tool_calls": 0})
    events = run(program_aided(QUESTION, given))
    assert text(events) == "about 5" and given.budget.stopped_by == "tool_calls"
    assert "no more programs" in extras(events)["program_error"]


def test_react_acts_and_reads_until_it_knows():
    model = Script("Thought: add them.\nAction: calculator[2 + 3]", "Thought: it is known.\nFinal Answer: it is 5")
    given = tools(model)
    events = run(react(QUESTION, given))
    assert [e.text for e in events if e.channel == "content" and e.text] == ["it", " is", " 5"]
    assert model.calls[1]["messages"][-1] == {"role": "user", "content": "Observation: 5"}
    assert model.calls[0]["stop"] == ("Observation:",) and given.budget.tool_calls == 1
    assert "calculator[expression]" in model.asked(0) and "search[question]" not in model.asked(0)
    assert "Observation: 5" in text(events, "reasoning")


@pytest.mark.parametrize(
    ("action", "observation"),
    [
        ("Action: calculator[two]", "Error: 'two' is no arithmetic"),
        ("Action: calculator[1/0]", "Error: division by zero"),
        ("Action: fly[home]", "Error: there is no tool 'fly'"),
        ("I do not know.", "Error: write one line 'Action: name[argument]'"),
        ("", "Error: write one line 'Action: name[argument]'"),
        ("Action: code[print(6 * 7)]", "42"),
        ("Action: code[\n```python\nprint(6 * 7)\n```]", "42"),
        ("Action: code[open('/etc/passwd').read()]", "Error: PermissionError"),
        ("Action: search[f]", "[1] a page: about f"),
    ],
)
def test_what_a_tool_says_or_how_it_failed_is_observed(action, observation):
    model = Script(action, "Final Answer: done")
    events = run(react(QUESTION, tools(model, index=True)))
    assert model.asked(1).startswith(f"Observation: {observation}") and text(events) == "done"


def test_what_react_found_is_there_for_citations_once_each():
    model = Script("Action: search[f]", "Action: search[g]", "Final Answer: done [1]")
    events = run(react(QUESTION, tools(model, index=True)))
    found = [event for event in events if isinstance(event, Found)]
    assert [[p["passage_id"] for p in each.passages] for each in found] == [["p1"]]


@pytest.mark.parametrize("argument", ['{"city": "Paris"}', "Paris", '"Paris"'])
def test_a_clients_own_tool_is_handed_back_and_goes_on_from_its_result(argument):
    model = Script(f"Thought: ask.\nAction: weather[{argument}]")
    events = run(react(QUESTION, tools(model, functions=(WEATHER,))))
    (call,) = extras(events)["tool_calls"]
    assert (call["type"], call["function"]["name"]) == ("function", "weather") and call["id"].startswith("call_")
    assert json.loads(call["function"]["arguments"]) == {"city": "Paris"}
    assert (reasons(events), text(events)) == (["tool_calls"], "")
    sent = {"role": "assistant", "content": None, "tool_calls": [call]}
    history = [*QUESTION, sent, {"role": "tool", "tool_call_id": call["id"], "content": "rain"}]
    model = Script("Final Answer: it rains")
    assert text(run(react(history, tools(model, functions=(WEATHER,))))) == "it rains"
    roles = [(turn["role"], turn["content"]) for turn in model.calls[0]["messages"][1:]]
    assert roles == [("assistant", 'Action: weather[{"city": "Paris"}]'), ("user", "Observation: rain")]


@pytest.mark.parametrize(
    ("argument", "error"),
    [("{}", "weather lacks 'city'"), ('{"city": "P", "day": 1}', "weather has no argument 'day'")],
)
def test_arguments_that_do_not_fit_are_told_to_the_model(argument, error):
    model = Script(f"Action: weather[{argument}]", "Final Answer: none")
    assert text(run(react(QUESTION, tools(model, functions=(WEATHER,))))) == "none"
    assert error in model.asked(1)


def test_react_answers_after_its_steps_and_at_the_end_of_its_tool_calls():
    model = Script(lambda messages, _: "five" if "Answer now" in messages[-1]["content"] else "Action: calculator[1]")
    assert text(run(react(QUESTION, tools(model), steps=3))) == "five" and len(model.calls) == 4
    given = tools(model, limits={"tool_calls": 1})
    assert text(run(react(QUESTION, given, steps=9))) == "five" and given.budget.stopped_by == "tool_calls"


def test_react_gives_a_final_answer_in_the_clients_format():
    model = Script("Final Answer: five", '{"sum": 5}')
    events = run(react(QUESTION, tools(model, formatted=True)))
    assert text(events) == '{"sum": 5}' and model.calls[1]["final"]


def test_the_menu_of_tools_is_the_folder():
    assert tool_names() == ["calculator", "code", "search"]
    with pytest.raises(UserError, match="there is no tool 'fly'"):
        needs("react", {"with_tools": ["fly"]})
    assert needs("react", {"with_tools": ["search"]}) == {"retrieve"} and needs("react", {}) == frozenset()
    assert asyncio.run(use("search", "f", tools(Script("")))) == "Error: there is no index to search"


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("(48 + 24) / 2", "36"),
        ("1,200 × 3 − 5", "3595"),
        ("2^10", "1024"),
        ("50% of 30", "15"),
        ("$5.50 * 2 =", "11"),
        ("0.1 + 0.2", "0.3"),
        ("1/3", "0.3333333333"),
        ("sqrt(144) + round(2.6)", "15"),
        ("7 // 2 + 7 % 2", "4"),
        ("-3 ** 2", "-9"),
        ("4 ** 0.5", "2"),
    ],
)
def test_the_calculator_is_exact(expression, value):
    assert shown(calculate(expression)) == value


def test_a_value_too_large_for_a_decimal_is_refused():
    with pytest.raises(ValueError, match="too large"):
        shown(calculate("10**1000/3"))


@pytest.mark.parametrize(
    "expression",
    [
        *("1/0", "", "x + 1", "__import__('os')", "9**9**9", "10**1001", "factorial(1e9)", "(1).real", "[1][0]"),
        *("1 if 1 else 2", "sqrt(-1)", "9" * 301, "(" * 200 + ")" * 200, "abs()", "min(1, key=2)", "1e999999"),
        *("5 | 3", "1 << 3", "round(1/3, 1000000000)", "round(1, -1)"),
    ],
)
def test_what_is_no_arithmetic_is_refused(expression):
    with pytest.raises(ValueError):
        calculate(expression)


def interval(mean, spread=0.02, n=100):
    return Interval(mean=mean, low=mean - spread, high=mean + spread, n=n)


def row(name, accuracy, tokens, kind="all", spread=0.02, strategy="direct", n=100, **options):
    return Row(
        name=name,
        strategy=strategy,
        options=options,
        kind=kind,
        accuracy=interval(accuracy, spread, n),
        tokens=interval(tokens),
        seconds=interval(1.0),
    )


def test_auto_takes_the_best_value_of_those_that_are_not_measurably_worse():
    cheap, good, dear = row("cheap", 0.4, 10), row("good", 0.79, 100), row("dear", 0.8, 800)
    assert choose([cheap, good, dear], "all") is good
    assert choose([row("wide", 0.4, 10, spread=0.5), good, dear], "all").name == "wide"
    assert choose([cheap, good, dear], "all", tokens_left=50) is cheap
    assert choose([good, dear], "all", tokens_left=50) is good, "the least, where all write too much"


def test_auto_has_a_choice_for_each_kind_and_one_for_all_others():
    rows = [row("a", 0.9, 10, kind="arithmetic"), row("s", 0.9, 10, kind="story"), row("x", 0.5, 10)]
    assert [choose(rows, kind).name for kind in ("arithmetic", "story", "logic")] == ["a", "s", "x"]
    asked = ["What is 2 + 3?", "Tom has 3 red apples and buys 5 more. How many apples has he now?"]
    asked += ["Ann is taller than Bob. Who is taller?", "Which?\nA) x\nB) y", "What is the capital of France?"]
    assert list(map(kind_of, asked)) == ["arithmetic", "story", "logic", "choice", "other"]


def test_auto_takes_no_kind_of_which_too_little_was_measured():
    rows = [row("lucky", 1.0, 10, kind="logic", n=19), row("lucky", 0.2, 10), row("good", 0.8, 10)]
    assert choose(rows, "logic").name == "good"
    assert choose([row("lucky", 1.0, 10, kind="logic", n=20), *rows[1:]], "logic").name == "lucky"


def test_auto_does_not_choose_what_was_measured_with_a_temperature_or_budget_of_its_own():
    own = row("own", 0.9, 10).model_copy(update={"as_chosen": False})
    assert choose([own, row("good", 0.8, 10)], "all").name == "good"
    with pytest.raises(UserError, match="temperature or budget of its own"):
        needs("auto", {"table": table(own)})


@pytest.mark.parametrize(
    ("question", "kind"),
    [
        ("Tom ate 1/2 of his 12 apples and then 3 more. How many apples are left over?", "story"),
        ("Between 2024-05-17 and 2024-06-18 she read one page each day. How many pages did she read?", "story"),
        ("Ann runs 3 + 4 miles every day of the week for 5 weeks. How far is that?", "story"),
        ("Please work out for me what the value of the following expression is: 3 * 4 + 5", "arithmetic"),
        ("Please work out for me what the value of the following expression is: (3 - 4) * -5", "arithmetic"),
        ("What is (19 - 3) * 7 - 25?", "arithmetic"),
        ("48/2?", "arithmetic"),
    ],
)
def test_a_story_with_a_fraction_is_no_arithmetic(question, kind):
    assert kind_of(question) == kind


def table(*rows):
    return {"version": 1, "model": "m", "tasks": "t", "rows": [each.model_dump() for each in rows]}


def test_auto_answers_with_the_strategy_of_the_table_and_says_which():
    model = Script("thought", "five")
    given = table(row("think", 0.9, 10, strategy="zero_shot_cot", max_reasoning_tokens=7), row("at once", 0.1, 5))
    events = run(auto(QUESTION, tools(model), table=given))
    assert text(events) == "five" and model.calls[0]["max_tokens"] == 7
    assert extras(events) == {"strategy": "think"}


@pytest.mark.parametrize(
    "given", [{}, {"version": 2}, [], "t.json", {"version": 1, "model": "m", "tasks": "t", "rows": []}]
)
def test_a_table_that_is_none_is_refused(given):
    with pytest.raises(UserError, match="table"):
        read_table(given)


def test_auto_needs_a_table_and_what_its_strategies_need():
    with pytest.raises(UserError, match="needs the option 'table'"):
        needs("auto", {})
    assert needs("auto", {"table": table(row("b", 0.5, 9, strategy="best_of_n"))}) == {"score"}
    with pytest.raises(UserError, match="auto itself"):
        needs("auto", {"table": table(row("b", 0.5, 9, strategy="auto"))})
