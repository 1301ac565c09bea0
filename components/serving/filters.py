"""A client's filter over passages, in the shape of OpenAI's vector stores, as a condition on the index's columns.

Clients never write SQL: columns come from a list, values are quoted, and how deep and wide a filter is has a limit.
All columns are texts, and are compared as such: of two dates the longer one is later where the shorter is its beginning
("2026-03-01" < "2026-03-01T09:30:00Z"), and page "10" comes before page "9".
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Strict, Tag, model_validator

from components.data.store import quote

Column = Literal["source", "title", "group", "symbol", "section", "page", "date", "doc_id", "passage_id"]
_OPERATORS = {"eq": "=", "ne": "!=", "gt": ">", "gte": ">=", "lt": "<", "lte": "<=", "in": "IN", "nin": "NOT IN"}
_LISTS = ("in", "nin")
_NEGATIVE = ("ne", "nin")
_DEEPEST, _MOST = 8, 1000  # levels; comparisons and values
TAGS = ("comparison", "compound")  # by which pydantic tells the two kinds apart
Value = str | Annotated[int, Strict()]


class Comparison(BaseModel):
    """A column of a passage compared with a text or a whole number, or with several (``in``, ``nin``)."""

    model_config = ConfigDict(extra="forbid")
    type: Literal["eq", "ne", "gt", "gte", "lt", "lte", "in", "nin"]
    key: Column
    value: Value | list[Value]

    @model_validator(mode="after")
    def _list_where_one_is_due(self) -> "Comparison":
        if isinstance(self.value, list) != (self.type in _LISTS):
            due = "a list of values" if self.type in _LISTS else "one value"
            raise ValueError(f"'{self.type}' compares with {due}")
        if self.value == []:
            raise ValueError(f"'{self.type}' needs at least one value")
        return self

    def condition(self) -> str:
        """Return the SQL condition; a passage without a value is other than every value."""
        listed = self.value if isinstance(self.value, list) else [self.value]
        values = ", ".join(quote(str(value)) for value in listed)
        values = f"({values})" if self.type in _LISTS else values
        said = f"`{self.key}` {_OPERATORS[self.type]} {values}"
        return f"(`{self.key}` IS NULL OR {said})" if self.type in _NEGATIVE else f"({said})"

    def size(self) -> int:
        """Return how many values it names."""
        return len(self.value) if isinstance(self.value, list) else 1

    def depth(self) -> int:
        """Return its levels."""
        return 1


class Compound(BaseModel):
    """Filters that hold all (``and``) or of which one holds (``or``)."""

    model_config = ConfigDict(extra="forbid")
    type: Literal["and", "or"]
    filters: list["Filter"] = Field(min_length=1)

    def condition(self) -> str:
        """Return the SQL condition."""
        return f"({f' {self.type.upper()} '.join(each.condition() for each in self.filters)})"

    def size(self) -> int:
        """Return how many values its parts name."""
        return sum(each.size() for each in self.filters)

    def depth(self) -> int:
        """Return its levels."""
        return 1 + max(each.depth() for each in self.filters)


def _kind(filters: Any) -> str:
    said = filters.get("type") if isinstance(filters, dict) else getattr(filters, "type", None)
    return TAGS[said in ("and", "or")]


Filter = Annotated[Annotated[Comparison, Tag(TAGS[0])] | Annotated[Compound, Tag(TAGS[1])], Discriminator(_kind)]
Compound.model_rebuild()


def check_size(filters: Comparison | Compound) -> None:
    """Raise ValueError where a filter is nested too deep, or names too many values."""
    if filters.depth() > _DEEPEST or filters.size() > _MOST:
        raise ValueError(f"a filter has at most {_DEEPEST} levels and {_MOST} values")


def where_of(filters: Comparison | Compound | None) -> str | None:
    """Return the condition that passages have to meet; None where there is no filter."""
    return filters.condition() if filters else None
