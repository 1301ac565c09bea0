import random
import re
from collections import Counter

import pytest

from components.config import UserError
from components.data.contexts import QuestionConfig, make_contexts, usable_facts
from components.data.grounding import ABSTENTION, abstains, cited
from components.data.judge import content_words, judge
from components.data.questions import context_id, make_questions
from components.data.split import split_of
from tests.components.data.corpora import passages


@pytest.fixture(scope="module", params=[True, False], ids=["symbols", "prose"])
def contexts(request):
    return make_questions(passages(symbols=request.param), QuestionConfig(), seed=3)


def test_no_passage_is_in_two_contexts():
    facts = usable_facts(passages(), 45)
    made = make_contexts(facts, QuestionConfig(), random.Random(0))
    used = [fact.passage_id for context in made for fact in (*context.shown, *context.withheld)]
    assert len(used) == len(set(used)) == len(made) * 5
    assert len(used) > 0.9 * len(facts)


def test_questions_of_a_context_share_their_prompt_up_to_the_question(contexts):
    for own in contexts:
        assert len({context_id(q) for q in own}) == 1
        heads = {q.prompt[-1]["content"].removesuffix(q.question) for q in own}
        assert len(heads) == 1 and len({q.split for q in own}) == 1


def test_the_split_is_a_hash_of_the_shared_part(contexts):
    for own in contexts:
        system, user = own[0].prompt
        block = user["content"].removeprefix("Passages:\n").removesuffix(f"\n\nQuestion: {own[0].question}")
        assert own[0].split == split_of(system["content"] + block, QuestionConfig().test_share)


def test_the_target_holds_the_answer_and_every_reference_is_perfect(contexts):
    for question in (q for own in contexts for q in own):
        assert judge(question.reference, question).score == 1.0
        if not question.answerable:
            assert question.target == 0 and question.reference == ABSTENTION and question.kind.startswith("missing_")
            continue
        assert cited(question.reference) == [question.target] and not abstains(question.reference)
        text = question.passages[question.target - 1]["text"]
        if question.kind in ("what", "detail"):
            assert question.reference.removeprefix(f"[{question.target}] ") in text


def test_what_is_withheld_cannot_be_found_in_the_prompt():
    texts = {row["passage_id"]: row["text"] for row in passages()}
    for question in (q for own in make_questions(passages(), QuestionConfig(), seed=3) for q in own):
        if question.kind == "missing_what":
            name = question.question.split("`")[1]
            assert all(name not in re.split(r"[:\s]", passage["text"]) for passage in question.passages)
        if question.kind == "missing_detail":
            name = question.question.split("`")[1]
            (own,) = [p for p in question.passages if p["title"] == name]
            assert own["text"].count(".") < texts[own["passage_id"]].count(".")  # it was cut
        if question.kind == "missing_which":
            asked = content_words(question.question)
            assert all(len(asked & content_words(p["text"])) < 0.6 * len(asked) for p in question.passages)


def test_which_never_names_what_it_asks_for(contexts):
    for question in (q for own in contexts for q in own if q.kind == "which"):
        assert question.reference.split("`")[1].rsplit(".", 1)[-1] not in question.question


def test_the_mix_is_the_one_asked_for():
    made = make_questions(passages(20, 25), QuestionConfig(answerable_share=0.55), seed=1)
    asked = [q for own in made for q in own]
    assert abs(sum(q.answerable for q in asked) / len(asked) - 0.55) < 0.05
    positions = Counter(q.target for q in asked if q.answerable)
    # Positions are drawn: of n, each has n/3 with a standard deviation of sqrt(n * 2/9): four of them.
    n = sum(positions.values())
    assert all(abs(positions[p] - n / 3) < 4 * (n * 2 / 9) ** 0.5 for p in (1, 2, 3))


def test_the_same_seed_gives_the_same_questions():
    rows = passages(3, 10)
    shuffled = random.Random(1).sample(rows, len(rows))
    first, again, other = (make_questions(r, QuestionConfig(), s) for r, s in ((rows, 1), (shuffled, 1), (rows, 2)))
    assert first == again != other


def test_overlapping_chunks_and_continuations_are_left_out():
    rows = passages(1, 2, symbols=False)
    overlapping = {
        **rows[0],
        "passage_id": "x",
        "start": 10,
        "end": 400,
        "text": "Another part of the same text is here.",
    }
    assert {f.passage_id for f in usable_facts([*rows, overlapping], 45)} == {"0-0", "0-1"}
    symbols = passages(1, 2)
    later = {
        **symbols[0],
        "passage_id": "y",
        "start": 900,
        "end": 990,
        "text": "The values are kept in a table for later.",
    }
    assert {f.passage_id for f in usable_facts([*symbols, later], 45)} == {"0-0", "0-1"}


def test_what_two_passages_say_alike_is_used_once():
    rows = passages(1, 6)
    copies = [{**row, "passage_id": f"copy-{i}", "doc_id": f"copy{i}"} for i, row in enumerate(rows)]
    assert len(usable_facts(rows + copies, 45)) == len(usable_facts(rows, 45)) == 6


def test_passages_without_prose_are_refused():
    rows = [{**row, "text": "x = 1\ny = 2"} for row in passages(2, 6)]
    with pytest.raises(UserError, match="no questions can be made from these 12 passages"):
        make_questions(rows, QuestionConfig(), seed=0)
