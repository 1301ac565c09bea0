"""Make the table that KTO learns from out of a person's own answers, each called good or bad."""

from pathlib import Path
from typing import TYPE_CHECKING

from components.config import Field, InputPath, WorkflowConfig

if TYPE_CHECKING:
    from components.tracking.run import Result, Run


class BuildLabels(WorkflowConfig):
    """What build_labels reads from its YAML."""

    file: InputPath = Field(description="rows {prompt, completion, label}: .jsonl, .jsonl.gz or .parquet")
    test_share: float = Field(
        0.1, ge=0, lt=1, description="share of the prompts kept for the test, of rows without a `split` of their own"
    )
    split_salt: str = Field("", description="another text makes another split")


def main(config: BuildLabels, run: "Run") -> "Result":
    """Write the tables `answers` and `demonstrations` and the data card, and return their references."""
    from components.data import label_card, labelled_files
    from components.orchestration.label_card import log_label_card
    from components.tracking.lineage import write_lineage
    from components.tracking.run import Result

    source, uri = Path(config.file).resolve(), f"{config.storage}/lancedb"
    tables, card = labelled_files.write_labelled(uri, source, config.test_share, config.split_salt)
    write_lineage(run.dir, kind="labels", run=run, parents=[str(source)], facts={"tables": tables})
    return Result({**tables, **log_label_card(run, card)}, label_card.figures(card))


if __name__ == "__main__":
    from components.orchestration.entry import entry

    entry(BuildLabels, main)
