"""Compute the log-probabilities of preference pairs under a reference model, once, into LanceDB."""

from typing import TYPE_CHECKING, Any, Literal

from components.config import Field, ModelRef, TableRef, WorkflowConfig
from components.training.reference import ScoringConfig

if TYPE_CHECKING:
    from components.tracking.run import Result, Run


class ScoreReference(WorkflowConfig):
    """What score_reference reads from its YAML."""

    model: ModelRef = Field(description="the reference: the model that preference training starts from")
    preferences: TableRef = Field(description="table of preference pairs")
    split: Literal["train", "test"] = Field("train", description="which pairs are scored; training looks up both")
    max_tokens: int = Field(1024, ge=8, description="longer pairs are left out, as training leaves them out")
    dtype: Literal["auto", "bfloat16", "float32"] = Field(
        "auto", description="number format, as in training; auto goes by scoring.gpu here, by scale.gpu there"
    )
    quantization: Literal["none", "nf4"] = Field(
        "none", description="nf4: in 4 bits, which is the reference of a training with adapter.name=qlora"
    )
    scoring: ScoringConfig = Field(ScoringConfig(), description="how the model is run over the pairs")


def main(config: ScoreReference, run: "Run") -> "Result":
    """Score what the table lacks; return ``{"reference_logprobs"}``, the pinned table."""
    from components.data import store
    from components.data.chat import ChatTemplate
    from components.models import sources
    from components.orchestration.cluster import ray_session
    from components.tracking.run import Result
    from components.training import reference
    from components.training.rows import read_split
    from components.training.settings import weight_dtype

    model = sources.resolve(config.model, run.cache)
    template = ChatTemplate.from_folder(model)
    table = store.pin(config.preferences)
    run.log_dataset("preferences", table, "reference")
    limits: dict[str, Any] = {"columns": reference.PAIR_COLUMNS, "max_tokens": config.max_tokens}
    pairs = read_split(table, config.split, reference.pair_ids(template), **limits)
    which = reference.Reference(
        model,
        sources.digest(model, run.cache),
        template.digest,
        weight_dtype(config.dtype, bool(config.scoring.gpu)),
        nf4=config.quantization == "nf4",
    )
    uri = f"{config.storage}/lancedb"
    with ray_session(config.ray, config.storage):
        _, computed = reference.reference_logprobs(uri, pairs.rows, which, config.scoring)
    ref = store.pin(store.make_ref(uri, reference.TABLE))
    return Result({"reference_logprobs": ref}, {"pairs": len(pairs.rows), "computed": computed})


if __name__ == "__main__":
    from components.orchestration.entry import entry

    entry(ScoreReference, main)
