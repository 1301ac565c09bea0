"""A filter finds what a reading of it in plain Python finds, whatever its texts hold."""

import itertools
import operator

import pyarrow as pa
import pytest
from pydantic import ValidationError

from components.data import store
from components.serving.filters import where_of
from components.serving.requests import SearchRequest

ROWS = [
    {"passage_id": f"p{number}", "source": source, "date": date, "page": (None, "9", "12")[number % 5 % 3]}
    for number, (source, date) in enumerate(
        itertools.product(["a.md", "it's.md", "x' OR '1'='1", None], ["2026-03-01", "2026-03-02", None])
    )
]
OPERATORS = {
    "eq": operator.eq,
    "ne": operator.ne,
    "gt": operator.gt,
    "gte": operator.ge,
    "lt": operator.lt,
    "lte": operator.le,
    "in": lambda value, values: value in values,
    "nin": lambda value, values: value not in values,
}


def parsed(filters):
    return SearchRequest(query="q", filters=filters).filters


def holds(row, filters):
    """The slow reading: a row without a value is other than every value, and neither more nor less than one."""
    kind = filters["type"]
    if kind in ("and", "or"):
        return (all if kind == "and" else any)(holds(row, each) for each in filters["filters"])
    value = row[filters["key"]]
    wanted = filters["value"]
    wanted = [str(each) for each in wanted] if isinstance(wanted, list) else str(wanted)
    return kind in ("ne", "nin") if value is None else OPERATORS[kind](value, wanted)


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    schema = pa.schema([(name, pa.string()) for name in ROWS[0]])
    return store.overwrite(str(tmp_path_factory.mktemp("lance")), "passages", ROWS, schema)


SINGLE = [
    {"type": kind, "key": "date", "value": ["2026-03-01"] if kind in ("in", "nin") else "2026-03-01"}
    for kind in OPERATORS
]
HOSTILE = [
    {"type": kind, "key": "source", "value": value}
    for kind in ("eq", "ne")
    for value in ("it's.md", "x' OR '1'='1", "a.md'; DROP TABLE passages --", "\\' OR 1=1 --", "", "`source`")
]
NESTED = [
    {"type": "and", "filters": [SINGLE[1], {"type": "or", "filters": [HOSTILE[0], SINGLE[6]]}]},
    {"type": "or", "filters": [{"type": "and", "filters": [SINGLE[0], HOSTILE[1]]}, HOSTILE[5]]},
    {"type": "in", "key": "source", "value": ["a.md", "it's.md"]},
    {"type": "eq", "key": "page", "value": 12},
    {"type": "nin", "key": "page", "value": ["9", 12]},
]


@pytest.mark.parametrize("filters", [*SINGLE, *HOSTILE, *NESTED], ids=str)
def test_the_rows_are_those_of_the_plain_reading(table, filters):
    found = store.read(table, columns=["passage_id"], where=where_of(parsed(filters)))
    assert {row["passage_id"] for row in found} == {row["passage_id"] for row in ROWS if holds(row, filters)}


@pytest.mark.parametrize("kinds", [("eq",), ("eq", "ne")])
def test_the_widest_and_the_deepest_filters_are_carried_out(table, kinds):
    values = [{"type": kinds[n % len(kinds)], "key": "source", "value": f"{n}"} for n in range(999)]
    wide = {"type": "or", "filters": [*values, {"type": "eq", "key": "source", "value": "a.md"}]}
    for filters in (wide, deep(8)):
        found = store.read(table, columns=["passage_id"], where=where_of(parsed(filters)))
        assert {row["passage_id"] for row in found} == {row["passage_id"] for row in ROWS if holds(row, filters)}


def deep(levels):
    filters = SINGLE[0]
    for _ in range(levels - 1):
        filters = {"type": "and", "filters": [filters]}
    return filters


@pytest.mark.parametrize(
    ("filters", "said"),
    [
        ({"type": "eq", "key": "embedder", "value": "x"}, "'source'"),
        ({"type": "like", "key": "source", "value": "x"}, "'eq'"),
        ({"type": "eq", "key": "source", "value": ["x"]}, "one value"),
        ({"type": "in", "key": "source", "value": "x"}, "list of values"),
        ({"type": "in", "key": "source", "value": []}, "at least one"),
        ({"type": "eq", "key": "source", "value": True}, "valid string"),
        ({"type": "and", "filters": []}, "at least 1"),
        ({"type": "eq", "key": "source", "value": "x", "or": "1"}, "Extra inputs"),
        (deep(9), "8 levels"),
        ({"type": "in", "key": "source", "value": ["x"] * 1001}, "1000 values"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_no_filter_is_refused_and_says_why(filters, said):
    with pytest.raises(ValidationError, match=said):
        parsed(filters)
    assert where_of(parsed(deep(8))) and where_of(None) is None
