"""What an answer over retrieved passages is worth, by its words: supported, cited, given what it needed?

Each measure takes ``question``, ``answer``, the ``passages`` in the order of the prompt and what is ``expected``
(``passage_id`` of the one that answers, ``answerable``: whether it could be found at all), and is None where it says
nothing of this answer. A sentence counts as supported where a sentence of a passage holds half of its words or more
(``citations.MIN_SUPPORT``).

Source: faithfulness, answer relevance and context precision as in RAGAS (arXiv 2309.15217), section 3, with words and
vectors in the place of a judging model; citation precision and recall as in ALCE (arXiv 2305.14627), section 3.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from components.data.grounding import abstains, without_citations
from components.retrieval.citations import marks, spans, supported

Answered = Mapping[str, Any]
Measure = Callable[[Answered], float | None]


def context_precision(one: Answered) -> float | None:
    """Return 1 / place of the first passage that answers among those found, 0 where none is; only if one could be."""
    if not one["expected"]["answerable"]:
        return None
    places = [place for place, passage in enumerate(one["passages"], 1) if _answers(passage, one)]
    return 1 / places[0] if places else 0.0


def context_recall(one: Answered) -> float | None:
    """Return whether a passage that answers was found; only if one could be."""
    if not one["expected"]["answerable"]:
        return None
    return float(any(_answers(passage, one) for passage in one["passages"]))


def _answers(passage: Mapping[str, Any], one: Answered) -> bool:
    return passage["passage_id"] in one["expected"]["passage_ids"]


def faithfulness(one: Answered) -> float | None:
    """Return the share of the answer's sentences that some passage supports, cited or not; of answers that claim."""
    claims = _claims(one)
    return sum(supported(claim, one["passages"]) for claim in claims) / len(claims) if claims else None


def citation_precision(one: Answered) -> float | None:
    """Return the share of the answer's marks whose passage supports their sentence; of answers that cite."""
    held = [citation is not None and citation.verified for _, _, citation in marks(one["answer"], one["passages"])]
    return sum(held) / len(held) if held else None


def citation_recall(one: Answered) -> float | None:
    """Return the share of the answer's sentences that a mark proves; of answers that claim something."""
    claims = _claims(one)
    if not claims:
        return None
    proven = {_bare(claim) for _, claim, own in marks(one["answer"], one["passages"]) if own and own.verified}
    return sum(_bare(claim) in proven for claim in claims) / len(claims)


def abstention_precision(one: Answered) -> float | None:
    """Return whether there was indeed nothing to find; of answers that abstain."""
    return float(not one["expected"]["answerable"]) if abstains(one["answer"]) else None


def abstention_recall(one: Answered) -> float | None:
    """Return whether the answer abstains; of questions whose passage could not be found."""
    return None if one["expected"]["answerable"] else float(abstains(one["answer"]))


def answer_relevance(embed: Callable[[list[str]], Sequence[Sequence[float]]]) -> Measure:
    """Return the measure of how near an answer is to its question, the cosine of both; of answers that claim.

    Args:
        embed: texts → unit vectors.
    """

    def measure(one: Answered) -> float | None:
        if abstains(one["answer"]) or not one["answer"].strip():
            return None
        question, answer = embed([one["question"], without_citations(one["answer"])])
        return float(sum(a * b for a, b in zip(question, answer, strict=True)))

    measure.__name__ = "answer_relevance"
    return measure


BY_WORDS: tuple[Measure, ...] = (
    context_precision,
    context_recall,
    faithfulness,
    citation_precision,
    citation_recall,
    abstention_precision,
    abstention_recall,
)


def _claims(one: Answered) -> list[str]:
    """Return the sentences of an answer, without marks; none where it abstains."""
    if abstains(one["answer"]):
        return []
    text = without_citations(one["answer"])
    return [text[start:end] for start, end in spans(text)]


def _bare(claim: str) -> str:
    return claim.rstrip(" .!?")
