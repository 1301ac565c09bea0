"""A client's filter over passages, in the shape of OpenAI's vector stores, as a condition on the index's columns.

Clients never write SQL: columns come from a list, values are quoted, and how deep and wide a filter is has a limit.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, model_validator

from components.data.store import quote

Column = Literal["source", "title", "group", "symbol", "section", "page", "date", "doc_id", "passage_id"]
_OPERATORS = {"eq": "=", "ne": "!=", "gt": ">", "gte": ">=", "lt": "<", "lte": "<=", "in": "IN", "nin": "NOT IN"}
_LISTS = ("in", "nin")
_NEGATIVE = ("ne", "nin")
_DEEPEST, _MOST = 8, 1000  # levels; comparisons and values


class Comparison(BaseModel):
    """A column of a passage compared with a text, or with several (``in``, ``nin``); texts sort as dates do."""

    model_config = ConfigDict(extra="forbid")
    type: Literal["eq", "ne", "gt", "gte", "lt", "lte", "in", "nin"]
    key: Column
    value: str | list[str]

    @model_validator(mode="after")
    def _list_where_one_is_due(self) -> "Comparison":
        if isinstance(self.value, list) != (self.type in _LISTS):
            due = "a list of texts" if self.type in _LISTS else "one text"
            raise ValueError(f"'{self.type}' compares with {due}")
        if self.value == []:
            raise ValueError(f"'{self.type}' needs at least one text")
        return self

    def condition(self) -> str:
        """Return the SQL condition; a passage without a value is other than every value."""
        values = f"({', '.join(map(quote, self.value))})" if isinstance(self.value, list) else quote(self.value)
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
    return "compound" if said in ("and", "or") else "comparison"


Filter = Annotated[
    Annotated[Comparison, Tag("comparison")] | Annotated[Compound, Tag("compound")], Discriminator(_kind)
]
Compound.model_rebuild()


def where_of(filters: Comparison | Compound | None) -> str | None:
    """Return the condition that passages have to meet; None where there is no filter.

    Raises:
        ValueError: the filter is nested too deep, or names too many values.
    """
    if filters is None:
        return None
    if filters.depth() > _DEEPEST or filters.size() > _MOST:
        raise ValueError(f"a filter has at most {_DEEPEST} levels and {_MOST} values")
    return filters.condition()
