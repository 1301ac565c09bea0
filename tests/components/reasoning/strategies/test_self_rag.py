"""Self-RAG by a scripted model: what is searched, judged, kept, written again and held back."""

from dataclasses import replace

import pytest

from components.config import UserError
from components.reasoning.menu import needs
from components.reasoning.strategies import self_rag as module
from components.reasoning.strategies.self_rag import self_rag
from tests.components.reasoning.fakes import QUESTION, Script, reasons, run, text, tools
from tests.components.reasoning.index import Index, extras, given, searching

UNKNOWN = "I don't know."


class Model(Script):
    """Answers by what it is asked for; `drafts` in turn, verdicts by what the request holds."""

    def __init__(self, drafts=("It is five [1].",), *, decide="yes", helps=None, supported="yes", words="other words"):
        self.drafts, self.supported = iter(drafts), iter([supported] if isinstance(supported, str) else supported)
        self.kinds = []
        helps = helps or {}

        def reply(messages, number):
            asked = messages[-1]["content"]
            kind = next((k for k in ("DECIDE", "RELEVANT", "SUPPORTED", "REWORD") if getattr(module, k) in asked), None)
            self.kinds.append(kind or "draft")
            if kind == "DECIDE":
                return decide
            if kind == "RELEVANT":
                return next((said for each, said in helps.items() if f"text of {each}" in asked), "yes")
            if kind == "SUPPORTED":
                return next(self.supported)
            return words if kind == "REWORD" else next(self.drafts)

        super().__init__(reply)

    def asked_for(self, kind):
        return [call for call, each in zip(self.calls, self.kinds, strict=True) if each == kind]


def test_the_answer_is_given_the_passages_that_help_and_numbered_by_them():
    model, index = Model(helps={"a": "no", "b": "Yes.", "c": "yes"}), Index({"2 + 3": ["a", "b", "c"]})
    events = run(self_rag(QUESTION, searching(model, index)))
    assert model.kinds == ["DECIDE", *["RELEVANT"] * 3, "draft", "SUPPORTED"]
    assert index.asked == ["What is 2 + 3?"] and given(events) == ["b", "c"]
    (draft,), (check,) = model.asked_for("draft"), model.asked_for("SUPPORTED")
    assert draft["messages"][-1]["content"] == "text of b text of c | What is 2 + 3?"
    assert (
        "[1] title b: text of b\n[2] title c: text of c\n\nAnswer: It is five [1]." in check["messages"][-1]["content"]
    )
    assert "text of a" not in check["messages"][-1]["content"]
    assert (text(events), reasons(events), extras(events)) == ("It is five [1].", ["stop"], {"supported": True})
    assert all(call["temperature"] == 0.0 and call["max_tokens"] == 8 for call in model.asked_for("RELEVANT"))


def test_an_answer_is_judged_by_the_passages_that_had_room_in_its_prompt():
    model = Model()
    allowed = replace(searching(model, Index({"2 + 3": ["a", "b"]})), fit=lambda _, found: found[:1])
    assert given(run(self_rag(QUESTION, allowed))) == ["a"]
    (check,) = model.asked_for("SUPPORTED")
    assert "text of a" in check["messages"][-1]["content"] and "text of b" not in check["messages"][-1]["content"]


def test_what_needs_no_documents_is_answered_without_them_and_streams():
    model, index = Model(["it is five"], decide="No, I know this."), Index({"2 + 3": ["a"]})
    events = run(self_rag(QUESTION, searching(model, index)))
    assert index.asked == [] and given(events) == [] and text(events) == "it is five" and extras(events) == {}
    assert model.calls[-1]["messages"] == QUESTION and model.calls[-1]["final"]
    assert [e.text for e in events if getattr(e, "channel", "") == "content" and e.text] == ["it", " is", " five"]


@pytest.mark.parametrize("said", ["", "Perhaps?", UNKNOWN, "I do not know", "nothing"])
def test_it_searches_unless_the_model_says_that_it_need_not(said):
    index = Index({"2 + 3": ["a"]})
    assert text(run(self_rag(QUESTION, searching(Model(decide=said), index)))) == "It is five [1]."
    assert len(index.asked) == 1
    model = Model()
    run(self_rag(QUESTION, searching(model, Index({"2 + 3": ["a"]})), decide=False))
    assert "DECIDE" not in model.kinds


@pytest.mark.parametrize("said", ["", "[1] 2 + 3", "maybe"])
def test_passages_without_a_verdict_are_used_only_where_none_is_known_to_help(said):
    index = Index({"2 + 3": ["a", "b", "c"]})
    events = run(self_rag(QUESTION, searching(Model(helps={"a": "no", "b": said, "c": "yes"}), index)))
    assert given(events) == ["c"]
    events = run(self_rag(QUESTION, searching(Model(helps={"a": "no", "b": said, "c": said}), index)))
    assert given(events) == ["b", "c"] and len(index.asked) == 2, "no second search: they may help"


def test_where_nothing_helps_it_searches_with_other_words():
    model = Model(helps={"a": "no", "b": UNKNOWN}, words='\n"sums of numbers"\nbecause')
    index = Index({"2 + 3": ["a", "b"], "sums": ["b", "c"]})
    events = run(self_rag(QUESTION, searching(model, index)))
    assert index.asked == ["What is 2 + 3?", "sums of numbers"] and given(events) == ["c"]
    assert len(model.asked_for("RELEVANT")) == 3, "b was judged already"
    assert text(events) == "It is five [1]."


@pytest.mark.parametrize(
    ("words", "searches"), [("other words", 2), ("", 1), ("what is 2 + 3?", 1)], ids=["other", "empty", "the same"]
)
def test_where_nothing_helps_at_all_it_does_not_know(words, searches):
    model, index = Model(helps={"a": "no"}, words=words), Index({"2 + 3": ["a"]})
    events = run(self_rag(QUESTION, searching(model, index)))
    assert (text(events), reasons(events), extras(events)) == (UNKNOWN, ["stop"], {})
    assert len(index.asked) == searches and "draft" not in model.kinds and given(events) == ["a"]


def test_an_index_that_finds_nothing_ends_in_not_knowing():
    model, index = Model(), Index({})
    events = run(self_rag(QUESTION, searching(model, index), rewordings=2))
    assert text(events) == UNKNOWN and given(events) == [] and model.kinds == ["DECIDE", "REWORD", "REWORD"]
    assert len(index.asked) == 2, "the same words are not searched again"


def test_an_answer_that_is_not_supported_is_written_again_with_what_is_wrong():
    model = Model(["It is nine.", "It is five [1]."], supported=["no", "yes"])
    events = run(self_rag(QUESTION, searching(model, Index({"2 + 3": ["a"]}))))
    assert text(events) == "It is five [1]." and extras(events) == {"supported": True}
    assert [turn["content"] for turn in model.asked_for("draft")[1]["messages"][-2:]] == [
        "It is nine.",
        module.REWRITE.format(unknown=UNKNOWN),
    ]
    assert "It is nine." in text(events, "reasoning")


def test_an_answer_that_stays_unsupported_is_held_back():
    model = Model(["It is nine.", "It is ten."], supported=["no", "No."])
    events = run(self_rag(QUESTION, searching(model, Index({"2 + 3": ["a"]}))))
    assert (text(events), extras(events), model.kinds.count("draft")) == (UNKNOWN, {}, 2)
    model = Model(["It is nine."], supported="no")
    assert text(run(self_rag(QUESTION, searching(model, Index({"2 + 3": ["a"]})), rewrites=0))) == UNKNOWN


@pytest.mark.parametrize("said", ["", "hm", "[1]"])
def test_an_answer_without_a_verdict_is_given_and_said_to_be_unchecked(said):
    model = Model(supported=said)
    events = run(self_rag(QUESTION, searching(model, Index({"2 + 3": ["a"]}))))
    assert text(events) == "It is five [1]." and extras(events) == {"supported": None}


@pytest.mark.parametrize("drafts", [["", ""], ["I don’t know"], ["", UNKNOWN]])
def test_no_answer_is_not_checked_and_is_one_that_one_does_not_know(drafts):
    model = Model(drafts)
    events = run(self_rag(QUESTION, searching(model, Index({"2 + 3": ["a"]}))))
    assert text(events) == UNKNOWN and "SUPPORTED" not in model.kinds and extras(events) == {}
    assert model.kinds.count("draft") == len(drafts)


def test_searches_are_tool_calls_of_the_budget():
    index, model = Index({"2 + 3": ["a"], "other": ["b"]}), Model(helps={"a": "no"})
    allowed = searching(model, index, limits={"tool_calls": 1})
    assert text(run(self_rag(QUESTION, allowed))) == UNKNOWN
    assert (len(index.asked), allowed.budget.stopped_by, allowed.budget.tool_calls) == (1, "tool_calls", 1)
    none = searching(Model(), index, limits={"tool_calls": 0})
    assert text(run(self_rag(QUESTION, none))) == UNKNOWN and len(index.asked) == 1


def test_verdicts_leave_the_tokens_of_the_answer():
    """20 tokens: the verdicts on three passages could be 24, and 3 of the answer leave 16 for its own verdict."""
    model = Model(["it is five"])
    little = searching(model, Index({"2 + 3": ["a", "b", "c"]}), limits={"tokens": 20})
    events = run(self_rag(QUESTION, little))
    assert model.kinds == ["DECIDE", "draft", "SUPPORTED"] and given(events) == ["a", "b", "c"]
    assert text(events) == "it is five" and little.budget.stopped_by == "tokens"


def test_an_answer_that_the_budget_cuts_off_is_given_as_far_as_it_is_and_unchecked():
    model = Model(["one two three four five six"])
    few = searching(model, Index({"2 + 3": ["a"]}), limits={"tokens": 4})
    events = run(self_rag(QUESTION, few, decide=False))
    assert (text(events), reasons(events), extras(events)) == ("one two three four", ["length"], {"supported": None})
    assert few.budget.stopped_by == "tokens"


def test_the_end_of_the_time_ends_in_not_knowing():
    hanging = searching(Model(), Index({"2 + 3": "hang"}), limits={"seconds": 0.1})
    assert text(run(self_rag(QUESTION, hanging))) == UNKNOWN and hanging.budget.stopped_by == "seconds"
    model = Model()
    model.wait_s = 30
    slow = searching(model, Index({"2 + 3": ["a"]}), limits={"seconds": 0.1})
    assert text(run(self_rag(QUESTION, slow, decide=False))) == UNKNOWN and slow.budget.stopped_by == "seconds"


def test_a_search_that_fails_is_the_requests_failure_and_a_second_one_is_told():
    with pytest.raises(ConnectionError):
        run(self_rag(QUESTION, searching(Model(), Index({"2 + 3": ConnectionError("gone")}))))
    index = Index({"2 + 3": ["a"], "other": ConnectionError("gone")})
    events = run(self_rag(QUESTION, searching(Model(helps={"a": "no"}), index)))
    assert text(events) == UNKNOWN and "failed (ConnectionError)" in text(events, "reasoning")


def test_the_clients_format_is_kept_to_by_a_last_call():
    model = Model(["It is five [1].", '{"sum": 5}'])
    formatted = replace(searching(model, Index({"2 + 3": ["a"]})), formatted=True)
    assert text(run(self_rag(QUESTION, formatted))) == '{"sum": 5}' and model.calls[-1]["final"]


def test_it_needs_an_index():
    assert needs("self_rag", {}) == {"retrieve"}
    with pytest.raises(UserError, match="answers from an index, and there is none"):
        run(self_rag(QUESTION, tools(Model())))
