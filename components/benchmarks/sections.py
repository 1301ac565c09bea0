"""Keys of a benchmark's section without the section's name: ``benchmark ppo samples=4`` is ``ppo.samples=4``."""

import difflib
from collections.abc import Mapping
from typing import Any

from components.config import Config


def unfold(schema: type[Config], values: Any) -> Any:
    """Return a schema's values with those keys in the section ``values["name"]`` that are more like its than others.

    What is not right is left as it is, for the schema to refuse.
    """
    name = values.get("name") if isinstance(values, Mapping) else None
    section = schema.model_fields[name].default if name in schema.model_fields else None
    if not isinstance(section, Config) or not isinstance(values.get(name, {}), Mapping):
        return values
    inner, outer = list(type(section).model_fields), list(schema.model_fields)

    def belongs(key: str) -> bool:
        nearest = difflib.get_close_matches(key, [*outer, *inner], n=1, cutoff=0.5)
        return key not in outer and (not nearest or nearest[0] in inner)

    moved = {key: value for key, value in values.items() if belongs(key)}
    kept = {key: value for key, value in values.items() if key not in moved}
    return {**kept, name: {**values.get(name, {}), **moved}}
