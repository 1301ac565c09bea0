"""API keys: read from the environment by whoever starts the server, known by digest and by name ever after."""

import hashlib
import os
from collections.abc import Collection

from components.config import UserError
from components.serving.settings import KeyBudgets


def key_digest(key: str) -> str:
    """Return the SHA-256 under which a key is kept: the key itself stays with whoever started the server."""
    return hashlib.sha256(key.encode()).hexdigest()


def bearer_digest(authorization: str) -> str:
    """Return the digest of the key in an ``Authorization`` header."""
    return key_digest(authorization.removeprefix("Bearer ").strip())


def read_keys(variable: str | None, option: str = "keys") -> dict[str, str]:
    """Return key → name of the API keys in an environment variable; none where no variable is named.

    They are separated by commas, each as ``key`` or ``name:key`` (no bearer token has a colon, by RFC 6750). Keys of
    one name share its budget. A key without a name is called by the first digits of its digest, as logs and metrics
    must not show it.

    Args:
        option: of the configuration that names the variable, for the message.

    Raises:
        UserError: the variable is not set, or a name has no key.
    """
    if variable is None:
        return {}
    found = {}
    for entry in filter(None, (part.strip() for part in os.environ.get(variable, "").split(","))):
        name, colon, key = (part.strip() for part in entry.rpartition(":"))
        if not key or (colon and not name):
            raise UserError(f"{variable} has an entry with a colon that is not name:key: write each as key or name:key")
        found[key] = name or f"key-{key_digest(key)[:8]}"
    if not found:
        raise UserError(f"'{option}' names the environment variable {variable}, which is not set: put the keys into it")
    return found


def check_budgets(budgets: KeyBudgets, names: Collection[str]) -> None:
    """Refuse budgets that no key would have.

    Raises:
        UserError: there are no keys, or none of a name that has a budget.
    """
    if budgets.limited() and not names:
        raise UserError("key_budgets limits API keys, and there are none: name the variable that holds them by keys=…")
    for name in budgets.named:
        if name not in names:
            raise UserError(f"key_budgets.named has '{name}', which is no key's name: there are {', '.join(names)}")
