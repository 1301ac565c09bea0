"""Index documents for search: read, cut into passages, embed, keep vectors and full text in LanceDB."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

from components.config import Field, WorkflowConfig
from components.data.sources import Source
from components.retrieval.chunkers import Chunker
from components.retrieval.embed import EmbedConfig

if TYPE_CHECKING:
    from components.tracking.run import Result, Run


class BuildIndex(WorkflowConfig):
    """What build_index reads from its YAML."""

    source: Source = Field(description="the corpus")
    table: str = Field(
        "passages", pattern=r"^\w+$", description="table that takes the passages; may hold several corpora"
    )
    chunker: Chunker = Field({"name": "tokens"}, description="how documents are cut into passages")
    embed: EmbedConfig = Field(EmbedConfig(), description="how passages are embedded")


def main(config: BuildIndex, run: "Run") -> "Result":
    """Bring the table up to date with the corpus and return its pinned reference."""
    import time

    from components.data import store
    from components.data.sources import list_parts
    from components.models import sources as models
    from components.orchestration.cluster import ray_session
    from components.retrieval import ingest
    from components.retrieval.embed import check_folder, embedder_digest
    from components.tracking.lineage import write_lineage
    from components.tracking.run import Result

    started = time.monotonic()
    parts = list_parts(config.source)
    folder = models.resolve(config.embed.model, run.cache)
    check_folder(folder)
    ingest.check_limits(folder, config.chunker)
    digest = embedder_digest(folder)
    corpus = ingest.Corpus(config.source.corpus_name(), config.source.name, digest, str(folder), config.chunker)
    uri = str(Path(config.storage) / "lancedb")
    with ray_session(config.ray):
        done = ingest.ingest(uri, config.table, config.source, parts, corpus, config.embed)
    ref = store.create_fulltext(store.make_ref(uri, config.table), "text")
    seconds = time.monotonic() - started

    run.log_dataset(config.table, ref, "index")
    run.log_text("".join(json.dumps(failure) + "\n" for failure in done.failures), "not_read.jsonl")
    facts = {"table": ref, "corpus": corpus.name, "embedder_digest": digest, "embedder": config.embed.model}
    facts["chunker"] = config.chunker.model_dump(mode="json")
    write_lineage(run.dir, kind="index", run=run, parents=[], facts=facts)
    count = store.count(ref)
    metrics = {
        "passages": count,
        "embedded": done.embedded,
        "deleted": done.deleted,
        "parts_not_read": len(done.failures),
        "seconds": seconds,
        "tokens_per_s": done.tokens / seconds,
    }
    return Result({"index": ref, "passages": count, "embedded": done.embedded}, metrics)


if __name__ == "__main__":
    from components.orchestration.entry import entry

    entry(BuildIndex, main)
