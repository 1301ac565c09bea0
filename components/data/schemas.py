"""The columns of every table, as Arrow schemas, and how plain rows become Arrow."""

from collections.abc import Sequence
from typing import Any

import pyarrow as pa

MESSAGE = pa.struct([("role", pa.string()), ("content", pa.string())])
PROMPT_PASSAGE = pa.struct(
    [("passage_id", pa.string()), ("text", pa.string()), ("title", pa.string()), ("source", pa.string())]
)
VOTE = pa.struct([("annotator", pa.string()), ("prefers", pa.string())])  # prefers: chosen | rejected | tie
PAGE = pa.struct([("start", pa.int64()), ("label", pa.string())])  # start: in the text, in characters
STEP = pa.struct([("text", pa.string()), ("label", pa.float64())])  # label: 1 right, 0 wrong, null: not known

_GENERATION = ("generation", "round", "policy_digest", "sampling", "judge", "judge_digest")
_PLACE = ("section", "page", "date")
OPTIONAL = frozenset(
    {"votes", *_GENERATION, *_PLACE}
)  # columns that rows and older tables may lack; they are null there

DOCUMENT = pa.schema(
    [
        ("doc_id", pa.string()),  # stable name inside its corpus: a path, an id, a qualified name
        ("text", pa.string()),
        ("source", pa.string()),  # where a reader finds it: a path, an address
        ("title", pa.string()),
        ("group", pa.string()),  # what belongs together: a folder, a module
        ("symbol", pa.string()),  # the qualified name it documents; null for prose
        ("metadata", pa.string()),  # JSON
        ("date", pa.string()),  # of its last change, as 2026-03-01 or 2026-03-01T09:30:00Z; null where nothing tells
        ("form", pa.string()),  # text | markdown
        ("pages", pa.list_(PAGE)),  # where each begins; none where the form has no pages
        ("offset", pa.int64()),  # characters of the document before this text, which is a piece of it
    ]
)

# Everything of a passage but its vector; a table's vectors have one dimension, see passage_schema.
PASSAGE = pa.schema(
    [
        ("passage_id", pa.string()),  # hash of corpus, document, what is embedded, and occurrence
        ("corpus", pa.string()),  # which source configuration owns the row
        ("doc_id", pa.string()),
        ("text", pa.string()),
        ("source", pa.string()),
        ("title", pa.string()),
        ("group", pa.string()),
        ("start", pa.int64()),  # document.text[start:end] == text, counted in characters
        ("end", pa.int64()),
        ("n_tokens", pa.int64()),  # of the embedder's tokenizer
        ("symbol", pa.string()),
        ("metadata", pa.string()),  # JSON
        ("embedder", pa.string()),  # digest of the embedder that made the vector
        ("section", pa.string()),  # headings above its start, outermost first: "Install > On a server"
        ("page", pa.string()),  # label of the page that it starts on, as a viewer shows it
        ("date", pa.string()),  # of the document; sorts by time
    ]
)

QUESTION = pa.schema(
    [
        ("prompt_id", pa.string()),
        ("prompt", pa.list_(MESSAGE)),
        ("question", pa.string()),
        ("kind", pa.string()),
        ("answerable", pa.bool_()),
        ("passages", pa.list_(PROMPT_PASSAGE)),
        ("target", pa.int64()),  # 1-based position of the right passage, 0 when unanswerable
        ("reference", pa.string()),  # the demonstration answer
        ("split", pa.string()),  # train | test
    ]
)

DEMONSTRATION = pa.schema(
    [
        ("prompt_id", pa.string()),
        ("prompt", pa.list_(MESSAGE)),
        ("completion", pa.list_(MESSAGE)),
        ("kind", pa.string()),
        ("split", pa.string()),
        ("source", pa.string()),
    ]
)

PREFERENCE = pa.schema(
    [
        ("pair_id", pa.string()),
        ("prompt_id", pa.string()),
        ("prompt", pa.list_(MESSAGE)),
        ("chosen", pa.list_(MESSAGE)),
        ("rejected", pa.list_(MESSAGE)),
        ("chosen_score", pa.float64()),
        ("rejected_score", pa.float64()),
        ("kind", pa.string()),
        ("source", pa.string()),
        ("split", pa.string()),
        ("votes", pa.list_(VOTE)),  # of several annotators, on the pair as it is stored; null: nobody voted
    ]
)

# Pairs that the filters of clean took out of a preference table.
DROPPED = PREFERENCE.append(pa.field("reason", pa.string())).append(pa.field("detail", pa.string()))

# Pairs of a model's own answers, and others beside them, of which what follows is null.
ONLINE_PREFERENCE = PREFERENCE
for _column in (
    pa.field("generation", pa.string()),  # hash of the others
    pa.field("round", pa.int64()),  # 1, 2, …
    pa.field("policy_digest", pa.string()),  # of the model that gave both answers
    pa.field("sampling", pa.string()),  # JSON: n, temperature, top_p, max_new_tokens, seed
    pa.field("judge", pa.string()),  # programmatic | reward | llm
    pa.field("judge_digest", pa.string()),  # of all that decides its verdicts
):
    ONLINE_PREFERENCE = ONLINE_PREFERENCE.append(_column)

LABELLED = pa.schema(
    [
        ("answer_id", pa.string()),  # hash of the prompt and the completion
        ("prompt_id", pa.string()),
        ("prompt", pa.list_(MESSAGE)),
        ("completion", pa.list_(MESSAGE)),
        ("label", pa.bool_()),  # good or bad; two answers to one prompt need not exist
        ("kind", pa.string()),
        ("source", pa.string()),
        ("split", pa.string()),
    ]
)

STEPS = pa.schema(
    [
        ("step_id", pa.string()),  # hash of the prompt and the solution: a row is one solution
        ("prompt_id", pa.string()),
        ("prompt", pa.list_(MESSAGE)),
        ("steps", pa.list_(STEP)),  # its lines, in their order
        ("outcome", pa.bool_()),  # the final answer is right
        ("kind", pa.string()),  # reference | spoiled | sampled
        ("split", pa.string()),
        ("source", pa.string()),
    ]
)

REFERENCE_LOGPROB = pa.schema(
    [
        ("key", pa.string()),  # hash of pair_id, reference_digest and template_digest
        ("pair_id", pa.string()),
        ("reference_digest", pa.string()),
        ("template_digest", pa.string()),
        ("chosen_logprob", pa.float64()),  # natural log, summed over the completion's tokens
        ("rejected_logprob", pa.float64()),
    ]
)


def passage_schema(dimension: int) -> pa.Schema:
    """Return the schema of a passages table whose vectors have ``dimension`` numbers."""
    return PASSAGE.append(pa.field("vector", pa.list_(pa.float32(), dimension)))


def as_table(rows: Sequence[dict[str, Any]] | pa.Table, schema: pa.Schema) -> pa.Table:
    """Return rows as an Arrow table of exactly this schema; ``OPTIONAL`` columns that are not there become null.

    Raises:
        ValueError: a row lacks a column, or has a column or an inner key that the schema does not know.
    """
    if isinstance(rows, pa.Table):
        for column in schema:
            if column.name in OPTIONAL and column.name not in rows.schema.names:
                rows = rows.append_column(column, pa.nulls(rows.num_rows, column.type))
        if set(rows.schema.names) != set(schema.names):
            raise ValueError(f"got columns {rows.schema.names}, expected {schema.names}")
        return rows.select(schema.names).cast(schema)
    for number, row in enumerate(rows):
        for column in schema:
            if column.name not in row and column.name not in OPTIONAL:
                raise ValueError(f"row {number} lacks the column '{column.name}'")
        _refuse_unknown(row, schema, f"row {number}")
    return pa.Table.from_pylist(list(rows), schema=schema)


def _refuse_unknown(value: Any, shape: Any, where: str) -> None:
    """Refuse keys that Arrow would drop without a word, at any depth."""
    if isinstance(shape, pa.ListType):
        for item in value or ():
            _refuse_unknown(item, shape.value_type, where)
    elif isinstance(shape, (pa.StructType, pa.Schema)) and value is not None:
        names = {field.name: field.type for field in shape}
        for key, item in value.items():
            if key not in names:
                raise ValueError(f"{where} has '{key}', which is not one of {', '.join(names)}")
            _refuse_unknown(item, names[key], f"{where}, column '{key}'")
