"""How an index is searched, as configuration: the stages and their knobs, flat."""

from typing import Literal

from pydantic import model_validator

from components.config import Config, Field, InputPath, ModelRef, UserError
from components.retrieval.expand import Expand
from components.retrieval.transforms import Transform

Mode = Literal["dense", "text", "hybrid", "hierarchical", "graph", "communities"]


class RetrieveConfig(Config):
    """How passages are searched: transform, search, fuse, rerank, diversify, expand; each may be left out."""

    mode: Mode = Field(
        "hybrid",
        description="by vectors, by words (BM25), by both; within the best documents, along the names in passages, or "
        "with summaries of groups of passages before what both find",
    )
    k: int = Field(3, ge=1, description="passages returned")
    candidates: int = Field(30, ge=1, description="passages that each side of a hybrid search brings")
    where: str | None = Field(None, description="SQL condition on the columns that every search obeys, as corpus = 'x'")
    transform: Transform | None = Field(None, description="what is searched in the query's place; none: the query")
    fusion: Literal["rrf", "weighted"] = Field("rrf", description="by ranks, or by scores stretched to [0, 1]")
    rank_constant: int = Field(60, ge=1, description="constant of reciprocal rank fusion; smaller favours the first")
    dense_weight: float = Field(0.5, ge=0, le=1, description="weight of vectors in a fusion; words have the rest")
    query_adapter: InputPath | None = Field(
        None, description="folder of a map of query vectors, as train_reranker makes it for one embedder"
    )
    documents: int = Field(10, ge=1, description="documents that a hierarchical search goes into")
    communities: int = Field(2, ge=1, description="summaries of groups of passages that go before the passages")
    rerank: ModelRef | None = Field(
        None,
        description="what puts the best candidates in order: a cross-encoder, or an embedder or ColBERT, whose vectors "
        "of tokens are compared (late interaction)",
    )
    rerank_depth: int = Field(20, ge=1, description="candidates that it reads; more can make it worse")
    novelty: float = Field(0.0, ge=0, le=1, description="weight of being unlike what is chosen already (MMR); 0: off")
    expand: Expand = Field("none", description="widen passages by their neighbours, or by their document")
    expand_tokens: int = Field(400, ge=1, description="longest widened passage, in tokens")

    @model_validator(mode="after")
    def _words_need_a_side(self) -> "RetrieveConfig":
        if self.transform is not None and self.transform.name == "expansion" and self.mode == "dense":
            raise UserError("transform 'expansion' adds words, and mode 'dense' searches none: choose hybrid or text")
        return self

    @model_validator(mode="after")
    def _an_adapter_needs_vectors(self) -> "RetrieveConfig":
        if self.query_adapter is not None and self.mode == "text":
            raise UserError("query_adapter maps query vectors, and mode 'text' searches none: choose hybrid or dense")
        return self

    def asks_vectors(self) -> bool:
        """Return whether an embedder is needed."""
        return self.mode != "text"

    def asks_words(self) -> bool:
        """Return whether a full text index is needed."""
        return self.mode != "dense"
