"""The actor between a run's first worker and its caller: events go one way, decisions the other.

It has its own module because an actor's process imports the module of its class: this one needs
neither PyTorch nor Ray Train, and starts in a fraction of the time.
"""

import asyncio
import uuid
from typing import Any


class Mailbox:
    """Holds events until the caller fetches them."""

    def __init__(self) -> None:
        self._events: asyncio.Queue[tuple[str, dict[str, Any]]] = asyncio.Queue()
        self._waiting: dict[str, asyncio.Future[bool]] = {}

    async def tell(self, event: dict[str, Any]) -> None:
        await self._events.put(("", event))

    async def ask(self, event: dict[str, Any]) -> bool:
        """Tells, and returns when the caller has decided: whether to go on."""
        number = uuid.uuid4().hex
        self._waiting[number] = asyncio.get_running_loop().create_future()
        await self._events.put((number, event))
        return await self._waiting[number]

    async def take(self, seconds: float) -> tuple[str, dict[str, Any]] | None:
        """The next event and the number to answer it by, "" if nobody waits; None if none came."""
        try:
            return await asyncio.wait_for(self._events.get(), seconds)
        except TimeoutError:
            return None

    async def answer(self, number: str, go_on: bool) -> None:
        self._waiting.pop(number).set_result(go_on)
