"""What a PPO run writes down as it goes: a line for every answer's figures, and some answers to read."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from components.training.ppo.experience import Experience
from components.training.ppo.figures import Scores


class Notes:
    """A file of JSON lines, one worker's; each line tells its ``iteration``."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def add(self, iteration: int, lines: Iterable[Mapping[str, Any]]) -> None:
        """Append lines of one iteration."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a") as file:
            file.writelines(json.dumps({"iteration": iteration, **line}) + "\n" for line in lines)

    def forget_after(self, iteration: int) -> None:
        """Drop what later iterations wrote: a run that goes on from ``iteration`` draws them again."""
        if self.path.is_file():
            lines = self.path.read_text().splitlines(keepends=True)
            kept = "".join(line for line in lines if line.endswith("\n") and json.loads(line)["iteration"] <= iteration)
            self.path.write_text(kept)


def answer_figures(rows: Iterable[Any], drawn: Experience, scores: Scores) -> list[dict[str, Any]]:
    """Return each answer's figures.

    ``total`` is what is maximized before the KL penalty, step rewards included, ``reward`` the reward models', in
    held-out deviations; ``disagreement`` is the deviation among their heads, ``kl`` the sum of ln policy - ln
    reference over the answer.
    """
    kl_PK = ((drawn.old - drawn.reference) * drawn.mask).sum(-1)
    total_PK = scores.total if scores.steps is None else scores.total + scores.steps.sum(-1)
    found = []
    for p, row in enumerate(rows):
        for k, answer in enumerate(drawn.answers[p]):
            found.append(
                {
                    "prompt": row.get("question") or "",
                    "sample": k,
                    "tokens": len(answer.ids),
                    "finished": answer.finished,
                    "total": _short(total_PK[p, k]),
                    "reward": _short(scores.raw[p, k]),
                    "judge": None if scores.judged is None else _short(scores.judged[p, k]),
                    "disagreement": _short(scores.disagreement[p, k]),
                    "kl": _short(kl_PK[p, k]),
                }
            )
    return found


def _short(value: Any) -> float:
    return round(float(value), 4)
