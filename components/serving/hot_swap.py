"""Loads adapters, moves their aliases and takes them away while the endpoint answers."""

import asyncio
import json
import logging
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from components.config import UserError
from components.models.adapter_base import Carrier
from components.models.folder import write_whole
from components.serving.adapter_files import fetch
from components.serving.adapters import Adapter, Conflict, Shelf, Unknown
from components.serving.errors import ApiError, from_exception
from components.serving.requests import AdapterRequest, AliasRequest

logger = logging.getLogger(__name__)


class HotSwap:
    """The shelf of adapters as the endpoint changes it: one change at a time, all of it or nothing."""

    def __init__(
        self,
        shelf: Shelf,
        engine: Any,
        carrier: Carrier | None,
        *,
        storage: str = "artifacts",
        taken: Collection[str] = (),
        memory: str | None = None,
        retry_after_s: int = 1,
    ) -> None:
        """Begin with what is on the shelf.

        Args:
            carrier: what adapters have to fit; none where the engine carries no adapters.
            storage: where the registry and the copies of adapters are.
            taken: names under which something else answers.
            memory: file that keeps the changes, for an ingress that Ray restarts.
        """
        self.shelf = shelf
        self._engine, self._carrier, self._storage = engine, carrier, Path(storage)
        self._taken, self._retry_after_s = frozenset(taken), retry_after_s
        self._memory = Path(memory) if memory else None
        self._changing = asyncio.Lock()
        if self._memory and self._memory.is_file():
            shelf.restore(json.loads(self._memory.read_text()))
            logger.warning("the ingress was restarted and goes on with its %d adapters", len(shelf.adapters()))

    async def load(self, request: AdapterRequest) -> dict[str, Any]:
        """Serve another version of an adapter, and move the alias that its reference names; return its description.

        The engine reads it before anything changes. With several replicas, the others read it when they need it.

        Raises:
            ApiError: there is no such adapter, it is not one for this base, or its address means something else.
        """
        async with self._changing:
            with _told():
                where = (request.source, self._carrying(), self._storage)
                adapter, alias = await asyncio.to_thread(fetch, *where, request.name, request.version)
                self.shelf.check(adapter)
                if alias:
                    self.shelf.check_move(alias, adapter.version)
                self._check_free(adapter.address, alias)
                await self._attach(adapter)
                served = self.shelf.put(adapter)
                if alias:
                    self.shelf.move(alias, served.version)
            self._remember()
            logger.info("serving %s from %s", served.address, served.source)
            return self.card(served)

    async def move(self, request: AliasRequest) -> dict[str, Any]:
        """Let an alias mean another loaded version and return the alias's description. Raises ApiError."""
        async with self._changing:
            with _told():
                self._carrying()
                self._check_free(request.alias)
                before = self.shelf.find(request.alias)
                adapter = self.shelf.move(request.alias, request.version)
            self._remember()
        moved = {"id": request.alias, "object": "adapter.alias", "adapter": adapter.address}
        return moved | {"before": before.address if before else None}

    async def remove(self, address: str) -> dict[str, Any]:
        """Serve a version or an alias no more and return OpenAI's note of it. Raises ApiError."""
        async with self._changing:
            with _told():
                self._carrying()
                self.shelf.remove(address)
            self._remember()
        return {"id": address, "object": "adapter", "deleted": True}

    def page(self) -> dict[str, Any]:
        """Return every adapter and alias."""
        data = [self.card(adapter) for adapter in self.shelf.adapters()]
        aliases = {alias: f"{alias.partition('@')[0]}@{version}" for alias, version in self.shelf.aliases().items()}
        return {"object": "list", "data": data, "aliases": aliases}

    def card(self, adapter: Adapter) -> dict[str, Any]:
        """Return the description of one adapter."""
        return {"id": adapter.address, "object": "adapter", **facts(adapter)} | {
            "aliases": [alias for alias in self.shelf.aliases() if self.shelf.find(alias) is adapter]
        }

    def _carrying(self) -> Carrier:
        if self._carrier is None:
            message = "This server's engine carries no adapters: start it with engine.adapters.at_once=1 or more."
            raise ApiError(404, message, code="no_adapters")
        return self._carrier

    def _check_free(self, *addresses: str | None) -> None:
        for address in addresses:
            if address in self._taken:
                raise Conflict(f"'{address}' is a name that the serve config declares: give another one")

    async def _attach(self, adapter: Adapter) -> None:
        try:
            problem = await self._engine.attach.remote(adapter.for_engine())
        except Exception as error:
            raise from_exception(error, self._retry_after_s) from error
        if problem:
            raise UserError(f"the engine does not take {adapter.source}: {problem}")

    def _remember(self) -> None:
        if self._memory:
            self._memory.parent.mkdir(parents=True, exist_ok=True)
            write_whole(self._memory, json.dumps(self.shelf.state()))


def facts(adapter: Adapter) -> dict[str, Any]:
    """Return what the endpoint tells of an adapter."""
    kept = ("name", "version", "digest", "source", "kind", "base_digest")
    return {key: getattr(adapter, key) for key in kept}


@contextmanager
def _told() -> Iterator[None]:
    """Turn what is wrong with a request into the error that the client gets."""
    try:
        yield
    except Conflict as error:
        raise ApiError(409, f"{error}.", code="adapter_conflict") from error
    except Unknown as error:
        raise ApiError(404, f"{error}.", code="adapter_not_found") from error
    except UserError as error:
        raise ApiError(400, f"{error}.", code="invalid_adapter") from error
