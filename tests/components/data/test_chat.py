"""The chat template: ids, label mask and digest, against transformers' own rendering and hand-made templates."""

import copy

import pytest

from components.config import UserError
from components.data.chat import IGNORED, ChatTemplate

PROMPT = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Which function?"}]
ANSWER = [{"role": "assistant", "content": "It joins path names [1]."}]


@pytest.fixture(scope="module")
def template(tiny_model_dir) -> ChatTemplate:
    return ChatTemplate.from_folder(tiny_model_dir)


def with_template(template: ChatTemplate, text: str):
    tokenizer = copy.deepcopy(template.tokenizer)
    tokenizer.chat_template = text
    return tokenizer


def test_ids_are_those_of_the_whole_conversation_up_to_the_turn_end(template):
    example = template.example(PROMPT, ANSWER)
    whole = template.tokenizer.apply_chat_template(PROMPT + ANSWER, tokenize=True)["input_ids"]
    assert example.input_ids == whole[: len(example.input_ids)]
    assert template.tokenizer.decode(whole[len(example.input_ids) :]) == "\n"


def test_only_the_completion_carries_loss_and_its_end_does_although_it_is_the_pad_token(template):
    tokenizer = template.tokenizer
    assert tokenizer.pad_token_id == tokenizer.eos_token_id  # the trap that this test is about
    example = template.example(PROMPT, ANSWER)
    labelled = [label for label in example.labels if label != IGNORED]
    assert tokenizer.decode(labelled) == "It joins path names [1].<|im_end|>"
    assert example.labels[-1] == tokenizer.eos_token_id
    assert example.labels[-len(labelled) :] == example.input_ids[-len(labelled) :]


def test_prompt_is_what_a_server_is_sent(template):
    text = template.tokenizer.decode(template.prompt_ids(PROMPT))
    assert text == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nWhich function?<|im_end|>\n<|im_start|>assistant\n"
    )


def test_pair_shares_its_prompt_and_both_sides_end_their_turn(template):
    pair = template.pair(PROMPT, ANSWER, [{"role": "assistant", "content": "I don't know."}])
    assert pair.prompt_ids == template.prompt_ids(PROMPT)
    assert template.tokenizer.decode(pair.chosen_ids) == "It joins path names [1].<|im_end|>"
    assert template.tokenizer.decode(pair.rejected_ids) == "I don't know.<|im_end|>"


def test_turn_end_need_not_be_the_tokenizers_eos(template):
    tokenizer = copy.deepcopy(template.tokenizer)
    tokenizer.eos_token = "<|endoftext|>"
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_end|>"]})
    ids = ChatTemplate(tokenizer).completion_ids(PROMPT, "Yes.")
    assert tokenizer.decode(ids) == "Yes.<|im_end|>"


def test_digest_is_of_what_decides_the_ids(template, tmp_path):
    template.tokenizer.save_pretrained(tmp_path)
    saved = ChatTemplate.from_folder(tmp_path)
    assert saved.digest == template.digest
    saved.tokenizer(["a b c"], truncation=True, max_length=2, padding="max_length")  # leaves traces in the tokenizer
    assert ChatTemplate(saved.tokenizer).digest == template.digest
    changed = with_template(template, template.tokenizer.chat_template.replace("assistant\n", "assistant:\n"))
    assert ChatTemplate(changed).digest != template.digest


def test_template_that_never_ends_a_turn_is_refused(template):
    endless = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
    with pytest.raises(UserError, match="never learns to stop"):
        ChatTemplate(with_template(template, endless))


def test_tokenizer_without_template_is_refused(template):
    with pytest.raises(UserError, match="no chat template"):
        ChatTemplate(with_template(template, None))


def test_template_that_opens_a_turn_otherwise_than_it_ends_one_is_refused(template):
    odd = template.tokenizer.chat_template + "{% if add_generation_prompt %}think:{% endif %}"
    with pytest.raises(UserError, match="otherwise"):
        ChatTemplate(with_template(template, odd)).completion_ids(PROMPT, ANSWER)


@pytest.mark.parametrize(
    ("messages", "says"),
    [
        ([], "at least one message"),
        ([{"role": "boss", "content": "x"}], "roles"),
        ([{"role": "user", "content": None}], "must be text"),
    ],
)
def test_malformed_conversations_are_refused(template, messages, says):
    with pytest.raises(UserError, match=says):
        template.render(messages)


@pytest.mark.parametrize("completion", [[], PROMPT, [*ANSWER, *ANSWER]])
def test_completion_is_one_assistant_message(template, completion):
    with pytest.raises(UserError, match="one assistant message"):
        template.completion_ids(PROMPT, completion)


def test_folder_without_tokenizer_is_refused(tmp_path):
    with pytest.raises(UserError, match="no tokenizer"):
        ChatTemplate.from_folder(tmp_path)
