"""Make a model smaller and faster to serve, measure what that cost, and refuse it when that is too much."""

import os
from typing import TYPE_CHECKING, Any

from components.config import Field, ModelRef, TableRef, UserError, WorkflowConfig
from components.quantization.gate import GateConfig
from components.quantization.menu import MethodConfig

if TYPE_CHECKING:
    from components.tracking.run import Result, Run


class Quantize(WorkflowConfig):
    """What quantize reads from its YAML."""

    model: ModelRef = Field(description="the model to quantize")
    method: MethodConfig = Field(MethodConfig(), description="how")
    evaluation: TableRef = Field(
        description="demonstrations table: 'train' calibrates, 'test' is what both models read"
    )
    calibration: int = Field(32, ge=1, description="rows of split 'train' that show where activations have outliers")
    limit: int = Field(32, ge=1, description="rows of split 'test' that both models read")
    max_tokens: int = Field(1024, ge=8, description="longer rows are left out")
    gate: GateConfig = Field(GateConfig(), description="what the quantized model may lose")


def main(config: Quantize, run: "Run") -> "Result":
    """Quantize, measure the saved folder, and return ``{"model"}`` if the gate lets it pass."""
    from components.data import store
    from components.data.chat import IGNORED, ChatTemplate
    from components.models import sources
    from components.models.folder import places
    from components.quantization import gate, menu
    from components.tracking.lineage import write_lineage
    from components.tracking.run import Result
    from components.training.rows import read_sample
    from components.training.sft import COLUMNS, demonstration_ids

    source = sources.resolve(config.model, run.cache)
    template = ChatTemplate.from_folder(source)
    table = store.pin(config.evaluation)
    run.log_dataset("demonstrations", table, "evaluation")
    limits: dict[str, Any] = {"columns": COLUMNS, "max_tokens": config.max_tokens, "seed": config.seed}
    seen = read_sample(table, "train", demonstration_ids(template), size=config.calibration, **limits)
    read = read_sample(table, "test", demonstration_ids(template), size=config.limit, **limits)
    if read is None or seen is None:
        raise UserError(f"{table} needs rows in both splits: 'train' calibrates, on 'test' the result is measured")
    texts = [gate.Text(row["input_ids"], row["labels"].count(IGNORED)) for row in read.rows]
    half, target = places(run.dir)
    menu.quantize(source, half, [row["input_ids"] for row in seen.rows], config.method)
    measured = gate.measure(source, half, texts)
    run.log_metrics(measured.metrics())
    gate.check(measured, config.gate)
    facts: dict[str, Any] = {"method": config.method.model_dump(mode="json"), "measured": measured.metrics()}
    facts |= {"base_digest": sources.digest(source, run.cache), "digest": sources.digest(half)}
    facts |= {"template_digest": template.digest, "table": table}
    write_lineage(half, kind="quantized-model", run=run, parents=[source, table], facts=facts)
    os.replace(half, target)
    return Result({"model": str(target)}, measured.metrics())


def plan(config: Quantize) -> dict[str, Any]:
    """Return the model's size and the memory that measuring takes, if the model is on this machine already."""
    from components import storage
    from components.models import memory, sources

    folder = sources.local(config.model, storage.folder(config.storage) / "cache")
    if folder is None:
        return {"memory_bytes": f"unknown until {config.model} is fetched"}
    size = memory.read_shape(folder).weight_bytes
    return {"bytes_original": size, "memory_bytes": 3 * size}


if __name__ == "__main__":
    from components.orchestration.entry import entry

    entry(Quantize, main)
