"""What a reranker or a query adapter learns from: questions, the passages that answer them, and some that do not.

Questions are made from an index's own passages, as its exam makes them, or are one's own. Those that share a passage
are a group, and a group is on one side of the split as a whole: what is measured is questions about passages that no
training has seen, neither as an answer nor as a wrong one.
"""

import json
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.config import Config, Field, TableRef, UserError
from components.data import store
from components.data.records import content_hash
from components.data.split import Split, split_of
from components.retrieval.exam_questions import Asked, questions_from
from components.retrieval.negatives import NegativesConfig, choose

if TYPE_CHECKING:
    from components.retrieval.retrieve import Retriever

FILE = "exercises.jsonl"
FEWEST_GROUPS = 20  # of held-out questions: an interval over fewer says little
_IDS_A_READ = 500
_DRAWN = 8  # times as many passages are drawn as a question takes, as some may answer


class AskConfig(Config):
    """Which questions there are, and which of them are held out."""

    table: TableRef | None = Field(
        None,
        description="your own questions, a table with the columns question and passage_id; none makes them from the "
        "index's passages, as exam_index does",
    )
    limit: int = Field(2000, ge=1, description="questions made, or taken from the table")
    test_share: float = Field(0.3, gt=0, lt=1, description="share of the passages asked about that no training sees")


@dataclass(frozen=True)
class Exercise:
    """One question. Passages are ids."""

    question: str
    answers: tuple[str, ...]
    negatives: tuple[str, ...]  # of a training question, the hardest first
    group: str  # the same for all questions that share a passage
    split: Split


def remembered(path: Path, make: Callable[[], list[Exercise]]) -> list[Exercise]:
    """Return the exercises in a file, which is made first if it is not there.

    A training that goes on needs the very same ones, and people may want to look at them.
    """
    from components.models.folder import write_whole

    if not path.is_file():
        write_whole(path, "".join(json.dumps(asdict(one)) + "\n" for one in make()))
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return [
        Exercise(**(row | {name: tuple(row[name]) for name in ("answers", "negatives")}))  # JSON knows no tuples
        for row in rows
    ]


def gather(
    base: "Retriever", way: "Retriever", config: AskConfig, negatives: NegativesConfig, seed: int
) -> list[Exercise]:
    """Return training questions with hard negatives, and held-out ones without.

    Args:
        base: opened as hybrid; its embedder measures how alike texts are.
        way: how passages are searched, and so which ones are hard.

    Raises:
        UserError: the index cannot be asked about, the table does not fit it, or one side has too few questions.
    """
    asked = _asked(base.index, config, seed)
    texts = {key: row["text"] for key, row in lookup(base.index, {one.passage_id for one in asked}, ["text"]).items()}
    exercises = divided([one for one in asked if one.passage_id in texts], texts, config.test_share, f"rerank{seed}")
    if not exercises:
        raise UserError(
            f"there are no questions about {base.index}: none of the {len(asked)} in {config.table or 'its passages'} "
            "names a passage that it has"
        )
    groups = {one.group for one in exercises if one.split == "test"}
    if len(groups) < FEWEST_GROUPS:
        raise UserError(
            f"{len(exercises)} questions about {base.index} hold out {len(groups)} groups, and at least "
            f"{FEWEST_GROUPS} are needed to measure on: raise ask.limit or ask.test_share, or index more documents"
        )
    mined = _mined(base, way, exercises, negatives, seed)
    if not any(one.split == "train" for one in mined):
        raise UserError(
            f"of {len(exercises)} questions about {base.index} none can be trained on: each needs a passage that "
            "surely does not answer it; lower negatives.margin, or raise negatives.depth or negatives.max_likeness"
        )
    return mined


def divided(asked: Sequence[Asked], texts: Mapping[str, str], test_share: float, salt: str) -> list[Exercise]:
    """Return an exercise for each different question, without negatives.

    Passages with the same text are one passage, whatever their ids.

    Args:
        texts: passage_id → text.
    """
    import networkx

    net: networkx.Graph = networkx.Graph()
    answers: dict[str, dict[str, None]] = {}
    for one in asked:
        net.add_edge(_key("question", one.question), _key("passage", texts[one.passage_id]))
        answers.setdefault(one.question, {})[one.passage_id] = None
    # The least key names a group, whatever order its questions come in.
    names = {key: min(group) for group in networkx.connected_components(net) for key in group}
    groups = {question: names[_key("question", question)] for question in answers}
    return [
        Exercise(question, tuple(own), (), groups[question], split_of(groups[question], test_share, salt))
        for question, own in answers.items()
    ]


def lookup(index: str, ids: Iterable[str], columns: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return passage_id → row with the columns, of those ids that the index has."""
    table, wanted = store.open_table(index), sorted(set(ids))
    found: dict[str, dict[str, Any]] = {}
    for start in range(0, len(wanted), _IDS_A_READ):
        condition = store.one_of("passage_id", wanted[start : start + _IDS_A_READ])
        rows = store.rows(table, ["passage_id", *columns], condition)
        found |= {row["passage_id"]: row for row in rows}
    return found


def figures(exercises: Sequence[Exercise]) -> dict[str, float]:
    """Return how many questions there are on each side, and negatives for each training question."""
    training = [one for one in exercises if one.split == "train"]
    return {
        "questions/train": float(len(training)),
        "questions/held_out": float(len(exercises) - len(training)),
        "negatives/mean": sum(len(one.negatives) for one in training) / len(training),
    }


def _asked(index: str, config: AskConfig, seed: int) -> list[Asked]:
    """Return the questions that the config chooses.

    Raises:
        UserError: they cannot be made, or the table is missing, empty or has other columns.
    """
    if config.table is None:
        return list(questions_from(index, config.limit, seed).values())
    rows = store.read(config.table, columns=["question", "passage_id"], require=True)
    rows = [row for row in rows if row["question"] and row["question"].strip() and row["passage_id"]]
    rows.sort(key=lambda row: (row["question"], row["passage_id"]))
    drawn = random.Random(seed).sample(rows, min(config.limit, len(rows)))
    return [Asked(row["question"], row["passage_id"], "", "own") for row in drawn]


def _mined(
    base: "Retriever", way: "Retriever", exercises: Sequence[Exercise], config: NegativesConfig, seed: int
) -> list[Exercise]:
    """Return the exercises with negatives for the training ones; those for which there is none are left out.

    The last are passages that other questions found, as many as ``config.drawn`` says and as a search brings too few:
    they are easy, but they keep the model from taking any passage for an answer.
    """
    import numpy as np

    training = [one for one in exercises if one.split == "train"]
    found = {one.question: [hit.passage_id for hit in way.search(one.question, k=config.depth)] for one in training}
    ids = {key for keys in found.values() for key in keys} | {key for one in exercises for key in one.answers}
    rows = lookup(base.index, ids, ["text", "vector"])
    texts = {key: _key("passage", row["text"]) for key, row in rows.items()}
    vectors = {key: _unit(np.asarray(row["vector"], dtype=np.float32)) for key, row in rows.items()}
    held_out = {texts[key] for one in exercises if one.split == "test" for key in one.answers}
    pool = sorted(key for key in rows if texts[key] not in held_out)
    mined = []
    for one in exercises:
        if one.split == "train":
            own = {texts[key] for key in one.answers} | held_out
            most = min(_DRAWN * config.per_question, len(pool))
            drawn = random.Random(f"{seed} {one.question}").sample(pool, most)
            query = _unit(np.asarray(base.embed_query(one.question), dtype=np.float32))
            which = (one.answers, query, vectors, config)
            near = [key for key in found[one.question] if texts[key] not in own]
            hard = choose(near, *which, max(0, config.per_question - config.drawn))
            far = [key for key in drawn if texts[key] not in own and key not in hard]
            one = replace(one, negatives=(*hard, *choose(far, *which, config.per_question - len(hard))))
        if one.split == "test" or one.negatives:
            mined.append(one)
    return mined


def _key(kind: str, text: str) -> str:
    """Return what is the same for texts that differ in case and white space only."""
    return content_hash(kind, " ".join(text.casefold().split()))


def _unit(vector: Any) -> Any:
    import numpy as np

    return vector / max(float(np.linalg.norm(vector)), 1e-12)
