"""How often a key may call."""

import math
import time
from collections.abc import Iterable, Mapping

from serve.common.keys import KeyHolder


class RateLimiter:
    """A token bucket for each key that has a limit. Use it from a single thread.

    Every process that takes requests has one. It counts what it has `granted`, and learns now and
    then what the others have, so that a limit holds for all of them together. Until it does, a
    burst may be granted by several; their requests are then a debt, which the next ones wait for.
    """

    def __init__(self, holders: Iterable[KeyHolder]):
        self._limits: dict[str, KeyHolder] = {}
        self._buckets: dict[str, tuple[float, float]] = {}  # name -> (tokens, at that time)
        self._reported: dict[str, Mapping[str, float]] | None = None
        self.granted: dict[str, float] = {}
        """Requests granted here since the start, by the name of the key."""
        self.use(holders)

    def use(self, holders: Iterable[KeyHolder]) -> None:
        """Hold these limits from now on. What a key has used up stays used up."""
        self._limits = {holder.name: holder for holder in holders if holder.requests_per_minute}

    @property
    def has_limits(self) -> bool:
        return bool(self._limits)

    def take(
        self, name: str, cost: float = 1.0, now: float | None = None, paid: float = 0.0
    ) -> float:
        """Take `cost` requests from the key's bucket; return 0.0, or the seconds to wait for them.

        A refusal takes nothing. `paid` of the cost were taken before; the wait is for the whole
        cost. A cost above what the bucket can hold is granted when the bucket is full, and the
        next requests wait until that debt is paid. A name without a limit is always granted.
        `now` (monotonic seconds) is for tests.
        """
        if not (cost >= 0 and math.isfinite(cost)):
            raise ValueError(f"cost must be zero or more, not {cost}")
        limit = self._limits.get(name)
        if limit is None or limit.requests_per_minute is None:
            return 0.0
        moment = time.monotonic() if now is None else now
        rate = limit.requests_per_minute / 60
        capacity = max(1.0, limit.burst or limit.requests_per_minute)
        tokens, since = self._buckets.get(name, (capacity, moment))
        tokens = min(capacity, tokens + rate * max(0.0, moment - since))
        missing = min(cost, capacity) - tokens
        granted = missing <= paid + 1e-9  # rounding must not make a client wait a nanosecond
        if granted:
            tokens -= cost - paid
            self.granted[name] = self.granted.get(name, 0.0) + cost - paid
        self._buckets[name] = (tokens, max(moment, since))
        return 0.0 if granted else missing / rate

    def note(self, others: Mapping[str, Mapping[str, float]], now: float | None = None) -> None:
        """Count what the other processes have granted since their start, by process and key."""
        before = others if self._reported is None else self._reported
        moment = time.monotonic() if now is None else now
        for process, granted in others.items():
            for name, cost in granted.items():
                new = cost - before.get(process, {}).get(name, 0.0)
                if new > 0 and name in self._limits:
                    self.take(name, 0.0, moment)  # up to this moment
                    tokens, since = self._buckets[name]
                    self._buckets[name] = (tokens - new, since)
        self._reported = {**before, **others}
