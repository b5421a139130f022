"""Requests whose sentences wait for a place in the running batch; they take turns, one each.

So a list of a thousand does not keep a single sentence waiting. Not locked: the owner's lock guards
it, only `full` and `length` may be asked without.
"""

from collections import deque

from seqvis.translation.tickets import Ticket, WaitingText


class Turns:
    """The queue; at most about `most` sentences wait in it."""

    def __init__(self, most: int):
        self.sentences = 0
        """How many wait."""
        self._most = most
        self._tickets: deque[Ticket] = deque()

    def __bool__(self) -> bool:
        return bool(self._tickets)

    @property
    def full(self) -> bool:
        """Whether nothing more may wait."""
        return self._length() >= self._most

    def admits(self, ticket: Ticket) -> bool:
        """Whether there is room for a request; an empty queue takes one of any length."""
        length = self._length()
        return not length or length + self._counted(ticket) <= self._most

    def add(self, ticket: Ticket) -> None:
        if ticket.waiting:
            self.sentences += len(ticket.waiting)
            self._tickets.append(ticket)

    def next_width(self) -> int:
        """The beam of the sentence whose turn it is."""
        return self._tickets[0].settings.beam

    def take(self) -> tuple[Ticket, WaitingText]:
        """The sentence whose turn it is; it waits no longer."""
        ticket = self._tickets.popleft()
        one = ticket.waiting.popleft()
        self.sentences -= 1
        if ticket.waiting:
            self._tickets.append(ticket)
        return ticket, one

    def forget(self, ticket: Ticket) -> int:
        """Drops what waits of a request; how many sentences that were."""
        forgotten = len(ticket.waiting)
        if forgotten:  # else it is not in the queue any more
            self.sentences -= forgotten
            ticket.waiting.clear()
            self._tickets.remove(ticket)
        return forgotten

    def clear(self) -> set[Ticket]:
        """Drops everything; the requests that waited."""
        waited = set(self._tickets)
        for ticket in waited:
            ticket.waiting.clear()
        self._tickets.clear()
        self.sentences = 0
        return waited

    def _length(self) -> int:
        return sum(self._counted(ticket) for ticket in tuple(self._tickets))

    def _counted(self, ticket: Ticket) -> int:
        """Its sentences that wait; of a long list half a queue, as callers take turns."""
        return min(len(ticket.waiting), self._most // 2)
