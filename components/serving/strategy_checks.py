"""What has to be there for a name's strategy, checked before anything starts."""

from collections.abc import Sequence
from pathlib import Path

from components.config import UserError
from components.serving.settings import ServedName

_FIXES = {
    "score": "a reward model: give its folder with scorer=…",
    "similar": "an embedder: give one with embedder=…",
    "retrieve": "an index: give one with index=…, and `search` with the name",
}


def check_strategy(name: ServedName, has: frozenset[str]) -> None:
    """Raise a UserError where a strategy does not exist, does not take its options, or lacks what it needs.

    Args:
        has: what can be handed to strategies: score, similar, retrieve.
    """
    from components.reasoning.menu import needs

    for need in sorted(needs(name.strategy, name.options)):
        if need not in has or (need == "retrieve" and name.search is None):
            raise UserError(f"the name '{name.name}' answers by {name.strategy}, which needs {_FIXES[need]}")


def check_tables(names: Sequence[ServedName], model_digest: str) -> None:
    """Raise a UserError where `auto` would choose by what was measured on another model."""
    from components.reasoning.measured import read_table

    for name in names:
        if name.strategy != "auto":
            continue
        measured = read_table(name.options["table"]).model
        if measured != model_digest:
            raise UserError(
                f"the name '{name.name}' chooses by a table that was measured on another model ({measured[:12]}, "
                f"served: {model_digest[:12]}): measure this one with `python -m workflows.evaluate reasoning`"
            )


def check_scorer(folder: Path, model: Path) -> Path:
    """Return the reward model's folder. Raises UserError where it is none, or reads another chat template."""
    from components.data.chat import ChatTemplate
    from components.models.rewards import RewardInfo

    RewardInfo.read_for(folder, ChatTemplate.from_folder(model).digest)
    return folder
