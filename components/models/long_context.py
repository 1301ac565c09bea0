"""How far into a long text a model still predicts and remembers.

Shapes: T tokens of a window, D hidden dimension. Logarithms are natural.
"""

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.config import UserError
from components.progress import progress

_FILLER = "The sea was calm and the boats came home before dark. "


@dataclass(frozen=True)
class Reach:
    """What a model makes of long texts, by length in tokens."""

    perplexity: dict[int, float]  # of the positions up to a length, from the length before it on
    recall: dict[int, float]  # share of pass keys hidden in texts of a length that it would have said


def choose_lengths(wanted: list[int], old: int, new: int) -> list[int]:
    """Return the lengths to measure at: those that are wanted, or else half the old one, doubled up to the new one.

    Raises:
        UserError: they do not rise, or lie outside of what can be measured.
    """
    lengths = wanted or [old // 2]
    while not wanted and lengths[-1] < new:
        lengths.append(min(2 * lengths[-1], new))
    if sorted(set(lengths)) != lengths or not 128 <= lengths[0] <= lengths[-1] <= new:
        raise UserError(f"lengths {lengths} must rise from 128 or more to the new length, {new}, or less")
    return lengths


def measure(folder: Path, windows: Sequence[Sequence[int]], lengths: Sequence[int], keys: int, seed: int = 0) -> Reach:
    """Read the windows, and look for pass keys in filler text of each length.

    Args:
        windows: token ids, each at least as many as the longest length.
        lengths: rising.
        keys: pass keys of five digits for each length, at depths that lie evenly between start and end (Mohtashami and
            Jaggi 2023, https://arxiv.org/abs/2305.16300). One counts if each of its tokens is the likeliest after
            the ones before it, which is what a greedy answer would say.
    """
    from components.models.load import lead_ids, load_model, load_tokenizer, set_threads
    from components.models.output_head import check_head

    set_threads()
    model, tokenizer = load_model(folder, "served"), load_tokenizer(folder)
    check_head(model)
    lead = lead_ids(tokenizer)
    total, done = len(windows) + keys * len(lengths), 0
    sums, counts = dict.fromkeys(lengths, 0.0), dict.fromkeys(lengths, 0)
    for window in windows:
        losses = token_losses(model, window[: lengths[-1]])
        start = 0
        for length in lengths:
            part = losses[start : length - 1]  # the first token of a text is predicted by none
            sums[length] += float(part.sum())
            counts[length] += len(part)
            start = length - 1
        done += 1
        progress(done, total, "texts")
    recall = {}
    for length in lengths:
        found = 0
        for number in range(keys):
            pick, room = random.Random(seed + number), length - len(lead)
            prompt, answer = pass_key(tokenizer.encode, room, (number + 0.5) / keys, pick)
            found += says(model, lead + prompt, answer)
            done += 1
            progress(done, total, "texts")
        recall[length] = found / keys if keys else math.nan
    return Reach({length: math.exp(sums[length] / counts[length]) for length in lengths}, recall)


def rise(original: Reach, extended: Reach, old: int) -> float:
    """Return by which share perplexity rises at most at the lengths that the original was made for.

    Not a number where one of them is none, or where nothing was measured there.
    """
    rises = [extended.perplexity[at] / original.perplexity[at] - 1 for at in original.perplexity if at <= old]
    return math.nan if not rises or any(map(math.isnan, rises)) else max(rises)


def check(rises: float, allowed: float | None) -> None:
    """Refuse a model that predicts short texts too much worse than before.

    Raises:
        RuntimeError: with both figures.
    """
    if allowed is not None and not rises <= allowed:  # not a number is no pass
        raise RuntimeError(f"within the old length perplexity rises by {rises:.1%} (allowed: {allowed:.1%})")


def token_losses(model: Any, ids: Sequence[int]) -> Any:
    """Return -log p of each token but the first, float32 [T-1]; logits are made for a part of the text at a time."""
    import torch

    from components.models.logprobs import token_logprobs
    from components.models.output_head import output_head

    head, parts = output_head(model), []
    with torch.inference_mode():
        ids_T, hidden_TD = _read(model, ids)
        for hidden, targets in zip(hidden_TD[:-1].split(512), ids_T[1:].split(512), strict=True):
            parts.append(-token_logprobs(head(hidden), targets))
    return torch.cat(parts)


def says(model: Any, prompt: Sequence[int], answer: Sequence[int]) -> bool:
    """Return whether the model's greedy continuation of the prompt begins with the answer."""
    import torch

    from components.models.output_head import output_head

    with torch.inference_mode():
        ids_T, hidden_TD = _read(model, [*prompt, *answer])
        likeliest = output_head(model)(hidden_TD[len(prompt) - 1 : -1]).argmax(-1)
    return bool((likeliest == ids_T[len(prompt) :]).all())


def _read(model: Any, ids: Sequence[int]) -> tuple[Any, Any]:
    """Return a text as a tensor [T], and the last layer's output for it [T, D], before the head."""
    import torch

    ids_T = torch.tensor(list(ids), device=model.device)
    return ids_T, model.base_model(input_ids=ids_T[None], use_cache=False).last_hidden_state[0]


def pass_key(
    encode: Callable[..., list[int]], length: int, depth: float, pick: random.Random
) -> tuple[list[int], list[int]]:
    """Return a text with a pass key at ``depth`` (0 start, 1 end) that asks for it at its end, and the answer.

    Text and answer together have ``length`` tokens.
    """
    key = "".join(str(pick.randrange(1, 10)) for _ in range(5))
    texts = (f"The pass key is {key}. Remember it. ", "What is the pass key? The pass key is", f" {key}", _FILLER)
    told, asked, answer, filler = (encode(text, add_special_tokens=False) for text in texts)
    room = length - len(told) - len(asked) - len(answer)
    if room < 0:
        raise ValueError(f"a text of {length} tokens has no room for a pass key, which needs {length - room}")
    around = (filler * (room // len(filler) + 1))[:room]
    at = round(depth * room)
    return around[:at] + told + around[at:] + asked, answer
