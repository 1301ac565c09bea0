"""What a training's rows say: pairs that tie or contradict, rows that come again, rows that evaluation uses."""

import contextlib
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from components.config import UserError
from components.data.chat import ChatTemplate
from components.data.curation import contamination, row_filters
from components.data.curation.settings import ConflictConfig, DecontaminationConfig, TieConfig
from components.data.curation.texts import normal, said
from components.training.doctor.findings import Finding, fine, look, problem, some
from components.training.reward import step_rows
from components.training.reward_rows import has_label

Row = Mapping[str, Any]

_FEW_SHARE = 0.01  # pairs that should not be there: more is a problem
_REPEATED_SHARE = 0.05  # the same of rows that come again
_LONGER_SHARE = 0.7  # chosen answers that are the longer ones: more is worth a look
_UNREAD_SHARE = 0.05  # labelled steps that cannot be read: more is a problem
_LEAST_SHARE = 0.05  # of labels of one kind: fewer is worth a look


def splits(train: Sequence[Row], test: Sequence[Row], *, learned: bool = True, needs_test: bool = False) -> Finding:
    """Whether there is something to learn from, and something to measure on.

    Args:
        learned: whether the table is trained on, not only measured on.
        needs_test: whether the training refuses to go without held-out rows.
    """
    if learned and not train:
        return problem("splits", "no row to train on: build the table with rows in split 'train'")
    counts = f"{len(train)} rows to train on, {len(test)} held out" if learned else f"{len(test)} rows held out"
    if not test and needs_test:
        return problem("splits", f"{counts}: build the table with rows in split 'test', on which it is measured")
    if not test:
        return look("splits", f"{counts}: nothing will tell whether the model got better on what it has not seen")
    return fine("splits", counts)


def leaks(train: Sequence[Row], test: Sequence[Row]) -> Finding:
    """Training rows whose prompt is held out, too."""
    held_out = {normal(said(row["prompt"])) for row in test}
    shared = sum(normal(said(row["prompt"])) in held_out for row in train)
    what = "training rows have a prompt that is held out, too: what is measured on it was learnt by heart"
    return some("leaks", shared, len(train), what, otherwise="no prompt is in both splits")


def pairs(train: Sequence[Row], test: Sequence[Row]) -> list[Finding]:
    """What is particular to preference pairs."""
    scored = [_with_scores(row) for row in train]
    ties = row_filters.ties(scored, TieConfig())
    _, conflicts = row_filters.conflicts(train, ConflictConfig(policy="report"), {})
    shown = _shown(train, test)
    total = len(train)
    wrong = [
        ("ties", len(ties), f"pairs say nothing or the opposite ({_reasons(ties)})"),
        ("conflicts", conflicts, "pairs contradict each other"),
        ("contamination", len(shown), f"pairs show what is held out ({_reasons(shown)})"),
    ]
    cure = "build_preferences takes such out"
    found = [
        some(check, number, total, f"{what}: {cure}", otherwise="none", limit=_FEW_SHARE)
        for check, number, what in wrong
    ]
    found.append(_repeats(len(row_filters.repeats(train)), total))
    lengths = [(len(said(row["chosen"])), len(said(row["rejected"]))) for row in train]
    unequal = [chosen > rejected for chosen, rejected in lengths if chosen != rejected]
    longer = sum(unequal) / len(unequal) if unequal else 0.5
    text = f"the chosen answer is the longer one in {longer:.0%} of the pairs of unequal length"
    if longer > _LONGER_SHARE or longer < 1 - _LONGER_SHARE:
        return [*found, look("length bias", f"{text}: length alone can be learnt, so compare lengths after training")]
    return [*found, fine("length bias", text)]


def labelled(train: Sequence[Row]) -> list[Finding]:
    """What is particular to answers that are good or bad."""
    good = sum(bool(row["label"]) for row in train) / len(train)
    text = f"{good:.0%} of the answers are good"
    if good in (0.0, 1.0):
        return [problem("labels", f"{text}: there is nothing to tell apart")]
    few = min(good, 1 - good) < _LEAST_SHARE
    return [(look if few else fine)("labels", text), answers(train)]


def steps(train: Sequence[Row]) -> Finding:
    """Solutions without a labelled step, which a process reward cannot learn from."""
    unlabelled = sum(not has_label(row) for row in train)
    what = "solutions have no labelled step, and are left out"
    limit = (len(train) - 1) / len(train)  # those that have one are learnt from
    return some("labels", unlabelled, len(train), what, otherwise="each solution has labelled steps", limit=limit)


def unread(train: Sequence[Row], template: ChatTemplate) -> Finding:
    """Labelled steps that a training cannot read: blank ones, and those that end within one token."""
    convert = step_rows(template)
    labelled = unread = 0
    for row in train:
        with contextlib.suppress(UserError):  # what the template refuses is told elsewhere
            unread += convert(row)[0]["unread"]
            labelled += sum(step["label"] is not None for step in row["steps"])
    what = "labelled steps cannot be read, as they are blank or a token holds the ends of several: make each a line"
    return some("steps", unread, labelled, what, otherwise="each labelled step can be read", limit=_UNREAD_SHARE)


def answers(train: Sequence[Row]) -> Finding:
    """Demonstrations that come again."""
    seen = Counter((normal(said(row["prompt"])), normal(said(row["completion"]))) for row in train)
    return _repeats(len(train) - len(seen), len(train))


def _repeats(number: int, total: int) -> Finding:
    what = "rows come again, so that they count more than others"
    return some("repeats", number, total, what, otherwise="none", limit=_REPEATED_SHARE)


def _with_scores(row: Row) -> Row:
    """The row, with scores that prefer what was chosen where it has none: nobody knows better."""
    known = row.get("chosen_score") is not None and row.get("rejected_score") is not None
    return row if known else {**row, "chosen_score": 1.0, "rejected_score": 0.0}


def _shown(train: Sequence[Row], test: Sequence[Row]) -> row_filters.Verdicts:
    config = DecontaminationConfig()
    evaluated = contamination.evaluated_texts(test, config)
    return contamination.verdicts_of(list(contamination.ByWords(evaluated, config).matches(train)))[0]


def _reasons(verdicts: row_filters.Verdicts) -> str:
    counts = Counter(reason for reason, _ in verdicts.values())
    return ", ".join(f"{number} {reason}" for reason, number in counts.most_common())
