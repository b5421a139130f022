"""How many requests a key may send: a burst, then one by one."""

import pytest

from serve.common.keys import KeyHolder, sha256_of
from serve.common.rates import RateLimiter


def limited(rate: float | None, burst: float | None = None) -> RateLimiter:
    holder = KeyHolder.model_validate(
        {
            "name": "a",
            "sha256": sha256_of("a"),
            "scopes": ["translate", "search"],
            "requests_per_minute": rate,
            "burst": burst,
        }
    )
    return RateLimiter([holder])


class TestRateLimiter:
    def test_the_burst_passes_at_once_and_the_next_waits_for_one_share(self) -> None:
        limiter = limited(60, burst=3)
        assert [limiter.take("a", now=5.0) for _ in range(3)] == [0, 0, 0]
        assert limiter.take("a", now=5.0) == pytest.approx(1.0)

    def test_waiting_as_told_succeeds_and_refusals_cost_nothing(self) -> None:
        limiter = limited(30, burst=1)
        assert limiter.take("a", now=0.0) == 0
        wait = limiter.take("a", now=0.5)
        assert wait == pytest.approx(1.5)
        for _ in range(100):
            limiter.take("a", now=0.5)
        assert limiter.take("a", now=0.5 + wait) == 0

    def test_a_minutes_worth_is_the_burst_if_none_is_given(self) -> None:
        limiter = limited(10)
        granted = [limiter.take("a", now=0.0) == 0 for _ in range(12)]
        assert granted == [True] * 10 + [False] * 2

    def test_over_a_long_time_the_rate_holds(self) -> None:
        limiter = limited(120, burst=5)
        granted = sum(limiter.take("a", now=step / 100) == 0 for step in range(60 * 100))
        assert granted == pytest.approx(120 + 5, abs=1)

    def test_rest_does_not_save_up_more_than_the_burst(self) -> None:
        limiter = limited(60, burst=2)
        limiter.take("a", now=0.0)
        assert [limiter.take("a", now=1e6) > 0 for _ in range(3)] == [False, False, True]

    def test_a_cost_above_the_burst_passes_when_full_and_is_paid_off(self) -> None:
        limiter = limited(60, burst=2)
        assert limiter.take("a", cost=10, now=0.0) == 0
        assert limiter.take("a", now=0.0) == pytest.approx(9)  # 8 of debt, and 1
        assert limiter.take("a", now=9.0) == 0

    def test_what_others_granted_counts_too(self) -> None:
        limiter = limited(60, burst=4)
        limiter.note({"old": {"a": 100.0}}, now=0.0)  # before this one began
        assert limiter.take("a", now=0.0) == 0
        limiter.note({"old": {"a": 101.0}, "new": {"a": 1.0, "gone": 5.0}}, now=0.0)
        assert limiter.take("a", now=0.0) == 0
        assert limiter.take("a", now=0.0) == pytest.approx(1.0)
        limiter.note({"new": {"a": 1.0}}, now=0.0)  # nothing new, and one has ended
        assert limiter.take("a", now=1.0) == 0

    def test_processes_that_exchange_what_they_grant_keep_to_the_limit_together(self) -> None:
        limiters = {name: limited(120, burst=5) for name in ("x", "y", "z")}
        granted = 0
        for step in range(60 * 100):
            if step % 50 == 0:  # twice a second
                for name, limiter in limiters.items():
                    others = {n: dict(o.granted) for n, o in limiters.items() if n != name}
                    limiter.note(others, now=step / 100)
            granted += sum(limiter.take("a", now=step / 100) == 0 for limiter in limiters.values())
        assert granted == pytest.approx(120, abs=3 * 5)

    def test_a_key_without_a_limit_and_an_unknown_name_always_pass_and_use_no_memory(self) -> None:
        limiter = limited(None)
        assert all(limiter.take(f"name {n}") == 0 for n in range(1000))
        assert limiter.take("a") == 0
        assert not limiter._buckets

    def test_a_clock_that_goes_back_gives_nothing_away(self) -> None:
        limiter = limited(60, burst=1)
        limiter.take("a", now=100.0)
        assert limiter.take("a", now=50.0) == pytest.approx(1.0)
        assert limiter.take("a", now=100.5) == pytest.approx(0.5)

    @pytest.mark.parametrize("cost", [-1.0, float("nan"), float("inf")])
    def test_a_senseless_cost_is_a_defect(self, cost: float) -> None:
        with pytest.raises(ValueError, match="cost"):
            limited(60).take("a", cost=cost)
