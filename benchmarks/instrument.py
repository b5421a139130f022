"""Measuring sides by side: the project, its reference and the limit, alternately, in one run.

A `Side` does one round of its work and says how much of it a second. `compare` lets all sides of a
row take turns and keeps every round's rate; a `Row` knows its ratios and whether they suffice.
Machines are noisy: a rate alone says little, a ratio within one run does.
"""

import io
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

from seqvis.translation.products import Precision, computes

HEADINGS = ("stage", "side", "rate", "spread", "times", "at least", "of limit", "at least")


class WrongResultError(Exception):
    """A side was measured, but its result is not what it must be."""


@dataclass(frozen=True)
class Side:
    """One of those who are compared."""

    name: str
    run: Callable[[], float]
    """Does one round and returns how many units of work it did a second."""
    at_least: float | None = None
    """How many times the reference's rate it should reach; of the project's sides alone."""
    limit: str | None = None
    """The side that is the limit of this one."""
    of_limit: float | None = None
    """The share of the limit that it should reach."""


@dataclass(frozen=True)
class Row:
    """One stage; the first side is the reference."""

    stage: str
    unit: str
    sides: Sequence[Side]
    rates: dict[str, list[float]]
    checks: dict[str, Any] = field(default_factory=dict)
    """What was compared of the results."""

    def rate(self, name: str) -> float:
        return statistics.median(self.rates[name])

    def spread(self, name: str) -> float:
        """Half of what lies between the slowest and the quickest round, over the median."""
        rates = self.rates[name]
        return (max(rates) - min(rates)) / 2 / self.rate(name)

    def times(self, name: str) -> float:
        """A side's rate over the reference's."""
        return self.rate(name) / self.rate(self.sides[0].name)

    def share(self, side: Side) -> float | None:
        """A side's rate over its limit's."""
        return self.rate(side.name) / self.rate(side.limit) if side.limit else None

    def missed(self) -> list[str]:
        """The sides that do not reach what they should."""
        return [side.name for side in self.sides if "!" in "".join(self._goals(side))]

    def cells(self) -> Iterator[list[str]]:
        """What a table shows, a line for each side, under HEADINGS."""
        for number, side in enumerate(self.sides):
            share = self.share(side)
            least, of_limit = self._goals(side)
            yield [
                f"{self.stage}, {self.unit}" if number == 0 else "",
                side.name,
                _short(self.rate(side.name)),
                f"± {self.spread(side.name):.0%}" if len(self.rates[side.name]) > 1 else "",
                f"{self.times(side.name):.2f}",
                least,
                "" if share is None else f"{share:.0%}",
                of_limit,
            ]

    def as_json(self) -> dict[str, Any]:
        sides = {}
        for side in self.sides:
            share = self.share(side)
            sides[side.name] = {
                "rates": [float(f"{rate:.5g}") for rate in self.rates[side.name]],
                "times": round(self.times(side.name), 3),
                **({"at_least": side.at_least} if side.at_least else {}),
                **({"limit": side.limit, "share": round(share, 3)} if share else {}),
                **({"of_limit": side.of_limit} if side.of_limit else {}),
            }
        return {"stage": self.stage, "unit": self.unit, "sides": sides, "checks": self.checks}

    def _goals(self, side: Side) -> tuple[str, str]:
        """What should be reached, with a mark if it is not."""
        least = of_limit = ""
        if side.at_least:
            least = f"{side.at_least:g}{'' if self.times(side.name) >= side.at_least else ' !'}"
        if side.of_limit:
            missed = (self.share(side) or 0.0) < side.of_limit
            of_limit = f"{side.of_limit:.0%}{' !' if missed else ''}"
        return least, of_limit


def _short(rate: float) -> str:
    return f"{rate:,.0f}" if rate >= 1000 else f"{rate:.4g}"


def compare(
    stage: str,
    unit: str,
    sides: Sequence[Side],
    rounds: int,
    checks: dict[str, Any] | None = None,
) -> Row:
    """Lets the sides take turns, `rounds` times. The first is the reference."""
    rates: dict[str, list[float]] = {side.name: [] for side in sides}
    for _ in range(rounds):
        for side in sides:
            rates[side.name].append(side.run())
    return Row(stage, unit, sides, rates, checks or {})


def possible(goals: Mapping[Precision, float]) -> dict[Precision, float]:
    """Of precisions and what they should reach those that this processor computes with."""
    return {name: goal for name, goal in goals.items() if computes(name)}


def rate(amount: float, work: Callable[[], Any]) -> float:
    """Does the work once; the amount a second."""
    began = time.perf_counter()
    work()
    return amount / (time.perf_counter() - began)


def as_table(heads: Sequence[str], *rows: Sequence[object]) -> str:
    """A table in Markdown."""
    lines = (heads, ["---"] * len(heads), *rows)
    return "".join(f"| {' | '.join(map(str, cells))} |\n" for cells in lines)


def as_markdown(rows: Sequence[Row]) -> str:
    """The rows as a table for the docs."""
    return as_table(HEADINGS, *(cells for row in rows for cells in row.cells()))


def chart(rows: Sequence[Row]) -> bytes:
    """A PNG with a bar for each side: how many times the reference, and where it should be.

    The scale is logarithmic, so bars begin at the reference and go to the side that they differ to.
    """
    bars = [(row, side) for row in rows for side in row.sides[1:]]
    figure = Figure(figsize=(9, 1.5 + 0.26 * len(bars) + 0.3 * len(rows)), layout="constrained")
    axes = figure.subplots()
    place, places, names = 0.0, [], []
    for row in rows:
        axes.text(
            0.005, place, row.stage, fontsize=9, fontweight="bold", va="center",
            transform=axes.get_yaxis_transform(),
        )  # fmt: skip
        place += 1
        for side in row.sides[1:]:
            times = row.times(side.name)
            mine = side.at_least is not None or side.limit is not None
            colour = "#2f6f9f" if mine else "#b9c2c9"
            axes.barh(place, times - 1, left=1, color=colour, height=0.75)
            right = max(1, times, side.at_least or 0)
            axes.text(right * 1.04, place, f"{times:.2f}", fontsize=8, va="center")
            if side.at_least:
                axes.plot([side.at_least] * 2, [place - 0.45, place + 0.45], "k-", linewidth=1.6)
            places.append(place)
            names.append(side.name)
            place += 1
        place += 0.4
    axes.axvline(1, color="#888888", linewidth=0.8)
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_yticks(places, names, fontsize=8)
    axes.set_ylim(place, -1)
    axes.set_xlabel("times the reference's rate; a black line: what should be reached")
    for edge in ("top", "right"):
        axes.spines[edge].set_visible(False)
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=110)
    return stream.getvalue()
