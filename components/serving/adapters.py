"""Which adapters are served under which addresses: ``name@version`` never changes, ``name@alias`` moves."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from components.config import UserError

_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


@dataclass(frozen=True)
class Adapter:
    """One version of an adapter, its files copied to where nothing changes them."""

    name: str
    version: str
    digest: str  # of the files
    folder: str  # named by the digest
    source: str  # the reference that it came from
    kind: str  # lora, rslora, …
    base_digest: str  # of the model that it was trained on

    @property
    def address(self) -> str:
        """What clients put into ``model`` to get exactly this version."""
        return f"{self.name}@{self.version}"

    def for_engine(self) -> dict[str, str]:
        """Return what an engine needs; its own name for it is the digest, so that it never mixes up two versions."""
        return {"id": self.digest, "folder": self.folder}


class Conflict(UserError):
    """What is asked for contradicts what is served."""


class Unknown(UserError):
    """What is asked for is not there."""


class Shelf:
    """The adapters and aliases that are served. Each change is one step that no request sees half of."""

    def __init__(
        self, adapters: Iterable[Adapter] = (), aliases: Mapping[str, str] | None = None, followed: Iterable[str] = ()
    ) -> None:
        """Begin with these.

        Args:
            aliases: ``name@alias`` → version.
            followed: addresses that declared names answer with, which cannot be taken away.
        """
        self._adapters = {adapter.address: adapter for adapter in adapters}
        self._aliases = dict(aliases or {})
        self._digests = {address: adapter.digest for address, adapter in self._adapters.items()}
        self._followed = frozenset(followed)

    def find(self, address: str) -> Adapter | None:
        """Return the adapter behind ``name@version`` or ``name@alias``; none where there is none."""
        if address in self._aliases:
            address = f"{split(address)[0]}@{self._aliases[address]}"
        return self._adapters.get(address)

    def addresses(self) -> list[str]:
        """Return every address that answers, versions first."""
        return [*self._adapters, *self._aliases]

    def adapters(self) -> list[Adapter]:
        """Return the adapters, the oldest first."""
        return list(self._adapters.values())

    def aliases(self) -> dict[str, str]:
        """Return ``name@alias`` → version."""
        return dict(self._aliases)

    def check(self, adapter: Adapter) -> None:
        """Refuse an adapter whose address has meant something else, also if that was taken away since.

        Raises:
            Conflict: it is an alias, or was given to other files.
        """
        if adapter.address in self._aliases:
            raise Conflict(f"'{adapter.address}' is an alias: give the version another name")
        if self._digests.get(adapter.address, adapter.digest) != adapter.digest:
            raise Conflict(
                f"'{adapter.address}' is digest {self._digests[adapter.address][:12]} and stays it; "
                f"{adapter.source} has {adapter.digest[:12]}: give it another version"
            )

    def put(self, adapter: Adapter) -> Adapter:
        """Serve an adapter and return it; one that is there already stays as it is. Raises Conflict, as `check`."""
        self.check(adapter)
        self._digests[adapter.address] = adapter.digest
        return self._adapters.setdefault(adapter.address, adapter)

    def check_move(self, alias: str, version: str) -> None:
        """Refuse an alias that is a version.

        Raises:
            UserError: it is not of the form name@alias.
            Conflict: it has been a version.
        """
        name, word = split(alias)
        if word == version or alias in self._digests or word.isdigit():
            raise Conflict(f"'{alias}' names a version, which does not move: give the alias a word of its own")
        assert name, "split gives both parts"

    def move(self, alias: str, version: str) -> Adapter:
        """Let ``name@alias`` mean ``name@version`` from the next request on, and return that.

        Raises:
            UserError: it is not of the form name@alias.
            Conflict: it is a version.
            Unknown: there is no such version.
        """
        self.check_move(alias, version)
        address = f"{split(alias)[0]}@{version}"
        if address not in self._adapters:
            raise Unknown(f"'{address}' is not loaded: load it first (POST /v1/adapters)")
        self._aliases[alias] = version
        return self._adapters[address]

    def remove(self, address: str) -> None:
        """Serve a version or an alias no more; requests that run finish on it.

        Raises:
            Unknown: it is not there.
            Conflict: a declared name or an alias still means it.
        """
        if address not in self._aliases and address not in self._adapters:
            raise Unknown(f"there is no adapter '{address}'")
        if address in self._followed:
            raise Conflict(f"'{address}' stays: names that the serve config declares answer with it")
        if self._aliases.pop(address, None) is not None:
            return
        for alias in self._aliases:
            if self.find(alias) is self._adapters[address]:
                raise Conflict(f"'{alias}' means '{address}': move it or take it away first")
        del self._adapters[address]

    def state(self) -> dict[str, Any]:
        """Return all of it as plain data."""
        adapters = [asdict(adapter) for adapter in self._adapters.values()]
        return {"adapters": adapters, "aliases": self._aliases, "digests": self._digests}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take over what `state` returned."""
        loaded = [Adapter(**each) for each in state["adapters"]]
        self._adapters = {adapter.address: adapter for adapter in loaded}
        self._aliases, self._digests = dict(state["aliases"]), dict(state["digests"])


def split(address: str) -> tuple[str, str]:
    """Return the parts of ``name@version`` or ``name@alias``. Raises UserError where it is neither."""
    name, mark, word = address.partition("@")
    if not (mark and _WORD.fullmatch(name) and _WORD.fullmatch(word)):
        raise UserError(f"'{address}' is not an adapter's address: expected name@version or name@alias")
    return name, word
