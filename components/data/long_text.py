"""Long stretches of a corpus as token ids, to measure models on."""

from collections.abc import Callable

from components.config import UserError
from components.data.sources import SourceConfig, Unreadable, list_parts, read_part


def windows(
    source: SourceConfig, encode: Callable[..., list[int]], *, count: int, size: int, lead: list[int]
) -> list[list[int]]:
    """Return ``count`` windows of ``size`` token ids each, one after the other, over the documents of a corpus.

    Documents that cannot be read are left out.

    Args:
        lead: what a model's texts begin with, and so each window.

    Raises:
        UserError: the corpus is missing or too short.
    """
    ids: list[int] = []
    own = size - len(lead)
    for part in list_parts(source):
        try:
            for document in read_part(source.name, part):
                ids += encode(f"{document.text}\n\n", add_special_tokens=False)
        except Unreadable:
            continue
        if len(ids) >= count * own:
            return [lead + ids[at : at + own] for at in range(0, count * own, own)]
    raise UserError(
        f"the corpus has {len(ids)} tokens that can be read, and {count} texts of {size} are asked for: ask for fewer "
        "or shorter ones, or give a larger source"
    )
