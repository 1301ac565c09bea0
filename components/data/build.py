"""The tables that training and evaluation read, from questions and their answers or from a person's own file."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from components.data import preference_files, records, store
from components.data.contexts import QuestionConfig
from components.data.pairs import PairConfig, demonstration, make_pairs
from components.data.questions import COLUMNS, make_questions
from components.data.selection import Selection, Sizes, figures, select

Tables = dict[str, str]


def choose(index: str, questions: QuestionConfig, sizes: Sizes, seed: int) -> Selection:
    """Questions from the passages of an index, each with its use. Raises UserError as `select` does."""
    passages = store.read(index, columns=COLUMNS, require=True)
    return select(make_questions(passages, questions, seed), sizes)


def write_chosen(
    uri: str, chosen: Selection, samples: Mapping[str, Sequence[str]], sizes: Sizes, config: PairConfig
) -> tuple[Tables, list[dict[str, Any]], dict[str, float]]:
    """Pair the answers and write questions, demonstrations and preferences; (tables, pairs, figures)."""
    pairs = make_pairs(chosen.compared, samples, sizes.pairs, config)
    pairs += make_pairs(chosen.compared_test, samples, sizes.test_pairs, config)
    demonstrations = [demonstration(question) for question in chosen.demonstrated + chosen.test]
    questions = [question.row() for question in chosen.questions]
    tables = {
        "questions": store.overwrite(uri, "questions", questions, records.QUESTION),
        "demonstrations": store.overwrite(uri, "demonstrations", demonstrations, records.DEMONSTRATION),
        "preferences": store.overwrite(uri, "preferences", pairs, records.PREFERENCE),
    }
    return tables, pairs, figures(chosen, pairs, samples)


def write_file(uri: str, path: Path, test_share: float, salt: str) -> tuple[Tables, dict[str, float]]:
    """Write a person's own pairs, and a demonstration of each chosen answer; (tables, figures).

    Raises:
        UserError: as `preference_files.read_preferences`.
    """
    found = preference_files.read_preferences(path, test_share, salt)
    demonstrations = preference_files.demonstrations_of(found.rows)
    tables = {
        "preferences": store.overwrite(uri, "preferences", found.rows, records.PREFERENCE),
        "demonstrations": store.overwrite(uri, "demonstrations", demonstrations, records.DEMONSTRATION),
    }
    return tables, preference_files.figures(found)
