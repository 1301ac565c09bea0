"""Preference pairs of a model's own answers: which prompts a round asks, the best and the worst answer, the rows.

A generation is what decides a pair besides its prompt: the round, the model that answered, how it was sampled and from
which table of prompts, and the judge. Its hash is part of a pair's id, so that a round that is run again makes the same
rows and no others.
"""

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from components.config import UserError
from components.data import store
from components.data.records import ONLINE_PREFERENCE, QUESTION, content_hash
from components.data.verdicts import Judged

SOURCE = "online"
_COLUMNS = ["prompt_id", "prompt", "kind", "split"]
_ROUNDING = 1e-9


@dataclass(frozen=True)
class Answer:
    """One answer of the model; one that was cut off can lose, but not win: it would teach to stop within a word."""

    text: str
    finished: bool


@dataclass(frozen=True)
class Generation:
    """What the pairs of one round come from."""

    round: int
    policy_digest: str  # of the model that gave both answers
    sampling: str  # JSON: how they were drawn, and for the prompts of which table
    judge: str
    judge_digest: str

    @property
    def id(self) -> str:
        """The hash of all of it."""
        return content_hash(str(self.round), self.policy_digest, self.sampling, self.judge, self.judge_digest)

    def columns(self) -> dict[str, Any]:
        """Return the columns of ``ONLINE_PREFERENCE`` that say so."""
        return {
            "generation": self.id,
            "round": self.round,
            "policy_digest": self.policy_digest,
            "sampling": self.sampling,
            "judge": self.judge,
            "judge_digest": self.judge_digest,
        }


def read_prompts(table: str, onto: str | None, *, questions: bool) -> tuple[list[dict[str, Any]], int]:
    """Return each prompt of split 'train' once, and how many were left out as some table's split 'test' has them.

    Args:
        table: pinned reference of questions, demonstrations, pairs: anything with prompts.
        onto: pinned reference of the pairs that the round's are added to.
        questions: whether the judge needs what ``QUESTION`` has.

    Raises:
        UserError: there are no prompts to train on, or the table has no such columns.
    """
    columns = QUESTION.names if questions else _COLUMNS
    lacking = sorted(set(columns) - set(store.open_table(table).schema.names))
    if lacking and questions:
        raise UserError(
            f"judge.name=programmatic judges answers to questions, and {table} has no '{lacking[0]}': give the table "
            "'questions' of build_preferences as prompts, or choose judge.name=reward or llm"
        )
    rows = store.read(table, columns=columns, where="split = 'train'", require=True)
    held_out = {_said(row) for row in store.read(table, columns=["prompt"], where="split = 'test'")}
    if onto is not None:
        held_out |= {_said(row) for row in store.read(onto, columns=["prompt"], where="split = 'test'")}
    once = list({_said(row): row for row in rows}.items())
    kept = [row for said, row in once if said not in held_out]
    if not kept:
        raise UserError(f"every training prompt of {table} is held out for the test: give other prompts")
    return kept, len(once) - len(kept)


def of_round(rows: Sequence[dict[str, Any]], count: int, number: int, seed: int) -> list[dict[str, Any]]:
    """Return the prompts of round ``number`` (1, 2, …): a shuffled order is gone through and then begun again."""
    order = list(range(len(rows)))
    random.Random(seed).shuffle(order)
    size = min(count, len(rows))
    start = (number - 1) * size
    return [rows[order[(start + at) % len(order)]] for at in range(size)]


def distinct(replies: Sequence[Mapping[str, Any]]) -> list[Answer]:
    """Return the answers in ``text`` and ``finished`` without empty ones and without repeats (but for white space)."""
    found: dict[str, Answer] = {}
    for reply in replies:
        key = " ".join(reply["text"].split())
        if key and not (key in found and found[key].finished):
            found[key] = Answer(reply["text"], bool(reply["finished"]))
    return list(found.values())


def best_and_worst(answers: Sequence[Answer], judged: Judged, margin: float) -> tuple[int, int] | None:
    """Return the places of the answers that are furthest apart, at least ``margin``; none where there are none."""
    places = range(len(answers))
    pairs = judged.better if judged.better is not None else [(a, b) for a in places for b in places if a != b]
    gaps = {pair: judged.scores[pair[0]] - judged.scores[pair[1]] for pair in sorted(pairs)}
    options = [pair for pair, gap in gaps.items() if gap >= margin - _ROUNDING and answers[pair[0]].finished]
    return max(options, key=lambda pair: gaps[pair], default=None)


def make_pairs(
    rows: Sequence[Mapping[str, Any]],
    answers: Sequence[Sequence[Answer]],
    judged: Sequence[Judged],
    margin: float,
    generation: Generation,
) -> list[dict[str, Any]]:
    """Return a row of ``ONLINE_PREFERENCE`` for each prompt whose answers the judge tells apart.

    Raises:
        UserError: there is none.
    """
    pairs = []
    for row, own, verdict in zip(rows, answers, judged, strict=True):
        picked = best_and_worst(own, verdict, margin)
        if picked is None:
            continue
        best, worst = picked
        pairs.append(
            {
                "pair_id": content_hash(row["prompt_id"], own[best].text, own[worst].text, generation.id),
                **{name: row[name] for name in ("prompt_id", "prompt", "kind")},
                "chosen": [{"role": "assistant", "content": own[best].text}],
                "rejected": [{"role": "assistant", "content": own[worst].text}],
                "chosen_score": verdict.scores[best],
                "rejected_score": verdict.scores[worst],
                "source": SOURCE,
                "split": "train",
                **generation.columns(),
            }
        )
    if not pairs:
        raise UserError(
            f"the judge tells no two answers to any of {len(rows)} prompts apart by margin={margin}: lower it, or let "
            "answers differ more (sampling.n, sampling.temperature)"
        )
    return pairs


def append(uri: str, name: str, onto: str | None, pairs: Sequence[dict[str, Any]]) -> str:
    """Write the table ``name`` as the pairs of ``onto`` and these, in one commit; return its pinned reference.

    A version thus holds what its round goes back to and nothing of other runs; older versions stay readable. Pairs of
    the same generation that ``onto`` has already are replaced.

    Raises:
        UserError: ``onto`` is not a table of pairs.
    """
    import pyarrow as pa

    from components.data.schemas import OPTIONAL, as_table

    added = as_table(pairs, ONLINE_PREFERENCE)
    if onto is None:
        return store.overwrite(uri, name, added, ONLINE_PREFERENCE)
    columns = store.open_table(onto).schema.names
    needed = {column for column in ONLINE_PREFERENCE.names if column not in OPTIONAL}
    if strange := sorted(needed - set(columns)) or sorted(set(columns) - set(ONLINE_PREFERENCE.names)):
        raise UserError(f"onto={onto} is no table of preference pairs (see '{strange[0]}'): give one, or leave it out")
    generations = sorted({pair["generation"] for pair in pairs})
    others = None
    if "generation" in columns:
        others = f"generation IS NULL OR generation NOT IN ({', '.join(map(store.quote, generations))})"
    kept: pa.Table = as_table(store.read_arrow(onto, where=others), ONLINE_PREFERENCE)
    return store.overwrite(uri, name, pa.concat_tables([kept, added]), ONLINE_PREFERENCE)


def figures(
    answers: Sequence[Sequence[Answer]], judged: Sequence[Judged], pairs: Sequence[Mapping[str, Any]]
) -> dict[str, float]:
    """Return how good the answers are, by the judge's scores, and how many of them made pairs."""
    scores = [score for own in judged for score in own.scores]
    found = {
        "answers": float(sum(map(len, answers))),
        "answers/unfinished": float(sum(not answer.finished for own in answers for answer in own)),
        "pairs": float(len(pairs)),
        "pairs/margin": sum(pair["chosen_score"] - pair["rejected_score"] for pair in pairs) / len(pairs),
        "prompts": float(len(answers)),
    }
    if scores:
        best = [max(own.scores) for own in judged if own.scores]
        found |= {"score/mean": sum(scores) / len(scores), "score/best": sum(best) / len(best)}
    return found


def sample_text(pairs: Sequence[Mapping[str, Any]], count: int = 20) -> str:
    """Return some pairs for people to read."""
    lines = []
    for pair in pairs[:: max(1, len(pairs) // count)][:count]:
        lines += [f"## {pair['kind']}", pair["prompt"][-1]["content"]]
        lines.append(f"+ ({pair['chosen_score']:.2f}) {pair['chosen'][0]['content']}")
        lines += [f"- ({pair['rejected_score']:.2f}) {pair['rejected'][0]['content']}", ""]
    return "\n".join(lines)


def sampling_page(sampling: Mapping[str, Any], seed: int, prompts: str) -> str:
    """Return how answers are drawn, as the column ``sampling`` has it; ``prompts`` is a pinned table."""
    return json.dumps({**sampling, "seed": seed, "prompts": prompts}, sort_keys=True)


def _said(row: Mapping[str, Any]) -> str:
    return content_hash(*(part for message in row["prompt"] for part in (message["role"], message["content"])))
