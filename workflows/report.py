"""Write one self-contained HTML page over a pipeline's runs, and put it into MLflow."""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from components.config import Field, InputPath, WorkflowConfig

if TYPE_CHECKING:
    from components.tracking.run import Result, Run


class Report(WorkflowConfig):
    """What the page shows; in a pipeline each of these is another step's output."""

    replaces: ClassVar[tuple[str, ...]] = ("path",)

    title: str = Field("Raylign report", description="heading of the page")
    runs: dict[str, str] = Field(min_length=1, description="step name → MLflow run id")
    evaluations: dict[str, dict[str, dict[str, float]]] = Field(
        {}, description="model → metric → mean, low, high, n: the before/after table"
    )
    curves: dict[str, str] = Field({}, description="heading → MLflow run id whose loss and rewards are drawn")
    figures: dict[str, dict[str, float]] = Field({}, description="heading → figures shown as a table")
    sweeps: dict[str, InputPath] = Field({}, description="heading → comparison of a sweep, its step's output sweep")
    answers: dict[str, InputPath] = Field({}, description="heading → samples of train_ppo: its first and last answers")
    transcript: InputPath | None = Field(None, description="transcript.json of the serve workflow")
    model: InputPath | None = Field(None, description="folder of the endpoint or of a model, whose lineage is shown")
    path: str = Field("report.html", description="where to write the page, within the storage")

    def in_effect(self, outputs: Mapping[str, Any]) -> bool:
        """Return whether the page is still the one that the run wrote: another pipeline's may have its place."""
        from components.storage import fetched

        with fetched(outputs["report"]) as page:
            return _sha256(page) == outputs.get("sha256")


def _sha256(page: Path) -> str:
    return hashlib.sha256(page.read_bytes()).hexdigest()


def main(config: Report, run: "Run") -> "Result":
    """Write the page from the runs' records."""
    from components.orchestration.report import first_and_last, write_report
    from components.storage import folder
    from components.tracking.history import describe_run, read_curves
    from components.tracking.lineage import read_lineage
    from components.tracking.run import Result

    storage = folder(config.storage)
    transcript: list[dict[str, Any]] = json.loads(Path(config.transcript).read_text()) if config.transcript else []
    page = storage / config.path
    partial = page.with_suffix(".partial")
    write_report(
        partial,
        title=config.title,
        steps=[{"name": name, **describe_run(storage, run_id)} for name, run_id in config.runs.items()],
        evaluations=config.evaluations,
        curves={heading: read_curves(storage, run_id) for heading, run_id in config.curves.items()},
        figures=config.figures,
        sweeps={heading: json.loads(Path(path).read_text()) for heading, path in config.sweeps.items()},
        answers={heading: first_and_last(Path(path)) for heading, path in config.answers.items()},
        transcript=transcript,
        lineage=read_lineage(config.model) if config.model else None,
    )
    os.replace(partial, page)
    run.log_artifact(page)
    return Result({"report": str(page), "sha256": _sha256(page)}, {"bytes": page.stat().st_size})


if __name__ == "__main__":
    from components.orchestration.entry import entry

    entry(Report, main)
