"""Tasks for Ray Data's workers and what they tell the driver, both as rows of JSON; and the error that one met."""

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from components.config import UserError
from components.progress import progress

if TYPE_CHECKING:
    from ray.data import Dataset


def as_dataset(tasks: Sequence[Mapping[str, Any]]) -> "Dataset":
    """Return the tasks as rows with the column ``task``; each is a block of its own."""
    import ray

    ray.data.DataContext.get_current().enable_progress_bars = False
    return ray.data.from_items([{"task": json.dumps(task)} for task in tasks], override_num_blocks=len(tasks))


def told(**facts: Any) -> pa.Table:
    """Return what a worker tells the driver: one row."""
    return pa.table({"told": [json.dumps(facts)]})


def results(found: "Dataset", total: int, unit: str) -> list[dict[str, Any]]:
    """Return what the workers told, as it came, printing progress. Raises the UserError that a worker met."""
    facts = []
    with unwrapped():
        for row in found.iter_rows():
            facts.append(json.loads(row["told"]))
            progress(len(facts), total, unit)
    return facts


@contextlib.contextmanager
def unwrapped() -> Iterator[None]:
    """Raise the UserError that a worker met as itself, where Ray would raise its own error around it."""
    from ray.exceptions import RayError

    try:
        yield
    except RayError as error:
        cause: BaseException | None = error  # Ray's own class of it is a UserError, too, whose text is a traceback
        while cause is not None and (isinstance(cause, RayError) or not isinstance(cause, UserError)):
            cause = getattr(cause, "cause", None) or cause.__cause__
        if cause is None:
            raise
        raise UserError(str(cause).splitlines()[0]) from error  # Ray adds advice about retries
