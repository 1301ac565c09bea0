"""Index documents for search: read, cut into passages, embed, keep vectors and full text in LanceDB."""

from typing import TYPE_CHECKING

from components.config import Field, WorkflowConfig
from components.data.sources import Source
from components.retrieval.chunkers import Chunker
from components.retrieval.chunkers.tokens import Tokens
from components.retrieval.embed import EmbedConfig

if TYPE_CHECKING:
    from components.tracking.run import Result, Run


class BuildIndex(WorkflowConfig):
    """What build_index reads from its YAML."""

    source: Source = Field(description="the corpus")
    table: str = Field("passages", pattern=r"^\w+$", description="table of the passages; several corpora may share it")
    chunker: Chunker = Field(Tokens(), description="how documents are cut into passages")
    embed: EmbedConfig = Field(EmbedConfig(), description="how passages are embedded")


def main(config: BuildIndex, run: "Run") -> "Result":
    """Bring the table up to date with the corpus and return its pinned reference."""
    from components.data import search, store, versions
    from components.data.sources import list_parts
    from components.models import sources as models
    from components.orchestration.cluster import ray_session
    from components.retrieval import ingest
    from components.tracking.lineage import write_lineage
    from components.tracking.run import Result

    parts = list_parts(config.source)
    folder = models.resolve(config.embed.model, run.cache)
    ingest.check(folder, config.chunker)
    corpus = ingest.Corpus(
        name=config.source.corpus_name(),
        source=config.source.name,
        embedder=models.digest(folder, run.cache),
        embedder_folder=str(folder),
        chunker=config.chunker,
    )
    uri = f"{config.storage}/lancedb"
    with ray_session(config.ray, config.storage), versions.only_writer(uri, config.table):
        done = ingest.ingest(uri, config.table, parts, corpus, config.embed)
        search.create_fulltext(store.make_ref(uri, config.table), "text")
        index = versions.publish(uri, config.table, corpus.name)
    passages = store.count(index)

    for number, (rows, seconds) in enumerate(done.blocks):
        run.log_metrics({"block/rows": rows, "block/seconds": seconds}, number)
    run.log_dataset(config.table, index, "index")
    run.log_text(done.failures_jsonl(), "quarantine.jsonl")
    facts = {
        "table": index,
        "corpus": corpus.name,
        "embedder": config.embed.model,
        "embedder_digest": corpus.embedder,
        "chunker": config.chunker.model_dump(mode="json"),
    }
    write_lineage(run.dir, kind="index", run=run, parents=[], facts=facts)
    outputs = {"index": index, "passages": passages, "embedded": done.embedded}
    return Result(outputs, {"passages": passages, **done.metrics()})


def plan(config: BuildIndex) -> dict[str, object]:
    """Return how much there is to read and embed, as far as listing the corpus tells."""
    from components.data.sources import list_parts
    from components.orchestration.handover import to_bring
    from components.retrieval.ingest import estimate

    if to_bring(config.source):
        return {"corpus": "known once it is fetched"}
    return estimate(list_parts(config.source))


if __name__ == "__main__":
    from components.orchestration.entry import entry

    entry(BuildIndex, main)
