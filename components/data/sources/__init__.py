"""The menu of corpora: each file lists a corpus's parts on the driver and reads one part on a worker.

A file ``x.py`` holds the config class ``X``, the callable ``x(config) -> list of parts`` (plain data; a
wrong input is a ``UserError`` here, before anything starts) and ``read(part) -> documents``. A part has
``doc_id``, what to call it, and perhaps ``holds``: the mark after that name in its documents' ids, or ``any``
where they have other ones; without it, its document has the same name, or lies in the folder of that name.
"""

from collections.abc import Iterator
from typing import Annotated, Any

from pydantic import BeforeValidator, SerializeAsAny

from components.config import Config, Field, Menu
from components.data import menu
from components.data.readers import Unreadable
from components.data.records import Document

__all__ = ["Source", "SourceConfig", "Unreadable", "list_parts", "read_part"]
_FOLDER = "components.data.sources"


class SourceConfig(Config):
    """What every source's config has."""

    name: str = Field(description="which file of components/data/sources reads the corpus; it has its own keys too")
    corpus: str | None = Field(
        None, description="name under which the index keeps these documents; none makes one from the source"
    )

    def corpus_name(self) -> str:
        """Return the name that tells this corpus from the others in the same table."""
        place = getattr(self, "path", None) or getattr(self, "url", None)
        return self.corpus or ":".join(filter(None, [self.name, place]))


Source = Annotated[
    SerializeAsAny[SourceConfig],
    BeforeValidator(lambda values: menu.chosen(_FOLDER, values, "source")),
    Menu(lambda: menu.configs(_FOLDER)),
]


def list_parts(config: SourceConfig) -> list[dict[str, Any]]:
    """Return the parts of a corpus, each with ``doc_id``: what to call it when it cannot be read.

    Raises:
        UserError: the corpus is missing, empty or malformed.
    """
    return menu.entry(_FOLDER, config.name)(config)


def read_part(name: str, part: dict[str, Any]) -> Iterator[Document]:
    """Yield the documents of one part of the source ``name``; runs on a worker.

    A long document comes in several, one after the other, which have its ``doc_id`` and say where they start.

    Raises:
        Unreadable: the part cannot be parsed; raised before the first document.
    """
    yield from menu.module(_FOLDER, name).read(part)
