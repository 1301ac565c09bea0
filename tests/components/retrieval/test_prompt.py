"""The served prompt is the trained prompt: same words, same passages, whatever surrounds the question."""

from components.data.grounding import SYSTEM, grounded_messages
from components.retrieval.prompt import as_prompted, grounded_conversation

PROSE = {"text": "Sort a list in place. The sort is stable.", "title": "list.sort", "symbol": "list.sort"}
CODE = {"text": ">>> x = [3, 1]\n>>> x.sort()", "title": "Examples", "symbol": None}


def test_one_question_is_the_trained_prompt_word_for_word():
    asked = grounded_conversation([{"role": "user", "content": "Is it stable?"}], [PROSE], 45)
    assert asked == grounded_messages("Is it stable?", ["list.sort: Sort a list in place. The sort is stable."])


def test_history_stays_before_the_grounded_turn_and_system_messages_join_ours():
    messages = [
        {"role": "system", "content": "Answer in French."},
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": "Hi"},
        {"role": "user", "content": "Is it stable?"},
    ]
    asked = grounded_conversation(messages, [PROSE], 45)
    assert [turn["role"] for turn in asked] == ["system", "user", "assistant", "user"]
    assert asked[0]["content"] == f"{SYSTEM}\n\nAnswer in French."
    assert asked[1:3] == messages[1:3]
    assert asked[3] == grounded_messages("Is it stable?", [as_prompted(PROSE, 45)])[1]
    assert messages[3]["content"] == "Is it stable?"


def test_a_passage_is_cut_at_whole_sentences_and_shown_with_its_name():
    assert as_prompted(PROSE, 6) == "list.sort: Sort a list in place."
    headed = {**PROSE, "text": "list.sort\nSort a list in place."}
    assert as_prompted(headed, 45) == "list.sort: Sort a list in place."
    sentence = {**PROSE, "text": "list.sort is stable and sorts in place."}
    assert as_prompted(sentence, 45) == "list.sort is stable and sorts in place."


def test_a_passage_without_prose_shows_its_first_words():
    assert as_prompted(CODE, 4) == "Examples: >>> x = [3,"


def test_no_passages_leave_a_prompt_that_still_asks():
    assert grounded_conversation([{"role": "user", "content": "q"}], [], 45)[1]["content"].endswith("Question: q")
