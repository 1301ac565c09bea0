"""Train and test by a hash of what must not leak, so that the same text lands on the same side in every run."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

from components.config import UserError

Split = Literal["train", "test"]


def split_of(text: str, test_share: float, salt: str = "") -> Split:
    """The side that `text` is on: `test` for a share `test_share` of all texts, whatever else there is."""
    digest = hashlib.sha256(f"{salt}\x00{text}".encode("utf-8", "surrogatepass")).digest()
    return "test" if int.from_bytes(digest[:8], "big") < test_share * 2**64 else "train"


def side_of(record: Mapping[str, Any], text: str, test_share: float, salt: str, where: str) -> Split:
    """The side that a file's row names in its key `split`, else ``split_of`` its prompt's text.

    Raises:
        UserError: it names another one; `where` is said.
    """
    given = record.get("split")
    if given is None:
        return split_of(text, test_share, salt)
    for side in get_args(Split):
        if given == side:
            return side
    raise UserError(f"{where}: 'split' must be train or test, got {given!r:.80}: or leave it out, to split by a hash")


def stricter(first: Mapping[str, Any], second: Mapping[str, Any]) -> Split:
    """The side of a row that is there twice: the test's, if one of the two is."""
    return "test" if "test" in (first["split"], second["split"]) else "train"


def refuse_leaks(train: Sequence[str], test: Sequence[str], what: str) -> None:
    """Raises UserError when anything (a prompt, a passage) is on both sides."""
    shared = set(train) & set(test)
    if shared:
        raise UserError(
            f"{len(shared)} {what} are in both train and test, for example {sorted(shared)[0][:80]!r}: "
            "remove the duplicates from the source or choose another split.salt"
        )
