"""Agentic RAG by a scripted model: what is searched in which order, what each step sees, and what ends it."""

from dataclasses import replace

import pytest

from components.config import UserError
from components.reasoning.menu import needs
from components.reasoning.strategies.agentic_rag import agentic_rag
from tests.components.reasoning.fakes import Script, reasons, run, text, tools
from tests.components.reasoning.index import Index, extras, given, searching

ASK = [{"role": "user", "content": "What does the function keep that copytree calls?"}]
FINDS = {"copytree": ["tree", "move"], "called": ["two", "tree"], "copy2": ["two", "stat"]}


def ended(events):
    return extras(events)["search"]["ended_by"]


def questions(events):
    return extras(events)["search"]["questions"]


def test_each_search_is_for_what_is_open_and_each_step_sees_what_was_found():
    model = Script("1. What is called?\n2. What does it keep?", "1. What does copy2 keep?", "ENOUGH", "The times [3].")
    index = Index(FINDS)
    allowed = searching(model, index)
    events = run(agentic_rag(ASK, allowed))
    assert index.asked == [ASK[0]["content"], "What is called?", "What does copy2 keep?"] == questions(events)
    assert (text(events), reasons(events), ended(events)) == ("The times [3].", ["stop"], "enough")
    assert allowed.budget.tool_calls == 3 and allowed.budget.stopped_by is None
    assert "Passages:\n[1] title tree: text of tree\n[2] title move: text of move\n\nSearched" in model.asked(0)
    assert "[2] title move: text of move\n[3] title two: text of two\n\nSearched for already:\n" in model.asked(1)
    assert f"- {ASK[0]['content']}\n- What is called?\n\n" in model.asked(1)
    assert "[3] title two: text of two\n[4] title stat: text of stat" in model.asked(2)
    assert model.asked(0).startswith(ASK[0]["content"])
    assert model.calls[3]["final"] and [call["final"] for call in model.calls[:3]] == [False] * 3


def test_passages_are_numbered_once_and_the_answer_is_given_them_in_that_order():
    model = Script("1. What is called?", "ENOUGH", "done")
    events = run(agentic_rag(ASK, searching(model, Index(FINDS))))
    assert given(events) == ["tree", "move", "two"]
    assert model.calls[-1]["messages"][-1]["content"].startswith("text of tree text of move text of two | ")


def test_steps_and_the_answer_see_what_has_room_in_a_prompt():
    model = Script("1. What is called?", "ENOUGH", "done")
    allowed = replace(searching(model, Index(FINDS)), fit=lambda _, found: found[:2])
    events = run(agentic_rag(ASK, allowed))
    assert "[2] title move: text of move\n\nSearched" in model.asked(1) and "title two" not in model.asked(1)
    assert given(events) == ["tree", "move"]


def test_a_question_that_the_first_search_answers_takes_one_step():
    model, index = Script("enough.", "done"), Index(FINDS)
    events = run(agentic_rag(ASK, searching(model, index)))
    assert len(index.asked) == 1 and len(model.calls) == 2 and ended(events) == "enough"
    assert [e.text for e in events if getattr(e, "channel", "") == "content" and e.text] == ["done"]


@pytest.mark.parametrize("said", ["", "I don't know.", "The times of files [1].", "1."])
def test_a_step_that_cannot_be_read_leaves_the_list_before_it(said):
    index = Index(FINDS)
    events = run(agentic_rag(ASK, searching(Script(said, "done"), index)))
    assert (text(events), ended(events), len(index.asked)) == ("done", "questions", 1)
    model, index = Script("1. What is called?\n2. What of copy2?", said, said, "done"), Index(FINDS)
    events = run(agentic_rag(ASK, searching(model, index)))
    assert index.asked[1:] == ["What is called?", "What of copy2?"] and text(events) == "done"


@pytest.mark.parametrize("said", ["What is called?", "- What is called?", "Open:\n(1) no\n* What is called?"])
def test_questions_are_read_from_lists_or_by_their_mark(said):
    index = Index(FINDS)
    run(agentic_rag(ASK, searching(Script(said, "ENOUGH", "done"), index)))
    assert index.asked[1:] == ["What is called?"]


@pytest.mark.parametrize(
    ("said", "enough"),
    [
        ("1. ENOUGH", True),
        ("They are ENOUGH", True),
        ("It is not enough.\n1. What is called?", False),
        ("That is not ENOUGH:\n1. What is called?", False),
    ],
)
def test_enough_is_a_word_and_not_a_question(said, enough):
    index = Index(FINDS)
    run(agentic_rag(ASK, searching(Script(said, "ENOUGH", "done"), index)))
    assert (len(index.asked) == 1) is enough and "1. ENOUGH" not in index.asked


def test_nothing_is_searched_for_twice():
    model = Script(
        "1. what does the function KEEP that copytree calls\n2. What is called?", "1. What is called?", "done"
    )
    index = Index(FINDS)
    events = run(agentic_rag(ASK, searching(model, index)))
    assert index.asked == [ASK[0]["content"], "What is called?"] and ended(events) == "questions"


def test_at_most_so_many_parts_searches_and_passages():
    model, index = Script("\n".join(f"{n}. Part {n}?" for n in range(9)), "no", "no", "done"), Index(FINDS)
    run(agentic_rag(ASK, searching(model, index), parts=2))
    assert index.asked[1:] == ["Part 0?", "Part 1?"]
    model, index = Script("1. What is called?", "1. What of copy2?", "done"), Index(FINDS)
    allowed = searching(model, index)
    events = run(agentic_rag(ASK, allowed, searches=2))
    assert (len(index.asked), len(model.calls), ended(events)) == (2, 2, "searches")
    assert allowed.budget.stopped_by is None and reasons(events) == ["stop"]
    model = Script("1. What is called?", "done")
    events = run(agentic_rag(ASK, searching(model, Index(FINDS)), passages=3))
    assert given(events) == ["tree", "move", "two"] and ended(events) == "passages" and len(model.calls) == 2


def test_the_tool_calls_of_the_budget_end_it_with_what_there_is():
    model, index = Script("1. What is called?", "done"), Index(FINDS)
    allowed = searching(model, index, limits={"tool_calls": 1})
    events = run(agentic_rag(ASK, allowed))
    assert (text(events), ended(events), given(events)) == ("done", "budget", ["tree", "move"])
    assert allowed.budget.stopped_by == "tool_calls" and len(index.asked) == 1
    none = searching(Script("done"), Index(FINDS), limits={"tool_calls": 0})
    assert text(run(agentic_rag(ASK, none))) == "I don't know." and none.budget.stopped_by == "tool_calls"


def test_the_tokens_of_the_answer_are_kept_back():
    """A step may take 10 of 30; three are written, 27 are left; after the next one 17, which is less than 2 * 10."""
    long = "1. What is called, or what is it that is"
    model, index = Script("1. What of copy2?", long, "a b c d e f g h"), Index(FINDS)
    allowed = searching(model, index, limits={"tokens": 30})
    events = run(agentic_rag(ASK, allowed, step_tokens=10))
    assert len(index.asked) == 3 and ended(events) == "budget" and text(events) == "a b c d e f g h"
    assert allowed.budget.stopped_by == "tokens" and allowed.budget.tokens < 30


def test_the_time_of_the_answer_is_kept_back():
    """A round takes 4 of 13 seconds: after the first 9 are left, after the second 5, and two more would take 8."""
    now = [0.0]

    class Slow(Index):
        async def __call__(self, question):
            now[0] += 4.0
            return await super().__call__(question)

    model, index = Script("1. What is called?", "done"), Slow(FINDS)
    allowed = searching(model, index, limits={"seconds": 13}, clock=lambda: now[0])
    events = run(agentic_rag(ASK, allowed))
    assert len(index.asked) == 2 and ended(events) == "budget" and text(events) == "done"
    assert allowed.budget.stopped_by == "seconds"


def test_an_index_that_hangs_ends_with_the_time():
    hanging = searching(Script("1. What of copy2?", "done"), Index({**FINDS, "copy2": "hang"}), limits={"seconds": 0.2})
    events = run(agentic_rag(ASK, hanging))
    assert given(events) == ["tree", "move"] and ended(events) == "budget"
    assert text(events) == "I don't know." and hanging.budget.stopped_by == "seconds", "no time is left for an answer"


def test_nothing_found_ends_in_not_knowing_without_asking_for_an_answer():
    model, index = Script("1. And what else?", "hm"), Index({})
    events = run(agentic_rag(ASK, searching(model, index)))
    assert (text(events), reasons(events), given(events)) == ("I don't know.", ["stop"], [])
    assert len(model.calls) == 2 and len(index.asked) == 2 and "Passages:\n(none)" in model.asked(0)


def test_an_empty_answer_is_one_that_one_does_not_know():
    assert text(run(agentic_rag(ASK, searching(Script("ENOUGH", ""), Index(FINDS))))) == "I don't know."


def test_a_search_that_fails_is_the_requests_failure_unless_there_is_something_to_answer_from():
    with pytest.raises(ConnectionError):
        run(agentic_rag(ASK, searching(Script("x"), Index({"copytree": ConnectionError("gone")}))))
    with pytest.raises(ConnectionError):
        run(agentic_rag(ASK, searching(Script("1. What of copy2?"), Index({"copy2": ConnectionError("gone")}))))
    model, index = Script("1. What of copy2?", "done"), Index({**FINDS, "copy2": ConnectionError("gone")})
    events = run(agentic_rag(ASK, searching(model, index)))
    assert (text(events), ended(events), given(events)) == ("done", "failure", ["tree", "move"])
    assert "it failed: ConnectionError" in text(events, "reasoning")


def test_earlier_turns_and_passages_as_the_name_shows_them_are_in_every_step():
    before = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "hi"}]
    before.append({"role": "assistant", "content": "hello"})
    model = Script("ENOUGH", "done")
    shown = replace(searching(model, Index(FINDS)), show=lambda passage: f"<{passage['passage_id']}>")
    run(agentic_rag([*before, *ASK], shown))
    assert model.calls[0]["messages"][:3] == before and "[1] <tree>\n[2] <move>" in model.asked(0)
    assert "text of tree" not in model.asked(0)


def test_the_clients_format_is_the_final_calls_own():
    formatted = replace(searching(Script("ENOUGH", '{"sum": 5}'), Index(FINDS)), formatted=True)
    assert text(run(agentic_rag(ASK, formatted))) == '{"sum": 5}'
    cut_off = replace(searching(Script("ENOUGH", ""), Index(FINDS)), formatted=True)
    assert text(run(agentic_rag(ASK, cut_off))) == "", "words that are not in the format would be worse"
    nothing = Script("no", '{"sum": null}')
    events = run(agentic_rag(ASK, replace(searching(nothing, Index({})), formatted=True)))
    assert text(events) == '{"sum": null}' and nothing.calls[-1]["final"]


def test_it_needs_an_index():
    assert needs("agentic_rag", {}) == {"retrieve"}
    with pytest.raises(UserError, match="answers from an index, and there is none"):
        run(agentic_rag(ASK, tools(Script("x"))))
