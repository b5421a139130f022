"""Measure sides of a comparison: the project, its reference and the limit, in turn, in one run.

A `Side` does one round of its work and returns its rate. `compare` lets all sides of a row take
turns and keeps every rate; a `Row` knows its ratios and whether they suffice. Machines are noisy: a
rate alone says little, a ratio within one run does.
"""

import io
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context
from typing import Any, TypeVar

from matplotlib.ticker import LogLocator, NullLocator

from seqvis.decoding.linear import Precision, computes
from seqvis.plots.style import BLUE, GREY, LIGHT, new_figure, style

HEADINGS = ("stage", "side", "rate", "spread", "times", "at least", "of limit", "at least")

Result = TypeVar("Result")


class WrongResultError(Exception):
    """A side was measured, but its result is not what it must be."""


@dataclass(frozen=True)
class Side:
    """One side of a comparison."""

    name: str
    run: Callable[[], float]
    """Does one round and returns the units of work a second."""
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
        """Return half the range between the slowest and the quickest round, over the median."""
        rates = self.rates[name]
        return (max(rates) - min(rates)) / 2 / self.rate(name)

    def times(self, name: str) -> float:
        """Return a side's rate over the reference's."""
        return self.rate(name) / self.rate(self.sides[0].name)

    def share(self, side: Side) -> float | None:
        """Return a side's rate over its limit's."""
        return self.rate(side.name) / self.rate(side.limit) if side.limit else None

    def missed(self) -> list[str]:
        """Return the sides that miss a goal."""
        return [side.name for side in self.sides if "!" in "".join(self._goals(side))]

    def cells(self) -> Iterator[list[str]]:
        """Yield the cells of a table under HEADINGS, a line for each side."""
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
        """Return both goals as text, with a mark if they are missed."""
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
    stage: str, unit: str, sides: Sequence[Side], rounds: int, checks: dict[str, Any] | None = None
) -> Row:
    """Let the sides take turns, `rounds` times. The first is the reference."""
    rates: dict[str, list[float]] = {side.name: [] for side in sides}
    for _ in range(rounds):
        for side in sides:
            rates[side.name].append(side.run())
    return Row(stage, unit, sides, rates, checks or {})


def agreed(ours: float, theirs: float, tolerance: float) -> list[float]:
    """Return two losses for the checks. Raises WrongResultError if they differ by more."""
    if abs(ours - theirs) > tolerance * abs(theirs):
        raise WrongResultError(f"the loss is {ours}, the reference's {theirs}")
    return [float(f"{loss:.6g}") for loss in (ours, theirs)]


def possible(goals: Mapping[Precision, float]) -> dict[Precision, float]:
    """Return the goals of those precisions that this processor computes in."""
    return {name: goal for name, goal in goals.items() if computes(name)}


def rate(amount: float, work: Callable[[], Any]) -> float:
    """Do the work once; return the amount a second."""
    began = time.perf_counter()
    work()
    return amount / (time.perf_counter() - began)


def in_a_process(function: Callable[..., Result], *arguments: Any) -> Result:
    """Call a function in a process of its own."""
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def rate_over(seconds: float, work: Callable[[], float]) -> float:
    """Repeat work, which returns how much it did, for some seconds; return the rate."""
    done, began = 0.0, time.perf_counter()
    while time.perf_counter() - began < seconds:
        done += work()
    return done / (time.perf_counter() - began)


def as_table(heads: Sequence[str], *rows: Sequence[object]) -> str:
    """Write a table in Markdown."""
    lines = (heads, ["---"] * len(heads), *rows)
    return "".join(f"| {' | '.join(map(str, cells))} |\n" for cells in lines)


def as_markdown(rows: Sequence[Row]) -> str:
    """Write the rows as a table for the docs."""
    return as_table(HEADINGS, *(cells for row in rows for cells in row.cells()))


def chart(rows: Sequence[Row]) -> bytes:
    """Draw a PNG with a bar for each side: how many times the reference, and the goal.

    The scale is logarithmic, so bars begin at the reference and go to the side that they differ to.
    """
    bars = sum(len(row.sides) - 1 for row in rows)
    figure = new_figure(9, 1.5 + 0.26 * bars + 0.3 * len(rows))
    axes = figure.subplots()
    place, places, names = 0.0, [], []
    for row in rows:
        axes.text(
            0.005, place, row.stage, fontsize=9, fontweight="bold", va="center",
            transform=axes.get_yaxis_transform(),
        )  # fmt: skip
        for side in row.sides[1:]:
            place += 1
            times = row.times(side.name)
            ours = side.at_least is not None or side.limit is not None
            axes.barh(place, times - 1, left=1, color=BLUE if ours else LIGHT, height=0.75)
            right = max(1, times, side.at_least or 0)
            axes.text(right * 1.04, place, f"{times:.2f}", fontsize=8, va="center")
            if side.at_least:
                axes.plot([side.at_least] * 2, [place - 0.45, place + 0.45], "k-", linewidth=1.6)
            places.append(place)
            names.append(side.name)
        place += 1.4
    style(axes)
    axes.axvline(1, color=GREY, linewidth=0.8)
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_yticks(places, names, fontsize=8)
    axes.set_ylim(place, -1)
    axes.set_xlabel("times the reference's rate; a black line: what should be reached")
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=110)
    return stream.getvalue()
