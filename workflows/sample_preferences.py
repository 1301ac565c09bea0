"""Let a model answer prompts, have its answers judged, and add the best and the worst of each as preference pairs."""

from typing import TYPE_CHECKING

from components.config import Field, ModelRef, TableRef, WorkflowConfig
from components.models.engine import EngineConfig
from components.training.judges import JudgeConfig
from components.training.own_answers import SeveralDraws

if TYPE_CHECKING:
    from components.tracking.run import Result, Run


class SamplePreferences(WorkflowConfig):
    """What sample_preferences reads from its YAML."""

    model: ModelRef = Field(description="the model that answers: the one that is trained on the pairs afterwards")
    prompts: TableRef = Field(description="table with prompts (questions, demonstrations, pairs …): split 'train'")
    round: int = Field(1, ge=1, description="number of the round: which prompts are asked, and a column of the pairs")
    size: int = Field(64, ge=1, description="prompts of a round; the next round takes the next ones")
    onto: TableRef | None = Field(
        None, description="pairs that the table begins with: an earlier round's, or build_preferences'; none: it is new"
    )
    table: str = Field("online_preferences", pattern=r"^\w+$", description="table of the storage that is written")
    judge: JudgeConfig = Field(JudgeConfig(), description="who says which answer is better")
    margin: float = Field(0.2, gt=0, description="least difference of the judge's scores of two answers")
    sampling: SeveralDraws = Field(SeveralDraws(), description="how the model answers")
    engine: EngineConfig = Field(EngineConfig(), description="the engines that answer")


def main(config: SamplePreferences, run: "Run") -> "Result":
    """Write the pairs; return ``{"preferences"}``, the table's pinned version, and the data card of what it holds."""
    from components.data import data_card, generations, store
    from components.data.chat import ChatTemplate
    from components.models import sources
    from components.orchestration.cluster import ray_session
    from components.orchestration.data_card import log_data_card
    from components.tracking.lineage import write_lineage
    from components.tracking.run import Result
    from components.training import judges, own_answers

    model = sources.resolve(config.model, run.cache)
    template, prompts = ChatTemplate.from_folder(model), store.pin(config.prompts)
    onto = store.pin(config.onto) if config.onto else None
    run.log_dataset("prompts", prompts, "train")
    judge = judges.make(config.judge, model, template, run.cache, config.seed)
    known, held_out = generations.read_prompts(prompts, onto, questions=config.judge.name == "programmatic")
    rows = generations.of_round(known, config.size, config.round, config.seed)
    policy = sources.digest(model, run.cache)
    drawn = generations.sampling_page(config.sampling.model_dump(), config.seed, prompts)
    generation = generations.Generation(config.round, policy, drawn, config.judge.name, judge.digest)
    with ray_session(config.ray, config.storage):
        seed = config.seed * 1_009 + config.round
        answers = own_answers.draw(rows, template, model, config.sampling, config.engine, seed)
        judged, figures = judge(rows, [[answer.text for answer in own] for own in answers])
    pairs = generations.make_pairs(rows, answers, judged, config.margin, generation)
    table = generations.append(f"{config.storage}/lancedb", config.table, onto, pairs)
    run.log_text(generations.sample_text(pairs), "samples.md")
    facts = {"table": table, "template_digest": template.digest, **generation.columns()}
    parents = [str(model), prompts, *([onto] if onto else [])]
    write_lineage(run.dir, kind="preferences", run=run, parents=parents, facts=facts)
    card = data_card.describe(store.read(table), [], [], table, {})
    figures |= {**generations.figures(answers, judged, pairs), "prompts/held_out": float(held_out)}
    return Result({"preferences": table, **log_data_card(run, card, [])}, figures | data_card.figures(card))


def plan(config: SamplePreferences) -> dict[str, str]:
    """Return how much is asked of the models."""
    found = {"answers": f"{config.size} prompts x {config.sampling.n}"}
    if config.judge.name == "llm":
        found["comparisons"] = f"at most {config.size * config.judge.llm.comparisons}, each in both orders"
    return found


if __name__ == "__main__":
    from components.orchestration.entry import entry

    entry(SamplePreferences, main)
