"""Make questions, demonstrations and preference pairs from an index, or take a person's own preference file."""

from pathlib import Path
from typing import TYPE_CHECKING

from components.config import Field, InputPath, ModelRef, TableRef, UserError, WorkflowConfig
from components.data.contexts import QuestionConfig
from components.data.pairs import PairConfig
from components.data.selection import Sizes
from components.models.engine import EngineConfig, Sampling

if TYPE_CHECKING:
    from components.tracking.run import Result, Run


class BuildPreferences(WorkflowConfig):
    """Give `index` (and a model to sample from), or `file`."""

    index: TableRef | None = Field(None, description="passages table to make questions from")
    model: ModelRef | None = Field(None, description="model whose answers are compared; none: only spoiled ones")
    file: InputPath | None = Field(None, description="own pairs instead: .jsonl, .jsonl.gz or .parquet")
    file_test_share: float = Field(0.1, ge=0, lt=1, description="share of the file's prompts kept for the test")
    questions: QuestionConfig = Field(QuestionConfig(), description="how questions are made")
    sizes: Sizes = Field(Sizes(), description="how much is made")
    pairs: PairConfig = Field(PairConfig(), description="how answers are paired")
    sampling: Sampling = Field(Sampling(n=2, temperature=0.8, top_p=0.95), description="how the model answers")
    engine: EngineConfig = Field(EngineConfig(), description="the engines that answer")


def main(config: BuildPreferences, run: "Run") -> "Result":
    """Write the tables and return their references."""
    if (config.index is None) == (config.file is None):
        raise UserError("give either index (a passages table) or file (your own pairs), not both and not neither")
    return from_file(config) if config.file else from_index(config, run)


def from_index(config: BuildPreferences, run: "Run") -> "Result":
    """Questions from passages; the model's answers and spoiled ones, judged, become pairs."""
    from components.data import pairs as pairing
    from components.data import questions, records, selection, store
    from components.tracking.run import Result

    assert config.index is not None
    index = store.pin(config.index)
    run.log_dataset("passages", index, "source")
    passages = store.read(index, columns=questions.COLUMNS, require=True)
    chosen = selection.select(questions.make_questions(passages, config.questions, config.seed), config.sizes)
    samples = draw(config, run, chosen.compared + chosen.compared_test) if config.model else {}
    rows = pairing.make_pairs(chosen.compared, samples, config.sizes.pairs, config.pairs)
    rows += pairing.make_pairs(chosen.compared_test, samples, config.sizes.test_pairs, config.pairs)
    run.log_text(selection.sample_text(chosen, rows), "samples.md")
    demonstrations = [pairing.demonstration(question) for question in chosen.demonstrated + chosen.test]
    uri = f"{config.storage}/lancedb"
    asked = [question.row() for question in chosen.questions]
    outputs = {
        "questions": store.overwrite(uri, "questions", asked, records.QUESTION),
        "demonstrations": store.overwrite(uri, "demonstrations", demonstrations, records.DEMONSTRATION),
        "preferences": store.overwrite(uri, "preferences", rows, records.PREFERENCE),
    }
    return Result(outputs, selection.figures(chosen, rows, samples))


def draw(config: BuildPreferences, run: "Run", asked: list) -> dict[str, list[str]]:
    """The model's answers to the questions, by prompt id."""
    from components.data.chat import ChatTemplate
    from components.models import engine, sources
    from components.orchestration.cluster import ray_session

    assert config.model is not None
    model = sources.resolve(config.model, run.cache)
    template = ChatTemplate.from_folder(model)
    prompts = [{"prompt_id": q.prompt_id, "prompt_ids": template.prompt_ids(q.prompt)} for q in asked]
    answers: dict[str, list[str]] = {}
    with ray_session(config.ray):
        for reply in engine.sample(prompts, model, config.sampling, config.engine, seed=config.seed):
            answers.setdefault(reply["prompt_id"], []).append(reply["text"])
    return answers


def from_file(config: BuildPreferences) -> "Result":
    """A person's own pairs, with a demonstration of each chosen answer."""
    from components.data import preference_files, records, store
    from components.tracking.run import Result

    found = preference_files.read_preferences(
        Path(str(config.file)), config.file_test_share, config.questions.split_salt
    )
    demonstrations = preference_files.demonstrations_of(found.rows)
    uri = f"{config.storage}/lancedb"
    outputs = {
        "preferences": store.overwrite(uri, "preferences", found.rows, records.PREFERENCE),
        "demonstrations": store.overwrite(uri, "demonstrations", demonstrations, records.DEMONSTRATION),
    }
    return Result(outputs, preference_files.figures(found))


if __name__ == "__main__":
    from components.orchestration.entry import entry

    entry(BuildPreferences, main)
