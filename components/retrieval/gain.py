"""Whether what was trained helps: the same held-out questions with it and without it.

It is kept only if the 95 % interval of the difference in nDCG lies above a bound. A reranker costs time with every
query, and one that was trained on little data may well rank worse than the search that it corrects.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from components.retrieval.compare import depth_for, metrics, search_all
from components.retrieval.exercises import Exercise
from components.retrieval.measure import Figures, differences, paired, per_query, summary, table

if TYPE_CHECKING:
    from components.retrieval.retrieve import Retriever

WITHOUT, START, TRAINED = "without", "start", "trained"  # ways of searching
_CALLED = {WITHOUT: "the search without it", START: "the reranker that it started from"}


@dataclass(frozen=True)
class Verdict:
    """Whether it is kept, and why."""

    kept: bool
    sentence: str
    figures: dict[str, Figures]  # way of searching → measure → figure
    gains: dict[str, dict[str, float]]  # rival → nDCG of the trained way minus the rival's

    def metrics(self) -> dict[str, float]:
        """Return the figures as a run's metrics: means, and the gains with their intervals."""
        gains = {
            f"gain_over/{rival}" + ("" if end == "mean" else f"_{end}"): gain[end]
            for rival, gain in self.gains.items()
            for end in ("mean", "low", "high")
        }
        return metrics(self.figures) | gains | {"kept": float(self.kept)}


def judge(
    ways: Mapping[str, "Retriever"], exercises: Sequence[Exercise], k: int, min_gain: float, seed: int
) -> Verdict:
    """Search every held-out question in every way, and say whether ``trained`` is better than each of the others.

    Questions about the same passages are drawn together, as they are found or missed together.

    Args:
        ways: ``without``, ``trained`` and, if that began with a reranker, ``start``.
        min_gain: nDCG that the interval of each difference has to lie above.
    """
    held_out = {str(number): one for number, one in enumerate(exercises) if one.split == "test"}
    questions = {key: one.question for key, one in held_out.items()}
    grades = {key: dict.fromkeys(one.answers, 1) for key, one in held_out.items()}
    groups = {key: one.group for key, one in held_out.items()}
    figures, ndcg = {}, {}
    for name, way in ways.items():
        way.search(next(iter(questions.values())), k=k)  # the first search opens files
        searched = search_all(way, questions, depth_for(k), by="passage_id")
        values = per_query(grades, searched.rankings, k)
        figures[name], ndcg[name] = summary(values, searched.seconds, seed, groups), values[f"ndcg@{k}"]
    gains = {name: paired(ndcg[TRAINED], ndcg[name], seed, groups) for name in ways if name != TRAINED}
    short = {name: gain for name, gain in gains.items() if not gain["low"] > min_gain}
    rival, gain = min((short or gains).items(), key=lambda item: item[1]["low"])
    measured = (
        f"on {len(held_out)} held-out questions its nDCG@{k} minus that of {_CALLED[rival]} is {gain['mean']:+.4f} "
        f"[{gain['low']:+.4f}, {gain['high']:+.4f}]"
    )
    if short:
        sentence = f"not kept: {measured}, and the whole interval would have to lie above {min_gain:g}"
    else:
        sentence = f"kept: {measured}"
    return Verdict(not short, sentence, figures, gains)


def page(index: str, what: str, verdict: Verdict, questions: Mapping[str, float]) -> str:
    """Return the verdict as Markdown."""
    lines = [
        f"# {what} for {index}\n\n**{verdict.sentence[:1].upper()}{verdict.sentence[1:]}.**",
        f"\nTrained on {questions['questions/train']:.0f} questions with {questions['negatives/mean']:.1f} wrong "
        f"passages each, measured on {questions['questions/held_out']:.0f} about passages that training has not seen. "
        "Mean with 95 % bootstrap interval, drawn over groups of questions that share a passage.\n",
        table(verdict.figures),
        f"\n## nDCG of {TRAINED} minus that of the others\n",
        differences(verdict.gains),
    ]
    return "\n".join(lines) + "\n"
