"""Register a model, or an adapter, under a name and alias, unless it fell below what it is compared with."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from components.config import Field, InputPath, ModelRef, UserError, WorkflowConfig

if TYPE_CHECKING:
    from components.tracking.run import Result, Run


class Promote(WorkflowConfig):
    """What promote reads from its YAML."""

    replaces: ClassVar[tuple[str, ...]] = ("name", "alias")

    model: ModelRef = Field(description="the model to register, as it will be served")
    adapter: InputPath | None = Field(
        None,
        description="an adapter that is registered instead of the model, which has to be the one it was trained on",
    )
    name: str = Field("docs-assistant", min_length=1, description="its name in the registry")
    alias: str = Field("champion", min_length=1, description="the alias that moves to the new version")
    candidate: dict[str, Any] | None = Field(None, description="evaluation of this model: metric → figure or {mean, …}")
    baseline: dict[str, Any] | None = Field(None, description="evaluation that it is compared with; none: no gate")
    metric: str = Field("score", min_length=1, description="metric that is compared; more is better")
    max_drop: float = Field(0.03, ge=0, description="how far below the baseline the candidate may be")

    def in_effect(self, outputs: Mapping[str, Any]) -> bool:
        """Return whether the alias is still where the run moved it."""
        from components.storage import folder
        from components.tracking.registry import pin_registered

        try:
            now = pin_registered(folder(self.storage), outputs["reference"])
        except UserError:  # somebody took the alias away
            return False
        return now == f"models:/{self.name}/{outputs['version']}@{self.alias}"


def main(config: Promote, run: "Run") -> "Result":
    """Compare, register, move the alias, and return the version's references."""
    from pathlib import Path

    from components.data.evaluation import figure
    from components.models import sources
    from components.models.adapter_base import registry_tags
    from components.tracking.lineage import read_lineage
    from components.tracking.registry import register_model
    from components.tracking.run import Result

    folder = sources.resolve(config.model, run.cache)
    tags: dict[str, str] = {}
    if config.adapter:
        if config.name == Promote.model_fields["name"].default:
            raise UserError(f"'{config.name}' is a name of whole models: give the adapter a name of its own (name=…)")
        tags = registry_tags(Path(config.adapter), folder, run.cache)
        folder = Path(config.adapter)
    metrics: dict[str, float] = {}
    if config.candidate is not None:
        metrics["candidate"] = figure(config.candidate, config.metric, "candidate")
    if config.baseline is not None:
        if config.candidate is None:
            raise UserError("a baseline needs the candidate's evaluation to be compared with: give 'candidate' too")
        metrics["baseline"] = figure(config.baseline, config.metric, "baseline")
        metrics["drop"] = metrics["baseline"] - metrics["candidate"]
    run.log_metrics(metrics)
    if not metrics.get("drop", 0.0) <= config.max_drop:
        raise RuntimeError(
            f"not promoted: {config.metric} is {metrics['candidate']:.4f}, which is {metrics['drop']:.4f} below the "
            f"baseline's {metrics['baseline']:.4f} (allowed: {config.max_drop:.4f})"
        )
    page = read_lineage(folder) or {}
    tags |= {"digest": sources.digest(folder, run.cache), "lineage_id": str(page.get("lineage_id", "none"))}
    tags |= {f"{config.metric}.{name}": f"{value:.6f}" for name, value in metrics.items()}
    version = register_model(run, config.name, folder, config.alias, tags)
    references = {"reference": f"models:/{config.name}@{config.alias}", "version": version}
    references |= {"adapter" if config.adapter else "model": str(folder)}
    return Result(references, {**metrics, "version": float(version)})


if __name__ == "__main__":
    from components.orchestration.entry import entry

    entry(Promote, main)
