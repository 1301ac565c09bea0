"""Strategies that go step by step: few-shot, least-to-most, self-refine and the tree of thoughts."""

import pytest

from components.config import UserError
from components.reasoning.conversation import Splitter
from components.reasoning.events import Piece
from components.reasoning.strategies.few_shot_cot import few_shot_cot
from components.reasoning.strategies.least_to_most import least_to_most
from components.reasoning.strategies.self_refine import self_refine
from components.reasoning.strategies.tree_of_thoughts import tree_of_thoughts
from components.reasoning.strategies.zero_shot_cot import zero_shot_cot
from components.reasoning.tree import JUDGE
from tests.components.reasoning.fakes import QUESTION, Script, hang, reasons, run, text, tools

CHANNELS = ("reasoning", "content")
EXAMPLES = [
    {"question": "What is 1 + 1?", "reasoning": "One and one.", "answer": "2"},
    {"question": "Who wrote Faust?", "reasoning": "A German.", "answer": "Goethe"},
    {"question": "What is 2 + 3?", "reasoning": "never shown", "answer": "5"},
    {"question": "What is 2 + 2?", "reasoning": "Two and two.", "answer": "4"},
]


async def by_shared_words(question, texts):
    return [len(set(question.split()) & set(each.split())) for each in texts]


@pytest.mark.parametrize("width", [1, 2, 3, 7, 100])
@pytest.mark.parametrize("said", ["so\nAnswer: 5 apples", "an Answ that is none", "ANSWER:x", "Answer: Answer: y"])
def test_a_marker_parts_thought_from_answer_however_it_is_cut(said, width):
    splitter, told = Splitter("Answer:"), []
    for start in range(0, len(said), width):
        told += splitter.feed(Piece(said[start : start + width]))
    told += splitter.rest()
    before, mark, behind = said.partition("Answer:") if "ANSWER" not in said else said.partition("ANSWER:")
    assert text(told, "reasoning") == before
    assert text(told) == behind.lstrip() and splitter.found is bool(mark)


def test_the_answer_streams_as_it_is_made():
    model = Script("three and two\nAnswer: it is five")
    events = run(few_shot_cot(QUESTION, tools(model), examples=EXAMPLES, choose="first"))
    answered = [e for e in events if e.channel == "content" and e.text]
    assert [e.text for e in answered] == ["it", " is", " five"]
    assert text(events, "reasoning") == "three and two\n" and reasons(events) == ["stop"]
    tokens = {channel: sum(e.completion_tokens for e in events if e.channel == channel) for channel in CHANNELS}
    assert tokens == {"reasoning": 4, "content": 2}, "21 of 32 characters are before the answer"


def test_the_closest_examples_come_before_the_question_the_closest_last():
    model = Script("x\nAnswer: 5")
    run(few_shot_cot(QUESTION, tools(model, similar=by_shared_words), examples=EXAMPLES, shots=2))
    turns = [turn["content"] for turn in model.calls[0]["messages"]]
    assert turns == [
        "What is 1 + 1?",
        "One and one.\nAnswer: 2",
        "What is 2 + 2?",
        "Two and two.\nAnswer: 4",
        "What is 2 + 3?",
    ]


def test_an_embedder_that_hangs_costs_the_time_that_is_left_and_no_more():
    given = tools(Script("never"), similar=hang, limits={"seconds": 0.1})
    assert text(run(few_shot_cot(QUESTION, given, examples=EXAMPLES))) == "" and given.budget.stopped_by == "seconds"


def test_a_scorer_of_thoughts_that_hangs_costs_the_time_that_is_left_and_no_more():
    game = Game({(): ["so", "Answer: 7"]}, {})
    given = tools(game.script, score=hang, limits={"seconds": 0.3})
    events = run(tree_of_thoughts(QUESTION, given, value="scores", depth=2, breadth=2))
    assert text(events) == "7" and given.budget.stopped_by == "seconds"


def test_few_shot_without_an_embedder_or_examples_is_refused():
    with pytest.raises(UserError, match="there is no embedder"):
        run(few_shot_cot(QUESTION, tools(Script("x")), examples=EXAMPLES))
    with pytest.raises(UserError, match="has no examples"):
        run(few_shot_cot(QUESTION, tools(Script("x")), examples=[EXAMPLES[2]], choose="first"))


def test_few_shot_without_its_marker_takes_the_answer_that_is_there():
    events = run(few_shot_cot(QUESTION, tools(Script("that makes 5.")), examples=EXAMPLES, choose="first"))
    assert text(events) == "5" and text(events, "reasoning") == "that makes 5."
    cut = run(few_shot_cot(QUESTION, tools(Script("that makes 5 or"), max_tokens=3), examples=EXAMPLES, choose="first"))
    assert (text(cut), reasons(cut)) == ("5", ["length"])


def test_least_to_most_answers_each_part_with_those_before_it_in_sight():
    model = Script("1. What is 2?\n2) What is 3?\nand so on", "two", "three", "five")
    given = tools(model, max_tokens=50)
    events = run(least_to_most(QUESTION, given))
    assert text(events) == "five" and len(model.calls) == 4
    assert [turn["content"] for turn in model.calls[2]["messages"]] == [
        "What is 2 + 3?\n\nFirst: What is 2?",
        "two",
        "What is 2 + 3?\n\nFirst: What is 3?",
    ]
    assert [turn["role"] for turn in model.calls[3]["messages"]] == ["user", "assistant"] * 2 + ["user"]
    assert model.calls[3]["messages"][-1] == QUESTION[0] and model.calls[3]["final"]


def test_least_to_most_without_a_list_answers_at_once_and_limits_its_parts():
    model = Script("I cannot", "five")
    assert text(run(least_to_most(QUESTION, tools(model)))) == "five"
    assert model.calls[1]["messages"] == QUESTION
    many = Script("1. a\n2. b\n3. c", "x", "", "five")
    run(least_to_most(QUESTION, tools(many), parts=2))
    assert len(many.calls) == 4 and len(many.calls[3]["messages"]) == 3, "an empty part is left out"


def test_least_to_most_keeps_tokens_for_the_answer():
    model = Script("1. a\n2. b\n3. c", "w " * 40, "w " * 40, "w " * 40, "five")
    given = tools(model, limits={"tokens": 60})
    events = run(least_to_most(QUESTION, given, part_tokens=20))
    assert given.budget.stopped_by == "tokens" and text(events).startswith("w")
    assert len(model.calls) == 3, "the list, one part of 20 tokens, the answer"


def test_self_refine_rewrites_until_nothing_has_to_be_changed():
    model = Script("4", "Off by one.", "5", "CORRECT.")
    events = run(self_refine(QUESTION, tools(model), rounds=3))
    assert text(events) == "5" and len(model.calls) == 4
    assert [turn["role"] for turn in model.calls[2]["messages"]] == ["user", "assistant"] * 2 + ["user"]
    assert "4\n\nOff by one." in text(events, "reasoning")


def test_self_refine_streams_its_last_possible_rewrite():
    model = Script("4", "Wrong.", "it is 5")
    events = run(self_refine(QUESTION, tools(model), rounds=1))
    assert [e.text for e in events if e.channel == "content" and e.text] == ["it", " is", " 5"]
    assert model.calls[-1]["final"]


@pytest.mark.parametrize(
    ("said", "calls", "answer"),
    [
        (["4", "CORRECT"], 2, "4"),
        (["4", "correct: nothing to do"], 2, "4"),
        (["4", ""], 2, "4"),  # no criticism
        (["4", "Correct the sum.", "5"], 3, "5"),  # an order, not a verdict
        (["4", "Correct answer is 5, not 4.", "5"], 3, "5"),
        (["4", "Correct answer."], 2, "4"),
        (["4", "Wrong.", ""], 3, "4"),  # an empty rewrite loses nothing
        ([""], 1, ""),
    ],
)
def test_self_refine_stops(said, calls, answer):
    model = Script(*said)
    events = run(self_refine(QUESTION, tools(model), rounds=1))
    assert (len(model.calls), text(events)) == (calls, answer)


def test_self_refine_gives_the_draft_when_the_budget_is_spent():
    given = tools(Script("it is 4"), limits={"tokens": 3})
    assert text(run(self_refine(QUESTION, given))) == "it is 4" and given.budget.stopped_by == "tokens"


@pytest.mark.parametrize("rounds", [1, 2])
def test_self_refine_does_not_replace_a_whole_draft_by_a_part_of_one(rounds):
    """Of ten tokens the draft takes five and the criticism two: three are too few to write it again."""
    model = Script("two and three is five", "Too long.", "it is five and no more")
    given = tools(model, limits={"tokens": 10})
    events = run(self_refine(QUESTION, given, rounds=rounds))
    assert text(events) == "two and three is five" and reasons(events) == ["stop"]
    assert len(model.calls) == 2 and given.budget.stopped_by == "tokens"


def test_self_refine_keeps_its_draft_where_a_rewrite_was_cut_off():
    model = Script("it is 4", "Too short.", "it is 4 because 2 and 2")
    events = run(self_refine(QUESTION, tools(model, max_tokens=4), rounds=2))
    assert (text(events), reasons(events)) == ("it is 4", ["stop"])


def test_self_refine_begins_no_rewrite_without_the_time_that_the_draft_took():
    now = [0.0]

    def says(messages, number):
        now[0] += 4.0  # of ten seconds
        return ["4", "Wrong.", "5"][number]

    given = tools(Script(says), limits={"seconds": 10}, clock=lambda: now[0])
    assert text(run(self_refine(QUESTION, given, rounds=1))) == "4" and given.budget.stopped_by == "seconds"


class Game:
    """A model that proposes the scripted children of a state, and judges states by a table."""

    def __init__(self, children, values):
        self.children, self.values, self.judged, self.expanded = children, values, [], []
        self.script = Script(self.reply)

    def reply(self, messages, number):
        asked = messages[-1]["content"]
        steps = tuple(line.split(". ", 1)[1] for line in asked.splitlines() if line[:1].isdigit())
        if asked.endswith(JUDGE):
            self.judged.append(steps)
            return self.values.get(steps, "likely")
        if "Steps so far" not in asked and "Write only the next step" not in asked:
            return "from the steps"
        self.expanded.append(steps)
        return self.children[steps][self.expanded.count(steps) - 1]


def test_the_beam_follows_the_best_states_only():
    game = Game(
        {(): ["a", "b", "c"], ("a",): ["a1", "Answer: 1", "a1"], ("c",): ["c1", "c2", "Answer: 2"]},
        {("a",): "likely", ("b",): "impossible", ("c",): "sure", ("c", "Answer: 2"): "sure"}
        | {("a", "Answer: 1"): "likely", ("a", "a1"): "impossible", ("c", "c1"): "impossible"}
        | {("c", "c2"): "impossible"},
    )
    given = tools(game.script)
    events = run(tree_of_thoughts(QUESTION, given, depth=2, breadth=3, beam=2))
    assert text(events) == "2"
    assert set(game.expanded) == {(), ("a",), ("c",)}, "b was dropped"
    assert game.judged.count(("a", "a1")) == 1, "equal thoughts are one state"
    assert given.budget.samples == 9, "judgements are no samples"


def test_depth_first_goes_back_from_a_dead_end():
    game = Game(
        {(): ["a", "b"], ("a",): ["a1", "a2"], ("b",): ["Answer: 3", "b2"]},
        {("a",): "sure", ("b",): "likely", ("a", "a1"): "impossible", ("a", "a2"): "impossible"},
    )
    events = run(tree_of_thoughts(QUESTION, tools(game.script), search="depth_first", depth=3, breadth=2))
    assert text(events) == "3"
    assert [steps for place, steps in enumerate(game.expanded) if place % 2 == 0] == [(), ("a",), ("b",)]
    assert "back from: a" in text(events, "reasoning")


def test_depth_first_follows_what_nobody_could_judge():
    game = Game({(): ["a"], ("a",): ["Answer: 3"]}, {("a",): "perhaps?", ("a", "Answer: 3"): ""})
    events = run(tree_of_thoughts(QUESTION, tools(game.script), search="depth_first", depth=2, breadth=1))
    assert text(events) == "3" and game.expanded == [(), ("a",)]


def test_depth_first_gives_the_answer_that_was_there_when_the_budget_was_spent():
    """The two thoughts take all eight tokens: there is none left to judge them."""
    game = Game({(): ["so we go on", "Answer: 7 it is"]}, {})
    given = tools(game.script, limits={"tokens": 8})
    events = run(tree_of_thoughts(QUESTION, given, search="depth_first", depth=3, breadth=2, thought_tokens=4))
    assert text(events) == "7 it is" and game.judged == [] and given.budget.stopped_by == "tokens"


def test_depth_first_stops_at_the_first_answer():
    game = Game({(): ["Answer: 7", "b"]}, {("Answer: 7",): "sure"})
    assert text(run(tree_of_thoughts(QUESTION, tools(game.script), search="depth_first", breadth=2))) == "7"
    assert set(game.expanded) == {()}


def test_an_answer_that_was_cut_off_within_its_thought_is_none_yet():
    game = Game({(): ["so we say Answer: 1 2 0"], ("so we say",): ["Answer: 9"]}, {})
    events = run(tree_of_thoughts(QUESTION, tools(game.script), depth=2, breadth=1, beam=1, thought_tokens=5))
    assert text(events) == "9" and game.expanded == [(), ("so we say",)]


def test_without_an_answer_in_the_tree_the_model_answers_from_the_best_steps():
    game = Game({(): ["a"], ("a",): ["b"]}, {})
    events = run(tree_of_thoughts(QUESTION, tools(game.script), depth=2, breadth=1, beam=1))
    assert text(events) == "from the steps" and game.script.calls[-1]["final"]
    assert game.script.calls[-1]["messages"][-2] == {"role": "assistant", "content": "a\nb"}


def test_states_can_be_valued_by_a_scorer():
    async def score(messages, answers):
        return [5.0 if answer == "b" else -5.0 for answer in answers]

    game = Game({(): ["a", "b"], ("b",): ["Answer: 2", "Answer: 2"]}, {})
    events = run(
        tree_of_thoughts(QUESTION, tools(game.script, score=score), value="scores", depth=2, breadth=2, beam=1)
    )
    assert text(events) == "2" and game.judged == [] and ("a",) not in game.expanded
    with pytest.raises(UserError, match="there is no reward model"):
        run(tree_of_thoughts(QUESTION, tools(game.script), value="scores"))


def test_judgements_that_cannot_be_read_and_empty_thoughts_end_nothing():
    game = Game({(): ["", "b"], ("b",): ["", ""]}, {("b",): "perhaps?"})
    assert text(run(tree_of_thoughts(QUESTION, tools(game.script), depth=3, breadth=2))) == "from the steps"


def test_a_tree_stops_growing_with_the_budget():
    game = Game({(): ["a", "b"], ("a",): ["x", "y"], ("b",): ["x", "y"]}, {("a",): "sure"})
    given = tools(game.script, limits={"samples": 2})
    run(tree_of_thoughts(QUESTION, given, depth=3, breadth=2))
    assert given.budget.stopped_by == "samples" and set(game.expanded) == {()}


def test_what_was_found_is_the_answer_where_the_budget_leaves_no_other():
    """The thoughts take all tokens: what they come to stands in the place of an answer that cannot begin."""
    tree = Script(lambda messages, _: "so 2 + 3 is 5" if "Steps so far" not in messages[-1]["content"] else "sure")
    events = run(tree_of_thoughts(QUESTION, tools(tree, limits={"tokens": 6}), depth=3, breadth=1))
    assert text(events) == "5" and reasons(events) == ["length"]
    thinking = Script("5, of course", "5")
    events = run(zero_shot_cot(QUESTION, tools(thinking, limits={"tokens": 1})))
    assert text(events) == "5" and reasons(events) == ["length"] and len(thinking.calls) == 1


@pytest.mark.parametrize(
    ("said", "answer"),
    [
        ("The first answer: 24, then 72.\nAnswer: 72", "72"),
        ("It is so. Final answer: 72", "72"),
        ("so Answer: 72", "72"),
        ("İki İnek İstanbul İzmir İyi İlk İş İn\nAnswer: 5", "5"),
        ("**Answer:** 72", "** 72"),
        ("The answer: 72", "72"),
        ("To find the answer: add them.", ""),
    ],
)
def test_an_answer_is_announced_at_the_start_of_a_line_or_sentence(said, answer):
    for size in (1, 4, 100):  # however it comes
        splitter = Splitter("Answer:")
        told = [each for at in range(0, len(said), size) for each in splitter.feed(Piece(said[at : at + size]))]
        told += splitter.rest()
        assert "".join(each.text for each in told if each.channel == "content") == answer
        assert splitter.found == bool(answer)
