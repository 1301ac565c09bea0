"""The tables that training and evaluation read, from questions and their answers or from a person's own files."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.config import UserError
from components.data import data_card, preference_files, records, store, traces
from components.data.clean import CleanConfig, Cleaned, Embedding, clean
from components.data.contexts import QuestionConfig
from components.data.pairs import PairConfig, demonstration, make_pairs
from components.data.questions import COLUMNS, make_questions
from components.data.selection import Selection, Sizes, figures, select

Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class Built:
    """The tables that were written, the figures of the run, and the data card of the pairs."""

    tables: dict[str, str]
    figures: dict[str, float]
    card: dict[str, Any]
    pairs: Rows
    left_out: list[dict[str, str]]  # lines of a file that made no pair: where they stand and the reason


@dataclass(frozen=True)
class Cleaning:
    """How the pairs are cleaned."""

    config: CleanConfig | None
    embedding: Callable[[], Embedding]  # called where texts have to be compared: loading one takes seconds
    salt: str = ""  # of the split and of the subsample

    def apply(
        self, uri: str, pairs: Rows, default: CleanConfig | None, copies: Mapping[str, int] | None = None
    ) -> Cleaned:
        """The pairs after the filters; all of them where neither the configuration nor the default has any.

        Raises as ``clean``.
        """
        config = self.config or default
        if config is None:
            return Cleaned(pairs, [], 0, 0)
        embedding = self.embedding() if config.uses_vectors else None
        return clean(pairs, config, uri=uri, embedding=embedding, copies=copies, salt=self.salt)


def own_files(index: str | None, file: str | None, files: Mapping[str, str]) -> dict[str, Path]:
    """Name of the source → a person's own file; none where there is an index.

    Raises:
        UserError: there is not just one of the three.
    """
    if sum((index is not None, file is not None, bool(files))) != 1:
        raise UserError(
            "give either index (a passages table) or file (your own pairs, or several of them in files), or traces"
        )
    own = {Path(file).name: file} if file is not None else files
    return {name: Path(path).resolve() for name, path in own.items()}


def refuse_others(index: str | None, file: str | None, files: Mapping[str, str], model: str | None) -> None:
    """Raise a UserError where traces are asked for and there is another source, or no model that could solve."""
    if index is not None or file is not None or files:
        raise UserError("traces are a model's own solutions: leave out index, file and files, or traces")
    if model is None:
        raise UserError("traces are a model's own solutions, and there is no model: give one with model=…")


def choose(index: str, questions: QuestionConfig, sizes: Sizes, seed: int) -> Selection:
    """Questions from the passages of an index, each with its use. Raises UserError as `select` does."""
    passages = store.read(index, columns=COLUMNS, require=True)
    return select(make_questions(passages, questions, seed), sizes)


def write_chosen(
    uri: str,
    chosen: Selection,
    samples: Mapping[str, Sequence[str]],
    sizes: Sizes,
    config: PairConfig,
    cleaning: Cleaning,
) -> Built:
    """Pair the answers and write questions, demonstrations and preferences. Raises as ``clean``."""
    pairs = make_pairs(chosen.compared, samples, sizes.pairs, config)
    pairs += make_pairs(chosen.compared_test, samples, sizes.test_pairs, config)
    cleaned = cleaning.apply(uri, pairs, default=None)
    demonstrations = [demonstration(question) for question in chosen.demonstrated + chosen.test]
    questions = [question.row() for question in chosen.questions]
    tables = {
        "questions": store.overwrite(uri, "questions", questions, records.QUESTION),
        "demonstrations": store.overwrite(uri, "demonstrations", demonstrations, records.DEMONSTRATION),
    }
    return _built(uri, tables, cleaned, figures(chosen, cleaned.rows, samples), [])


def write_files(uri: str, files: Mapping[str, Path], test_share: float, cleaning: Cleaning) -> Built:
    """Write a person's own pairs, cleaned by default, and a demonstration of each chosen answer.

    Args:
        files: name of the source → file; rows with a ``source`` of their own keep it.

    Raises:
        UserError: as ``preference_files.read_preferences`` and ``clean``.
    """
    read = [preference_files.read_preferences(path, test_share, cleaning.salt, name) for name, path in files.items()]
    found = preference_files.together(read)
    cleaned = cleaning.apply(uri, found.rows, CleanConfig(), found.copies)
    demonstrations = preference_files.demonstrations_of(cleaned.rows)
    tables = {"demonstrations": store.overwrite(uri, "demonstrations", demonstrations, records.DEMONSTRATION)}
    counts = preference_files.figures(found.reasons(), Counter(row["split"] for row in cleaned.rows))
    return _built(uri, tables, cleaned, counts, found.left_out)


def write_traces(uri: str, made: traces.Traces, cleaning: Cleaning) -> Built:
    """Write the demonstrations and the pairs of a model's own solutions. Raises as ``clean``."""
    cleaned = cleaning.apply(uri, made.pairs, default=None)
    tables = {"demonstrations": store.overwrite(uri, "demonstrations", made.demonstrations, records.DEMONSTRATION)}
    return _built(uri, tables, cleaned, made.figures, [])


def _built(
    uri: str, tables: dict[str, str], cleaned: Cleaned, counts: dict[str, float], left_out: list[dict[str, str]]
) -> Built:
    """Write the pairs and those that were dropped, and describe them."""
    tables = {
        "preferences": store.overwrite(uri, "preferences", cleaned.rows, records.PREFERENCE),
        "dropped": store.overwrite(uri, "preferences_dropped", cleaned.dropped, records.DROPPED),
        **tables,
    }
    card = data_card.describe(cleaned.rows, cleaned.dropped, left_out, tables["preferences"], cleaned.found())
    return Built(tables, {**counts, **cleaned.figures(), **data_card.figures(card)}, card, cleaned.rows, left_out)
