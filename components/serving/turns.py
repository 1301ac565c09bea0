"""Requests that run beside each other, and some that may not."""

import asyncio
import contextlib
from collections.abc import AsyncIterator


class Turns:
    """Lets requests in as they come; one that has to be alone waits for those before it, and those after it wait."""

    def __init__(self) -> None:
        self._door, self._empty, self._inside = asyncio.Lock(), asyncio.Event(), 0
        self._empty.set()

    @contextlib.asynccontextmanager
    async def taken(self, *, alone: bool) -> AsyncIterator[None]:
        """Take a turn, ``alone`` or beside others."""
        async with self._door:  # who waits for it is served in order
            if alone:
                await self._empty.wait()
                yield
                return
            self._inside += 1
            self._empty.clear()
        try:
            yield
        finally:
            self._inside -= 1
            if not self._inside:
                self._empty.set()
