"""Let a model with rotary positions (RoPE) read longer texts, and measure how far it still predicts and remembers."""

from typing import TYPE_CHECKING, Any

from components.config import Field, ModelRef, UserError, WorkflowConfig
from components.data.sources import Source
from components.data.sources.python_docs import PythonDocs
from components.models.rope import RopeConfig

if TYPE_CHECKING:
    from components.tracking.run import Result, Run


class ExtendContext(WorkflowConfig):
    """What extend_context reads from its YAML."""

    model: ModelRef = Field(description="the model whose context is extended")
    rope: RopeConfig = Field(RopeConfig(), description="how its positions are stretched")
    source: Source = Field(PythonDocs(name="python_docs"), description="corpus of the long texts that are read")
    lengths: list[int] = Field(
        [], description="rising lengths to measure at; none: half the old one, doubled up to the new"
    )
    windows: int = Field(2, ge=1, description="long texts that both models read")
    keys: int = Field(5, ge=0, description="pass keys hidden in texts of each length; 0 measures no recall")
    max_increase: float | None = Field(
        None, ge=0, description="refuse a model whose perplexity within the old length rises by more than this share"
    )


def main(config: ExtendContext, run: "Run") -> "Result":
    """Stretch, measure the original and what was made, and return ``{"model"}``."""
    import os

    from components.data import long_text
    from components.models import long_context, rope, sources
    from components.models.folder import places
    from components.models.load import lead_ids, load_tokenizer
    from components.tracking.lineage import read_lineage, write_lineage
    from components.tracking.run import Result

    source = sources.resolve(config.model, run.cache)
    page = read_lineage(source)
    if page is not None and "rope" in page["facts"]:
        raise UserError(f"{source} is stretched already: extend the model that it was made from")
    half, target = places(run.dir)
    old, new = rope.extend(source, half, config.rope)
    lengths = long_context.choose_lengths(config.lengths, old, new)
    if config.max_increase is not None and lengths[0] > old:
        raise UserError(f"max_increase holds within the old length, {old}: name one of lengths there")
    tokenizer = load_tokenizer(source)
    read = long_text.windows(
        config.source, tokenizer.encode, count=config.windows, size=lengths[-1], lead=lead_ids(tokenizer)
    )
    metrics: dict[str, float] = {"context/old": old, "context/new": new}
    reach = {}
    for name, folder in (("original", source), ("extended", half)):
        reach[name] = long_context.measure(folder, read, lengths, config.keys, config.seed)
        for length in lengths:
            figures = {f"perplexity/{name}": reach[name].perplexity[length]}
            figures |= {f"recall/{name}": reach[name].recall[length]} if config.keys else {}
            run.log_metrics(figures, length)
            metrics |= {f"{figure}/{length}": value for figure, value in figures.items()}
    rises = long_context.rise(reach["original"], reach["extended"], old)
    long_context.check(rises, config.max_increase)
    metrics |= {"perplexity/rise_within_old": rises} if lengths[0] <= old else {}
    facts: dict[str, Any] = {"rope": config.rope.model_dump(mode="json"), "positions": [old, new], "measured": metrics}
    facts |= {"base_digest": sources.digest(source, run.cache), "digest": sources.digest(half)}
    write_lineage(half, kind="model", run=run, parents=[source], facts=facts)
    os.replace(half, target)
    return Result({"model": str(target)}, metrics)


if __name__ == "__main__":
    from components.orchestration.entry import entry

    entry(ExtendContext, main)
