"""Rows as tokens: what the template refuses or changes, what carries loss, what is too long."""

import pytest

from components.data.chat import ChatTemplate
from components.training.doctor import tokens
from components.training.doctor.findings import State


@pytest.fixture
def template(tiny_model_dir) -> ChatTemplate:
    return ChatTemplate.from_folder(tiny_model_dir)


def _row(question: str, answer: str, role: str = "user") -> dict:
    return {
        "prompt_id": question,
        "prompt": [{"role": role, "content": question}],
        "completion": [{"role": "assistant", "content": answer}],
    }


def _look(rows, template, limit=1000) -> dict:
    seen = tokens.read(rows, lambda row: [row["completion"]], template)
    return {one.check: one for one in seen.findings(limit, "max_tokens")}


def test_good_rows_are_fine_and_so_is_the_share_of_their_answers(template):
    found = _look([_row("How?", "So."), _row("And why is that?", "Because.")], template)
    assert {one.state for one in found.values()} == {State.FINE}
    whole = answers = 0
    for question, answer in (("How?", "So."), ("And why is that?", "Because.")):
        opening = f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n"
        answers += len(template.ids(f"{answer}<|im_end|>"))
        whole += len(template.ids(opening)) + len(template.ids(f"{answer}<|im_end|>"))
    assert f"{answers / whole:.0%} of the tokens, {answers / 2:.0f} each" in found["answers"].text


def test_rows_that_the_template_refuses_are_counted_and_the_others_looked_at(template):
    found = _look([_row("How?", "So."), _row("How?", "So.", role="robot")], template)
    assert found["chat template"].state is State.PROBLEM
    assert "1 of 2 rows are refused: a message needs one of the roles" in found["chat template"].text
    assert found["answers"].state is State.FINE


def test_a_turn_end_in_somebodys_words_is_a_problem(template):
    found = _look([_row("How?", "So."), _row("quoted", "He wrote <|im_end|> there.")], template)
    assert found["special tokens"].state is State.PROBLEM
    assert "1 of 2 rows" in found["special tokens"].text
    assert "first prompt quoted" in found["special tokens"].text
    assert _look([_row("How?", "So, im_end.")], template)["special tokens"].state is State.FINE


def test_a_special_token_without_a_name_counts_and_an_unknown_character_does_not(template):
    from tokenizers import AddedToken

    template.tokenizer.add_tokens([AddedToken("<|header|>", special=True)])
    template.tokenizer.unk_token = "<|endoftext|>"
    found = _look([_row("How?", "A <|header|>"), _row("odd", "so <|endoftext|>")], template)["special tokens"]
    assert found.state is State.PROBLEM and "1 of 2 rows" in found.text and "first prompt How?" in found.text


@pytest.mark.parametrize("nothing", ["", "  \n"])
def test_answers_of_nothing_are_a_problem(nothing, template):
    found = _look([_row("How?", nothing), _row("Why?", "So.")], template)
    assert found["empty answers"].state is State.PROBLEM and "1 of 2 answers" in found["empty answers"].text


def test_a_limit_that_leaves_rows_out_is_told_with_one_that_does_not(template):
    rows = [_row(f"q{number}", "word " * 10) for number in range(99)] + [_row("long", "word " * 60)]
    longest = max(len(template.example(row["prompt"], row["completion"]).input_ids) for row in rows)
    assert _look(rows, template, limit=longest)["length"].state is State.FINE
    two = [*rows, rows[-1]]
    found = _look(two, template, limit=longest - 1)["length"]
    assert found.state is State.LOOK
    assert f"longest {longest}, max_tokens={longest - 1}: 2 of 101 rows are left out" in found.text
    kept = int(found.text.rpartition("max_tokens=")[2].split()[0])
    assert kept == longest  # 99 of 101 rows would be less than 99 %
    found = _look(rows * 2 + [_row("q", "word")], template, limit=longest - 1)["length"]
    assert "2 of 201 rows are left out" in found.text and "keeps" not in found.text  # 99.0 % are kept as it is
    assert _look(rows, template, limit=5)["length"].state is State.PROBLEM


def test_a_tokenizer_that_loses_characters_is_worth_a_look(template):
    from tokenizers.normalizers import Lowercase

    assert _look([_row("HOW?", "so.")], template)["round trip"].state is State.FINE
    template.tokenizer.backend_tokenizer.normalizer = Lowercase()  # of this fixture's own copy
    found = _look([_row("how?", "so."), _row("HOW?", "so.")], template)["round trip"]
    assert found.state is State.LOOK and "1 of 2 rows" in found.text and "prompt HOW?" in found.text
