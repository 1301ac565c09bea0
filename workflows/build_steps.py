"""Make preference pairs and labelled steps, for outcome and process reward models, from worked solutions."""

from pathlib import Path
from typing import TYPE_CHECKING

from components.config import Field, InputPath, UserError, WorkflowConfig

if TYPE_CHECKING:
    from components.tracking.run import Result, Run


class BuildSteps(WorkflowConfig):
    """What build_steps reads from its YAML."""

    file: InputPath = Field(description="worked solutions: .jsonl or .jsonl.gz")
    preferences: str = Field("preferences", pattern=r"^\w+$", description="table of the pairs; it is replaced")
    steps: str = Field("steps", pattern=r"^\w+$", description="table of the labelled steps; it is replaced")
    per_prompt: int = Field(2, ge=1, description="most pairs with the same question")
    spoiled: int = Field(1, ge=0, description="most variants of each reference solution with a wrong step")
    test_share: float = Field(0.1, ge=0, lt=1, description="share of the questions kept for the test")
    limit: int | None = Field(None, ge=1, description="rows of the file that are read; none: all")


def main(config: BuildSteps, run: "Run") -> "Result":
    """Write the tables and return their references; a file without wrong beside right gives no `preferences`."""
    from components.data import records, solutions, store
    from components.tracking.lineage import write_lineage
    from components.tracking.run import Result

    if config.preferences == config.steps:
        raise UserError(f"preferences and steps both name the table '{config.steps}': give them different names")
    source = str(Path(config.file).resolve())
    problems = solutions.read_solutions(source, config.limit)
    pairs = solutions.outcome_pairs(problems, config.per_prompt, config.test_share)
    rows = solutions.steps(problems, config.test_share, spoiled=config.spoiled, seed=config.seed)
    uri = f"{config.storage}/lancedb"
    tables = {"steps": store.overwrite(uri, config.steps, rows, records.STEPS)}
    if pairs:
        tables["preferences"] = store.overwrite(uri, config.preferences, pairs, records.PREFERENCE)
    for name, table in tables.items():
        run.log_dataset(name, table, name)
    facts = {"tables": tables, "spoiled": config.spoiled, "seed": config.seed}
    write_lineage(run.dir, kind="steps", run=run, parents=[source], facts=facts)
    return Result(dict(tables), solutions.figures(pairs, rows))


def plan(config: BuildSteps) -> dict[str, object]:
    """Return what the file holds; reading it also finds what is wrong with it."""
    from components.data.solutions import read_solutions
    from components.orchestration.handover import to_bring

    if to_bring(config):
        return {"questions": "known once the file is fetched"}
    problems = read_solutions(config.file, config.limit)
    return {
        "questions": len(problems),
        "reference solutions": sum(problem.reference is not None for problem in problems),
        "judged solutions": sum(len(problem.judged) for problem in problems),
    }


if __name__ == "__main__":
    from components.orchestration.entry import entry

    entry(BuildSteps, main)
