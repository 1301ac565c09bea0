"""Training pairs that show what is evaluated on, by their words and by their vectors."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from components.config import UserError
from components.data import store
from components.data.curation.row_filters import Verdicts
from components.data.curation.settings import DecontaminationConfig
from components.data.curation.texts import Row, ngrams, normal, said, word_overlap, words
from components.data.curation.vectors import Vectors, nearest

_ANSWERS = ("chosen", "rejected", "completion")  # columns of messages that hold answers
_COMMON = 10  # what more texts than this share is a form or a phrase, not content
_COMMON_SHARE = 0.01  # the same for n-grams, of all evaluated texts
_NEIGHBOURS = 5


@dataclass(frozen=True)
class Evaluated:
    """One text that models are evaluated on."""

    text: str
    is_prompt: bool
    where: str  # for people: which table, which row


@dataclass(frozen=True)
class Match:
    """A training pair that shows an evaluated text."""

    pair_id: str
    prompt_id: str
    item: Evaluated
    reason: str
    detail: str


def verdicts_of(matches: Sequence[Match]) -> tuple[Verdicts, int]:
    """(what is dropped, the number of evaluated answers that are set aside as phrases that everybody says).

    An answer that goes with more than ten prompts ("I'm sorry, but I can't help with that.") gives nothing away.
    """
    prompts: dict[str, set[str]] = defaultdict(set)
    for match in matches:
        if not match.item.is_prompt:
            prompts[match.item.text].add(match.prompt_id)
    phrases = {text for text, ids in prompts.items() if len(ids) > _COMMON}
    verdicts: Verdicts = {}
    for match in matches:
        if match.item.is_prompt or match.item.text not in phrases:
            verdicts.setdefault(match.pair_id, (match.reason, match.detail))
    return verdicts, len(phrases)


def but_phrases(matches: Iterable[Match]) -> Iterator[Match]:
    """Yield the matches but those of an answer that has had more than ten prompts: what ``verdicts_of`` sets aside."""
    prompts: dict[str, set[str]] = defaultdict(set)
    for match in matches:
        own = prompts[match.item.text]
        if match.item.is_prompt or len(own) <= _COMMON:
            yield match
        if not match.item.is_prompt:
            own.add(match.prompt_id)


def evaluated_texts(rows: Sequence[Row], config: DecontaminationConfig) -> list[Evaluated]:
    """The prompts and answers of the test rows and of the tables that the configuration names, each once.

    Raises:
        UserError: a table does not exist, has no rows to compare with, or no text.
    """
    found = list(_texts((row for row in rows if row["split"] == "test"), "the test split")) if config.test_split else []
    for ref in config.tables:
        columns = store.open_table(ref).schema.names
        known = [name for name in ("prompt_id", "prompt", *_ANSWERS, "reference") if name in columns]
        if not {"prompt", *_ANSWERS, "reference"} & set(known):
            raise UserError(
                f"clean.decontaminate.tables: {ref} has no column prompt, {', '.join(_ANSWERS)} or reference"
            )
        where = "split = 'test'" if "split" in columns else None
        found += _texts(store.read(ref, columns=known, where=where, require=True), ref)
    return list({(item.text, item.is_prompt): item for item in reversed(found)}.values())[::-1]


def trained_texts(row: Row, config: DecontaminationConfig) -> list[tuple[str, bool]]:
    """(text, whether it is the prompt) of a pair that are compared by vector: answers only if they have n words.

    A short answer ("Yes.") is not somebody's secret.
    """
    answers = (said(row[name]) for name in ("chosen", "rejected"))
    return [(said(row["prompt"]), True), *((text, False) for text in answers if len(words(text)) >= config.ngram)]


def _question(text: str) -> str:
    """A prompt as it is compared: the marks within it count (12 + 3 is not 12 - 3), those at its end do not."""
    return normal(text).rstrip(" .?!") or normal(text)


class ByWords:
    """Finds the training pairs whose prompt is an evaluated one, or that hold most n-grams of an evaluated text.

    The share is of the evaluated text's n-grams, those aside that many evaluated texts have (a system prompt, a
    form): what matters is how much of it can be learnt by heart, however long the pair is.

    Source: Chowdhery et al., PaLM (2022), section 8: contaminated is what has 70 % of its 8-grams in the training data.
    """

    def __init__(self, evaluated: Sequence[Evaluated], config: DecontaminationConfig) -> None:
        self._prompts = {_question(item.text): item for item in evaluated if item.is_prompt}
        self._index, self._config = _Index(evaluated, config.ngram), config

    def matches(self, rows: Iterable[Row]) -> Iterator[Match]:
        """Yield what shows an evaluated text."""
        size = self._config.ngram
        for row in (row for row in rows if row["split"] == "train"):
            who = (row["pair_id"], row["prompt_id"])
            if item := self._prompts.get(_question(said(row["prompt"]))):
                yield Match(*who, item, "contaminated_prompt", f"prompt of {item.where}")
            for item, share in self._index.shown([said(row[name]) for name in ("prompt", "chosen", "rejected")]):
                if share >= self._config.ngram_share:
                    detail = f"{share:.0%} of the {size}-grams of a text of {item.where}"
                    yield Match(*who, item, "contaminated_words", detail)


def matches_by_vectors(
    rows: Sequence[Row],
    evaluated: Sequence[Evaluated],
    vectors: Vectors,
    config: DecontaminationConfig,
    scratch: Path,
) -> Iterator[Match]:
    """Yield the training pairs with a prompt like an evaluated prompt, or an answer like an evaluated answer."""
    training = [row for row in rows if row["split"] == "train"]
    for is_prompt in (True, False):
        own = [item for item in evaluated if item.is_prompt is is_prompt and _compared(item, config)]
        holders: dict[str, list[Row]] = {}
        for row in training:
            for text, kind in trained_texts(row, config):
                if kind is is_prompt:
                    holders.setdefault(text, []).append(row)
        texts = list(holders)
        if not own or not texts:
            continue
        stored_ND, queries_ND = vectors.of([item.text for item in own]), vectors.of(texts)
        for query, place, score in nearest(stored_ND, queries_ND, _NEIGHBOURS, scratch):
            item, text = own[place], texts[query]
            if score >= config.similarity and word_overlap(text, item.text) >= config.word_overlap:
                detail = f"{'prompt' if is_prompt else 'answer'} like one of {item.where}, similarity {score:.3f}"
                for row in holders[text]:
                    yield Match(row["pair_id"], row["prompt_id"], item, "contaminated_vectors", detail)


def embedded(evaluated: Iterable[Evaluated], config: DecontaminationConfig) -> list[str]:
    """The evaluated texts that are compared by vector."""
    return [item.text for item in evaluated if _compared(item, config)]


def _compared(item: Evaluated, config: DecontaminationConfig) -> bool:
    return item.is_prompt or len(words(item.text)) >= config.ngram


def _texts(rows: Iterable[Row], where: str) -> Iterator[Evaluated]:
    for row in rows:
        place = f"{where}, prompt {row['prompt_id']}" if row.get("prompt_id") else where
        if row.get("prompt"):
            yield Evaluated(said(row["prompt"]), True, place)
        answers = [said(row[name]) for name in _ANSWERS if row.get(name)] + [row.get("reference") or ""]
        yield from (Evaluated(text, False, place) for text in answers if text)


class _Index:
    """Which evaluated texts hold an n-gram: two arrays in the order of the n-grams; 20 bytes an entry at most."""

    def __init__(self, evaluated: Sequence[Evaluated], size: int) -> None:
        import numpy as np

        self._items, self._size = evaluated, size
        own = [ngrams(item.text, size) for item in evaluated]
        grams = np.concatenate([np.empty(0, dtype=np.uint64), *own])
        texts = np.repeat(np.arange(len(own)), [len(found) for found in own])
        _, inverse, counts = np.unique(grams, return_inverse=True, return_counts=True)
        rare = counts[inverse] <= max(_COMMON, _COMMON_SHARE * len(own))
        order = np.argsort(grams[rare], kind="stable")
        self._grams, self._texts = grams[rare][order], texts[rare][order].astype(np.int32)
        self._totals = np.bincount(self._texts, minlength=len(own))
        # Most n-grams that are looked up are not there: their first bits tell so in one access, a search takes twenty.
        self._drop = np.uint64(64 - max(1, (4 * len(self._grams)).bit_length()))
        self._seen = np.zeros(1 << (64 - int(self._drop)), dtype=bool)
        self._seen[self._grams >> self._drop] = True

    def shown(self, texts: Sequence[str]) -> Iterator[tuple[Evaluated, float]]:
        """Yield the evaluated texts of which these hold any n-gram, and the share that they hold."""
        import numpy as np

        grams = np.unique(np.concatenate([ngrams(text, self._size) for text in texts]))
        grams = grams[self._seen[grams >> self._drop]]
        starts, ends = (np.searchsorted(self._grams, grams, side) for side in ("left", "right"))
        found: Counter[int] = Counter()
        for place in np.flatnonzero(ends > starts):
            found.update(self._texts[starts[place] : ends[place]].tolist())
        for text, number in sorted(found.items()):
            yield self._items[text], number / int(self._totals[text])
