"""The events of a training run: who listens to them, and the queue that carries them.

Nothing here needs PyTorch or Ray Train: an actor's process imports the module of its class, and the
queue's starts in a fraction of the time without them.
"""

import asyncio
import uuid
from collections.abc import Callable
from typing import Any

Report = Callable[[dict[str, Any]], None]

# Events with the table of all epochs so far, at which a listener may raise StopTraining.
EPOCH_EVENTS = ("epoch", "resumed")


class StopTraining(BaseException):
    """Raised by a listener, and then by `fit` in every worker, to end the run for now.

    When `fit` raises it, the last epoch's checkpoint is on disk; a later call resumes from there.
    """


class EventQueue:
    """The actor between a run's first worker and its caller: events go one way, decisions back."""

    def __init__(self) -> None:
        self._events: asyncio.Queue[tuple[str, dict[str, Any]]] = asyncio.Queue()
        self._waiting: dict[str, asyncio.Future[bool]] = {}

    async def put(self, event: dict[str, Any]) -> None:
        await self._events.put(("", event))

    async def put_and_wait(self, event: dict[str, Any]) -> bool:
        """Put an event and wait for the caller's decision: whether to go on."""
        number = uuid.uuid4().hex
        self._waiting[number] = asyncio.get_running_loop().create_future()
        await self._events.put((number, event))
        return await self._waiting[number]

    async def get(self, seconds: float) -> tuple[str, dict[str, Any]] | None:
        """Return the number to answer the next event by ("" if nobody waits) and the event.

        None if no event comes within `seconds`.
        """
        try:
            return await asyncio.wait_for(self._events.get(), seconds)
        except TimeoutError:
            return None

    async def answer(self, number: str, go_on: bool) -> None:
        self._waiting.pop(number).set_result(go_on)
