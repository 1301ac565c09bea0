"""Merge an adapter into the model it was trained on, if the merged model computes the same."""

from typing import TYPE_CHECKING, Literal

from components.config import Field, InputPath, ModelRef, WorkflowConfig

if TYPE_CHECKING:
    from components.tracking.run import Result, Run


class MergeAdapter(WorkflowConfig):
    """What merge_adapter reads from its YAML."""

    adapter: InputPath = Field(description="folder of the adapter, in PEFT's format")
    base: ModelRef = Field(description="the model that the adapter was trained on; another one is refused")
    dtype: Literal["bfloat16", "float32"] = Field("bfloat16", description="number format of the merged weights")


def main(config: MergeAdapter, run: "Run") -> "Result":
    """Merge in float32, compare, write; return ``{"model"}``."""
    from pathlib import Path

    from components.config import UserError
    from components.data.chat import ChatTemplate
    from components.models import adapters, sources
    from components.tracking.lineage import read_lineage, write_lineage
    from components.tracking.run import Result

    adapter, base = Path(config.adapter), sources.resolve(config.base, run.cache)
    if not (adapter / "adapter_config.json").is_file():
        raise UserError(f"{adapter} is no adapter: it needs the files adapter_config.json and adapter_model")
    digest, template = sources.digest(base, run.cache), ChatTemplate.from_folder(base)
    page = read_lineage(adapter)
    trained_on = page["facts"].get("base_digest") if page else None
    if trained_on not in (None, digest):
        raise UserError(
            f"{adapter} was trained on a model with digest {trained_on[:12]}, {base} has {digest[:12]}: "
            "merge it into the model it was trained on"
        )
    probes = [template.prompt_ids([{"role": "user", "content": text}]) for text in adapters.PROBES]
    merged, target = run.dir / ".merged", run.dir / "model"
    report = adapters.merge(base, adapter, merged, probes, dtype=config.dtype)
    facts = {"base_digest": digest, "template_digest": template.digest, "parity": report.parity}
    write_lineage(merged, kind="model", run=run, parents=[base, adapter], facts=facts)
    adapters.move(merged, target)
    metrics = {"merge/parity": report.parity, "merge/rounded_kl": report.rounded_kl}
    return Result({"model": str(target)}, metrics)


if __name__ == "__main__":
    from components.orchestration.entry import entry

    entry(MergeAdapter, main)
