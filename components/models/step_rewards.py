"""Steps of an answer: where they end, and what they make of the answer as a whole.

Shapes: S steps of an answer, K heads.
"""

from collections.abc import Callable, Sequence

from components.models.rewards import RewardInfo, RewardModel

TextOf = Callable[[list[int]], str]  # the text of tokens, without special ones


def answer_rewards(
    model: RewardModel, prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[Sequence[int]]], text_of: TextOf
) -> list[list[list[float]]]:
    """Return the K rewards of each answer to each prompt (token ids), whichever kind the model is."""
    if model.info.kind == "outcome":
        return model.score(prompts, answers)
    each = [(prompt, answer) for prompt, own in zip(prompts, answers, strict=True) for answer in own]
    ends = [step_ends(answer, text_of) for _, answer in each]
    steps = iter(model.score_steps([prompt for prompt, _ in each], [answer for _, answer in each], ends))
    return [[worst_step(next(steps), model.info) for _ in own] for own in answers]


def step_ends(answer_ids: Sequence[int], text_of: TextOf) -> list[int]:
    """Return the places of the tokens that end a step: the first with a line break after some text, and the last.

    What comes after the last line of text, as the turn end after a line break, belongs to that line's step.

    Args:
        text_of: a line break may be a token of its own or a part of one.
    """
    ends: list[int] = []
    has_text = False
    for place, token in enumerate(answer_ids):
        before, line_break, after = text_of([token]).rpartition("\n")
        if line_break and (has_text or before.strip()):
            ends.append(place)
        has_text = bool(after.strip()) or (has_text and not line_break)
    last = len(answer_ids) - 1
    before_last = ends if has_text else ends[:-1]
    return before_last if before_last[-1:] == [last] else [*before_last, last]


def worst_step(steps_SK: Sequence[Sequence[float]], info: RewardInfo) -> list[float]:
    """Return what each head gives to an answer with these (normalised) rewards of its steps: the lowest, normalised.

    The worst of several steps lies below the mean of single ones; by its own held-out statistics an answer's reward is
    in held-out deviations, as an outcome model's is.

    Source: the minimum over steps, Lightman et al. 2023 (arXiv 2305.20050) appendix F.
    """
    lowest = [min(head) for head in zip(*steps_SK, strict=True)]
    if not info.worst_std:
        return lowest
    return [(x - mean) / std for x, mean, std in zip(lowest, info.worst_mean, info.worst_std, strict=True)]
