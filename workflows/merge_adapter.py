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
    onto: Literal["original", "dequantized"] | None = Field(
        None,
        description="of a qlora adapter: merge into the original weights, or into those that its 4-bit base stands "
        "for, which it was trained on (none means these); both are measured",
    )
    max_kl: float = Field(
        0.1, gt=0, description="nats a token that a merge may be from its 4-bit base with the adapter; also `quantized`"
    )
    quantized: ModelRef | None = Field(
        None, description="a quantized model of the base, to serve the adapter on, unmerged: that is measured, too"
    )


def main(config: MergeAdapter, run: "Run") -> "Result":
    """Merge in float32, compare, write; return ``{"model"}``."""
    from pathlib import Path

    from components.data.chat import ChatTemplate
    from components.models import adapter_base, merging, sources
    from components.tracking.lineage import read_lineage, write_lineage
    from components.tracking.run import Result

    adapter, base = Path(config.adapter), sources.resolve(config.base, run.cache)
    read_lineage(adapter)  # refuses a page that was edited
    adapter_base.check_base(adapter, base, run.cache)
    digest, template = sources.digest(base, run.cache), ChatTemplate.from_folder(base)
    probes = [template.prompt_ids([{"role": "user", "content": text}]) for text in merging.PROBES]
    metrics: dict[str, float] = {}
    if config.quantized:
        quantized = sources.resolve(config.quantized, run.cache)
        metrics["merge/on_quantized_kl"] = merging.check_on(base, quantized, adapter, probes, config.max_kl)
    merged, target = run.dir / ".merged", run.dir / "model"
    report = merging.merge(base, adapter, merged, probes, dtype=config.dtype, onto=config.onto, max_kl=config.max_kl)
    metrics |= {"merge/parity": report.parity, "merge/rounded_kl": report.rounded_kl}
    metrics["merge/learned_kl"] = report.learned_kl
    metrics |= {f"merge/{onto}_kl": kl for onto, kl in report.quantized_kl.items()}
    facts = {"base_digest": digest, "template_digest": template.digest, "parity": report.parity, "onto": config.onto}
    write_lineage(merged, kind="model", run=run, parents=[base, adapter], facts=facts | {"merge": metrics})
    merging.move(merged, target)
    return Result({"model": str(target)}, metrics)


if __name__ == "__main__":
    from components.orchestration.entry import entry

    entry(MergeAdapter, main)
