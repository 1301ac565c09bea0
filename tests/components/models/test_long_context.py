"""What is measured over long texts, against transformers' own loss and greedy answers."""

import math
import random
from pathlib import Path

import pytest
import torch

from components.models import long_context
from components.models.load import lead_ids, load_model, load_tokenizer


def test_perplexity_of_a_stretch_is_that_of_its_tokens(tiny_model_dir: Path) -> None:
    pick = random.Random(0)
    windows = [[pick.randrange(384) for _ in range(700)] for _ in range(2)]
    reach = long_context.measure(tiny_model_dir, windows, [130, 600], keys=0)
    model, sums = load_model(tiny_model_dir, "served"), {130: [], 600: []}
    for window in windows:
        ids = torch.tensor([window[:600]])
        with torch.no_grad():
            losses = torch.nn.functional.cross_entropy(model(ids).logits[0, :-1], ids[0, 1:], reduction="none")
        sums[130] += losses[:129].tolist()
        sums[600] += losses[129:].tolist()
    expected = {length: float(torch.tensor(found).mean().exp()) for length, found in sums.items()}
    assert len(sums[600]) == 2 * 470 and reach.perplexity == pytest.approx(expected, rel=1e-4)


def test_it_says_what_a_greedy_answer_would(tiny_model_dir: Path) -> None:
    model = load_model(tiny_model_dir, "stored")
    pick = random.Random(1)
    for _ in range(5):
        prompt = [pick.randrange(384) for _ in range(20)]
        with torch.no_grad():
            ids = torch.tensor([prompt])
            said = model.generate(ids, max_new_tokens=4, min_new_tokens=4, do_sample=False, eos_token_id=-1)
        answer = said[0, 20:].tolist()
        assert long_context.says(model, prompt, answer)
        assert not long_context.says(model, prompt, [*answer[:3], (answer[3] + 1) % 384])


@pytest.mark.parametrize("depth", [0.0, 0.5, 1.0])
def test_a_pass_key_lies_where_it_should(depth: float, tiny_model_dir: Path) -> None:
    tokenizer = load_tokenizer(tiny_model_dir)
    prompt, answer = long_context.pass_key(tokenizer.encode, 800, depth, random.Random(2))
    text, key = tokenizer.decode(prompt), tokenizer.decode(answer)
    assert len(prompt) + len(answer) == 800
    assert key.strip().isdigit() and len(key.strip()) == 5
    assert text.count(key) == 1 and text.endswith("What is the pass key? The pass key is")
    assert text.index(key) / len(text) == pytest.approx(depth, abs=0.1)


def test_texts_begin_as_the_tokenizer_begins_them(tiny_model_dir: Path, tmp_path: Path) -> None:
    from tokenizers.processors import TemplateProcessing

    tokenizer = load_tokenizer(tiny_model_dir)
    assert lead_ids(tokenizer) == []
    begins = [("<|im_start|>", tokenizer.bos_token_id)]
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="<|im_start|> $A", special_tokens=begins)
    assert lead_ids(tokenizer) == [tokenizer.bos_token_id]
    prompt, answer = long_context.pass_key(tokenizer.encode, 800, 0.5, random.Random(2))
    assert tokenizer.bos_token_id not in prompt + answer and len(prompt) + len(answer) == 800


def test_a_text_without_room_is_refused(tiny_model_dir: Path) -> None:
    encode = load_tokenizer(tiny_model_dir).encode
    with pytest.raises(ValueError, match="a text of 20 tokens has no room for a pass key"):
        long_context.pass_key(encode, 20, 0.5, random.Random(0))


def test_a_model_that_reads_short_texts_worse_is_refused() -> None:
    original = long_context.Reach({512: 10.0, 1024: 8.0, 2048: 90.0}, {})
    extended = long_context.Reach({512: 10.5, 1024: 8.8, 2048: 9.0}, {})
    assert long_context.rise(original, extended, 1024) == pytest.approx(0.1)
    extended.perplexity[1024] = float("nan")
    assert math.isnan(long_context.rise(original, extended, 1024))
    assert math.isnan(long_context.rise(original, extended, 100))  # nothing was measured there
    long_context.check(0.1, None)
    long_context.check(0.1, 0.1)
    for rises in (0.11, float("nan")):
        with pytest.raises(RuntimeError, match=r"perplexity rises by .* \(allowed: 10\.0%\)"):
            long_context.check(rises, 0.1)
