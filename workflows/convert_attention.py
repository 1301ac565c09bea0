"""Give a model grouped-query attention (GQA) with fewer key-value heads: a smaller KV cache, at a measured cost."""

from typing import TYPE_CHECKING, Any

from components.config import Field, ModelRef, WorkflowConfig
from components.data.sources import Source
from components.data.sources.python_docs import PythonDocs

if TYPE_CHECKING:
    from components.tracking.run import Result, Run


class ConvertAttention(WorkflowConfig):
    """What convert_attention reads from its YAML."""

    model: ModelRef = Field(description="the model whose key-value heads are pooled")
    kv_heads: int = Field(ge=1, description="key-value heads of the new model, a divisor of what it has; 1 is MQA")
    source: Source = Field(PythonDocs(name="python_docs"), description="corpus of the texts that both models read")
    texts: int = Field(16, ge=1, description="texts that both read")
    text_tokens: int = Field(512, ge=16, description="tokens of each")


def main(config: ConvertAttention, run: "Run") -> "Result":
    """Pool, measure, and return ``{"model"}``: what was lost comes back by training it on (``train_sft``)."""
    import os

    from components.data import long_text
    from components.models import attention, memory, sources
    from components.models.folder import places
    from components.models.load import lead_ids, load_tokenizer
    from components.quantization import gate
    from components.tracking.lineage import write_lineage
    from components.tracking.run import Result

    source = sources.resolve(config.model, run.cache)
    half, target = places(run.dir)
    before, after = attention.group(source, half, config.kv_heads)
    tokenizer = load_tokenizer(source)
    read = long_text.windows(
        config.source, tokenizer.encode, count=config.texts, size=config.text_tokens, lead=lead_ids(tokenizer)
    )
    measured = gate.measure(source, half, [gate.Text(ids, 1) for ids in read])
    cache = {name: memory.kv_cache_bytes(memory.read_shape(at), 1) for name, at in (("old", source), ("new", half))}
    metrics = measured.metrics() | {f"kv_cache/{name}_bytes_per_token": float(size) for name, size in cache.items()}
    facts: dict[str, Any] = {"kv_heads": [before, after], "measured": metrics}
    facts |= {"base_digest": sources.digest(source, run.cache), "digest": sources.digest(half)}
    write_lineage(half, kind="model", run=run, parents=[source], facts=facts)
    os.replace(half, target)
    return Result({"model": str(target)}, metrics)


if __name__ == "__main__":
    from components.orchestration.entry import entry

    entry(ConvertAttention, main)
