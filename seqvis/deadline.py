"""Deadlines of searches: a search stops when its time is over or nobody waits for it any more.

A `Deadline` is passed down to whatever may take long (filters that read metadata, exact scans,
spelling suggestions) and is checked there between chunks of rows.
"""

import math
import time

from seqvis.errors import SearchTimeoutError


class Deadline:
    """The end of a search's time. Any thread may `end` it or check it."""

    def __init__(self, seconds: float = math.inf):
        self._seconds = seconds
        self._until = time.monotonic() + seconds

    def end(self) -> None:
        """End the search's time now, because nobody waits for its result."""
        self._until = -math.inf

    def left(self) -> float:
        """Return the seconds that are left, 0 if none are."""
        return max(0.0, self._until - time.monotonic())

    def check(self) -> None:
        """Raise SearchTimeoutError if no time is left."""
        if time.monotonic() >= self._until:
            raise SearchTimeoutError(
                f"the search was ended after {self._seconds:g} s; ask for less, or try again"
            )


UNBOUNDED = Deadline()
"""For callers that can wait."""
