"""Log-probabilities of answers that share their prompts, computing what they share once.

Shapes: B answers, T tokens, V vocabulary.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.models.load import load_model, set_threads, torch_device
from components.models.logprobs import completion_logprobs, score_completions
from components.progress import progress

if TYPE_CHECKING:
    import torch
    from transformers import Cache, PreTrainedModel


def mean_logprobs(
    folder: Path, prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[Sequence[int]]]
) -> list[list[float]]:
    """Mean of log p over each answer's tokens under the model in `folder`, on the GPU where there is one."""
    import torch

    set_threads(len(os.sched_getaffinity(0)))
    model: Any = load_model(folder)
    model = model.to(torch_device())
    sums = score_with_shared_prefixes(model, prompts, answers)
    del model
    torch.cuda.empty_cache()  # an engine on the same GPU may come next
    return [
        [total / len(answer) for total, answer in zip(totals, own, strict=True)]
        for totals, own in zip(sums, answers, strict=True)
    ]


def score_with_shared_prefixes(
    model: PreTrainedModel, prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[Sequence[int]]]
) -> list[list[float]]:
    """Sum of log p(answer token), natural log, for each answer to each prompt (all token ids).

    Prompts are taken in sorted order and the key-value cache is cut back to what the next one shares with the
    last, so a prompt's passages are read once for all its questions and answers. A model whose cache cannot be
    cut back (sliding windows, state spaces) reads every sequence whole.
    """
    import torch
    from transformers import DynamicCache
    from transformers.cache_utils import DynamicLayer

    cache: Cache = DynamicCache(config=model.config)
    if any(type(layer) is not DynamicLayer for layer in cache.layers):
        return _score_whole(model, prompts, answers)
    scores: list[list[float]] = [[] for _ in prompts]
    cached: list[int] = []
    for done, i in enumerate(sorted(range(len(prompts)), key=lambda i: list(prompts[i])), 1):
        prompt = list(prompts[i])
        # The last token is never taken from the cache: its logits predict the answer's first token.
        shared = min(_shared(cached, prompt), len(prompt) - 1)
        cache = _cut(cache, shared, model)
        with torch.inference_mode():
            ids_1T = torch.tensor([prompt[shared:]], device=model.device)
            first_V = model(input_ids=ids_1T, past_key_values=cache, use_cache=True, logits_to_keep=1).logits[0, -1]
            for answer in answers[i]:
                scores[i].append(_score(model, cache, prompt[-1], first_V, list(answer)))
                cache = _cut(cache, len(prompt), model)
        cached = prompt
        progress(done, len(prompts), "prompts scored")
    return scores


def _score_whole(
    model: PreTrainedModel, prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[Sequence[int]]]
) -> list[list[float]]:
    """The same without a cache."""
    owners = [i for i, own in enumerate(answers) for _ in own]
    flat = score_completions(model, [prompts[i] for i in owners], [answer for own in answers for answer in own])
    scores: list[list[float]] = [[] for _ in prompts]
    for i, value in zip(owners, flat, strict=True):
        scores[i].append(value)
    return scores


def _cut(cache: Cache, length: int, model: PreTrainedModel) -> Cache:
    """The cache with only its first `length` tokens."""
    from transformers import DynamicCache

    if length == 0:
        return DynamicCache(config=model.config)
    cache.crop(length - cache.get_seq_length())
    return cache


def _score(model: PreTrainedModel, cache: Cache, last: int, first_V: torch.Tensor, answer: list[int]) -> float:
    """Sum of log p over one answer's tokens; the cache is left longer by all but the answer's last token."""
    import torch

    logits_TV = first_V[None]
    if len(answer) > 1:
        ids_1T = torch.tensor([answer[:-1]], device=model.device)
        rest_TV = model(input_ids=ids_1T, past_key_values=cache, use_cache=True).logits[0]
        logits_TV = torch.cat([logits_TV, rest_TV])
    ids_1T = torch.tensor([[last, *answer]], device=model.device)
    mask_1T = torch.ones_like(ids_1T, dtype=torch.bool)
    mask_1T[0, 0] = False
    padded_1TV = torch.cat([logits_TV, logits_TV[-1:]])[None]  # what follows the last token is not read
    return float(completion_logprobs(padded_1TV, ids_1T, mask_1T)[0])


def _shared(left: Sequence[int], right: Sequence[int]) -> int:
    """How many tokens two sequences begin with in common."""
    count = 0
    for a, b in zip(left, right, strict=False):
        if a != b:
            break
        count += 1
    return count
