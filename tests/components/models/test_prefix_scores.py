import random

import pytest

from components.models.load import load_model
from components.models.prefix_scores import mean_logprobs, score_with_shared_prefixes


@pytest.fixture(scope="module")
def model(tiny_model_dir):
    return load_model(tiny_model_dir, dtype="float32")


@pytest.fixture(scope="module")
def asked():
    """Prompts in groups that share a prefix, one of them twice and one a prefix of another."""
    rng = random.Random(0)
    prefixes = [[rng.randrange(3, 380) for _ in range(40)] for _ in range(3)]
    prompts = [[*prefix, *(rng.randrange(3, 380) for _ in range(5 + i))] for prefix in prefixes for i in range(3)]
    prompts += [prompts[0], prompts[1][:-2]]
    rng.shuffle(prompts)
    answers = [[[rng.randrange(3, 380) for _ in range(n)] for n in (1, 7, 3)] for _ in prompts]
    return prompts, answers


def naive(model, prompt, answer):
    """log p of one sequence by itself, from the definition."""
    import torch

    with torch.inference_mode():
        logits = model(input_ids=torch.tensor([[*prompt, *answer]])).logits[0].double().log_softmax(-1)
    return sum(logits[len(prompt) - 1 + i, token].item() for i, token in enumerate(answer))


def test_sharing_changes_nothing(model, asked):
    prompts, answers = asked
    scores = score_with_shared_prefixes(model, prompts, answers)
    for prompt, own, found in zip(prompts, answers, scores, strict=True):
        assert found == pytest.approx([naive(model, prompt, answer) for answer in own], abs=1e-4)


def test_a_cache_that_cannot_be_cut_back_is_not_used(asked):
    from transformers import MistralConfig, MistralForCausalLM

    shape = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2, "num_key_value_heads": 1}
    config = MistralConfig(vocab_size=384, num_hidden_layers=2, sliding_window=16, **shape)
    sliding = MistralForCausalLM(config).eval()
    prompts, answers = asked
    scores = score_with_shared_prefixes(sliding, prompts[:3], answers[:3])
    assert scores[1] == pytest.approx([naive(sliding, prompts[1], answer) for answer in answers[1]], abs=1e-4)


def test_means_are_per_token(tiny_model_dir, asked):
    prompts, answers = asked
    found = mean_logprobs(tiny_model_dir, prompts[:2], answers[:2])
    model = load_model(tiny_model_dir)
    sums = score_with_shared_prefixes(model, prompts[:2], answers[:2])
    assert found[0] == pytest.approx([total / n for total, n in zip(sums[0], (1, 7, 3), strict=True)], rel=1e-3)
