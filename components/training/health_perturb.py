"""What a reward model says of pairs: in both orders, with trivial changes, and against spoiled copies."""

import math
import random
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from components.data.chat import Message

Completion = Sequence[Message]
Request = tuple[Sequence[Message], list[Completion]]  # a prompt and the completions to read with it
Scorer = Callable[[Sequence[Request]], list[list[list[float]]]]  # request → completion → K normalised rewards
Combine = Callable[[list[float]], float]  # K rewards → one

TRIVIAL_CHANGES = ("trailing_space", "doubled_spaces", "straight_quotes", "final_stop")
SPOILED = ("half", "shuffled", "repeated", "another")
_QUOTES = str.maketrans("‘’“”", "''\"\"")


@dataclass(frozen=True)
class Reading:
    """Rewards of one pair. Each gap is a difference of two rewards that were read in the same request."""

    chosen_heads: list[float]
    rejected_heads: list[float]
    chosen: float
    rejected: float
    chosen_first: bool  # in the order that was drawn; every other figure but swapped_gap is of that order
    swapped_gap: float  # chosen - rejected, read in the other order
    changed_gaps: dict[str, float]  # trivial change → chosen - rejected, with one of the two changed
    spoiled_gaps: dict[str, float]  # way of spoiling → chosen - its spoiled copy

    @property
    def gap(self) -> float:
        """Return the reward of the chosen answer less that of the rejected one."""
        return self.chosen - self.rejected

    @property
    def is_finite(self) -> bool:
        """Return whether every reward that was read is a number."""
        found = [*self.chosen_heads, *self.rejected_heads, self.chosen, self.rejected, self.swapped_gap]
        return all(map(math.isfinite, [*found, *self.changed_gaps.values(), *self.spoiled_gaps.values()]))


def read_pairs(pairs: Sequence[Mapping[str, Any]], score: Scorer, combine: Combine, seed: int) -> list[Reading]:
    """Return what the reward model says of each pair, from one call of ``score`` with four requests a pair.

    Orders, shuffles and neighbours are drawn by ``seed`` and the pair's id, so a pair is read in the same
    order whatever the others are. ``score`` may read the completions of a request together, so only rewards of
    the same request are compared.
    """
    plans = [_requests(pairs, number, seed) for number in range(len(pairs))]
    requests = [
        (pair["prompt"], list(named.values()))
        for pair, plan in zip(pairs, plans, strict=True)
        for named in plan.values()
    ]
    answers = iter(score(requests) if requests else [])
    readings = []
    for plan in plans:
        heads = {which: dict(zip(named, next(answers), strict=True)) for which, named in plan.items()}
        readings.append(_reading(heads, combine))
    return readings


def answer_text(completion: Completion) -> str:
    """Return the text of a completion's last message; of an empty completion it is empty."""
    return (completion[-1].get("content") or "") if completion else ""


def count_words(completion: Completion) -> int:
    """Return how many words a completion has, over all its messages."""
    return sum(len((message.get("content") or "").split()) for message in completion)


def change_trivially(text: str) -> dict[str, str]:
    """Return the text under each trivial change that does change it; no reader would change a verdict for one."""
    stripped = text.rstrip()
    if not stripped:
        return {}
    if stripped.endswith(".") and not stripped.endswith(".."):
        toggled = stripped[:-1]
    else:  # a question, a list or a fence does not take a full stop
        toggled = f"{stripped}." if stripped[-1].isalnum() or stripped[-1] in ")]'\"’”" else text
    changed = (
        stripped if stripped != text else f"{text} ",
        re.sub(r"(?<=\S) (?=\S)", "  ", text),
        text.translate(_QUOTES),
        toggled,
    )
    return {way: new for way, new in zip(TRIVIAL_CHANGES, changed, strict=True) if new != text}


def spoil(text: str, rng: random.Random) -> dict[str, str]:
    """Return worse copies of a text: cut to half its words, its words shuffled, said three times.

    Ways that would leave the text as it is are left out.
    """
    words = text.split()
    if not words:
        return {}
    shuffled = rng.sample(words, len(words))
    if shuffled == words:
        shuffled = [*words[1:], words[0]]
    copies = {"repeated": " ".join([text.strip()] * 3)}
    if len(words) > 1:
        copies["half"] = " ".join(words[: len(words) // 2])
    if shuffled != words:
        copies["shuffled"] = " ".join(shuffled)
    return copies


def _requests(pairs: Sequence[Mapping[str, Any]], number: int, seed: int) -> dict[str, dict[str, Completion]]:
    """Return request → name → completion; the order of the names is the order in which they are read."""
    pair = pairs[number]
    rng = random.Random(f"{seed}:{pair['pair_id']}")
    answers: dict[str, Completion] = {side: pair[side] or [] for side in ("chosen", "rejected")}
    drawn = _shuffled(answers, rng)
    # One answer is changed, the other stays: a change of both would move both rewards, and hide the change.
    side, other = rng.sample(sorted(answers), 2)
    changed = change_trivially(answer_text(answers[side]))
    copies = {way: _with_text(answers[side], text) for way, text in changed.items()}
    worse = spoil(answer_text(answers["chosen"]), rng)
    spoiled: dict[str, Completion] = {way: _with_text(answers["chosen"], text) for way, text in worse.items()}
    if (another := _another(pairs, number, rng)) is not None:
        spoiled["another"] = another
    return {
        "drawn": drawn,
        "swapped": dict(reversed(drawn.items())),
        "changed": _shuffled({other: answers[other], **copies}, rng),
        "spoiled": _shuffled({"chosen": answers["chosen"], **spoiled}, rng),
    }


def _reading(heads: Mapping[str, Mapping[str, list[float]]], combine: Combine) -> Reading:
    rewards = {
        which: {name: float(combine(list(values))) for name, values in named.items()} for which, named in heads.items()
    }
    drawn, swapped, changed, spoiled = (rewards[which] for which in ("drawn", "swapped", "changed", "spoiled"))
    still = "rejected" if "rejected" in changed else "chosen"  # the answer of the pair that was left as it is
    sign = 1 if still == "rejected" else -1
    return Reading(
        chosen_heads=list(heads["drawn"]["chosen"]),
        rejected_heads=list(heads["drawn"]["rejected"]),
        chosen=drawn["chosen"],
        rejected=drawn["rejected"],
        chosen_first=next(iter(drawn)) == "chosen",
        swapped_gap=swapped["chosen"] - swapped["rejected"],
        changed_gaps={way: sign * (changed[way] - changed[still]) for way in TRIVIAL_CHANGES if way in changed},
        spoiled_gaps={way: spoiled["chosen"] - spoiled[way] for way in SPOILED if way in spoiled},
    )


def _shuffled(named: Mapping[str, Completion], rng: random.Random) -> dict[str, Completion]:
    return {name: named[name] for name in rng.sample(list(named), len(named))}


def _with_text(completion: Completion, text: str) -> list[Message]:
    last = completion[-1] if completion else {"role": "assistant"}
    return [*completion[:-1], {**last, "content": text}]


def _another(pairs: Sequence[Mapping[str, Any]], number: int, rng: random.Random) -> Completion | None:
    """Return the chosen answer of another prompt that says something else, or None where there is none."""
    own = pairs[number]
    text = answer_text(own["chosen"] or []).strip()
    start = rng.randrange(len(pairs))
    for step in range(len(pairs)):
        other = pairs[(start + step) % len(pairs)]
        if other["prompt"] != own["prompt"] and answer_text(other["chosen"] or []).strip() not in ("", text):
            found: Completion = other["chosen"]
            return found
    return None
