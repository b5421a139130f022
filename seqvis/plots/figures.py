"""Plots of a corpus and a training run, drawn from plain numbers into PNG files.

Each function takes numbers and a local path, and replaces the file there. The common look is
defined in `seqvis.plots.style`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator
from numpy.typing import ArrayLike, NDArray

from seqvis.plots.style import (
    BLUE,
    GREEN,
    GREY,
    INK,
    LIGHT,
    ORANGE,
    PURPLE,
    draw_title,
    new_figure,
    percent,
    save,
    short,
    style,
    thousands,
)


def plot_lengths(
    path: Path,
    source_lengths: ArrayLike,
    target_lengths: ArrayLike,
    source_limit: int,
    target_limit: int,
    source_name: str,
    target_name: str,
) -> None:
    """Draw histograms of both languages' sentence lengths, and what the limits cut off.

    `source_lengths[n]` is the number of sentences of n tokens; a sentence longer than
    `source_limit` tokens is cut. The names are shown ("French").
    """
    sides = [
        (np.asarray(source_lengths, dtype=float), source_limit, source_name),
        (np.asarray(target_lengths, dtype=float), target_limit, target_name),
    ]
    last = max(_last_length_shown(counts, limit) for counts, limit, _ in sides)
    figure = new_figure(8.0, 5.6)
    axes = figure.subplots(2, 1, sharex=True)
    for ax, (counts, limit, name) in zip(axes, sides, strict=True):
        _draw_lengths(ax, counts, limit, name, last)
    axes[-1].set_xlabel("sentence length in tokens")
    save(figure, path)


def _last_length_shown(counts: NDArray[Any], limit: int) -> int:
    """Return the length at which the axis ends, so that a few sentences do not flatten the rest."""
    share_below = np.cumsum(counts) / counts.sum()
    usual = int(np.searchsorted(share_below, 0.999))
    return max(usual, round(1.25 * limit), limit + 3)


def _draw_lengths(ax: Axes, counts: NDArray[Any], limit: int, name: str, last: int) -> None:
    shown = counts[: last + 1]
    lengths = np.arange(len(shown))
    colours = [BLUE if length <= limit else ORANGE for length in lengths]
    ax.bar(lengths, shown, width=0.85, color=colours)
    top = 1.18 * float(shown.max())
    longer = float(counts[limit + 1 :].sum())
    ax.axvline(limit + 0.5, ymax=0.97, color=INK, linewidth=1.2, linestyle=(0, (4, 3)))
    label = f"limit {limit} tokens\n{percent(longer / counts.sum())} of sentences are cut"
    on_left = limit > 0.65 * last
    ax.annotate(
        label,
        (limit + 0.5, 0.97 * top),
        xytext=(-6 if on_left else 6, 0),
        textcoords="offset points",
        ha="right" if on_left else "left",
        va="top",
        color=INK,
    )
    beyond = float(counts[last + 1 :].sum())
    note = f"; {thousands(beyond)} beyond {last} tokens are not shown" if beyond else ""
    draw_title(ax, name, f"{thousands(counts.sum())} sentences{note}")
    ax.set_xlim(-0.75, last + 0.75)
    ax.set_ylim(0, top)
    ax.set_ylabel("sentences")
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: thousands(value)))
    style(ax)


@dataclass(frozen=True)
class _Panel:
    """One of the small plots of `plot_curves`: its title and the metrics that share it."""

    title: str
    keys: Mapping[str, tuple[str, str]]  # metric -> (label, colour)
    show: Callable[[float], str] = "{:g}".format
    unit: str = ""
    from_zero: bool = False
    measures_quality: bool = False  # then its first metric at the best epoch is shown


_PANELS = (
    _Panel(
        "Loss",
        {
            "loss": ("validation", BLUE),
            "train_loss": ("training", GREY),
            "smoothed_train_loss": ("training, smoothed", ORANGE),
            "forced_loss": ("validation, teacher-forced", GREEN),
            "loss_with_padding": ("validation, with padding", PURPLE),
        },
        "{:.2f}".format,
        "mean per token or picture",
        measures_quality=True,
    ),
    _Panel(
        "BLEU and chrF",
        {"bleu": ("BLEU", BLUE), "chrf": ("chrF", GREEN)},
        "{:.1f}".format,
        from_zero=True,
        measures_quality=True,
    ),
    _Panel(
        "Accuracy",
        {"accuracy": ("accuracy", BLUE)},
        "{:.3f}".format,
        "share of tokens",
        measures_quality=True,
    ),
    _Panel(
        "Hits",
        {"hit@1": ("hit@1", BLUE), "hit@5": ("hit@5", GREEN), "hit@10": ("hit@10", PURPLE)},
        "{:.3f}".format,
        "share of pictures",
        from_zero=True,
        measures_quality=True,
    ),
    _Panel("Learning rate", {"learning_rate": ("learning rate", BLUE)}),
    _Panel("Momentum", {"momentum": ("momentum", BLUE)}),
    _Panel(
        "Attention",
        {"attention_entropy": ("entropy", BLUE)},
        unit="entropy, 1: even",
        from_zero=True,
    ),
    _Panel("Teacher forcing", {"teacher_forcing": ("forcing", BLUE)}, unit="probability"),
    _Panel(
        "Speed",
        {"tokens_per_second": ("tokens", BLUE), "pictures_per_second": ("pictures", BLUE)},
        unit="per second",
        from_zero=True,
    ),
)


def plot_curves(
    path: Path, history: Sequence[Mapping[str, float]], best_epoch: float | None
) -> None:
    """Draw the metrics of a training run by epoch: a small picture for each panel that has any."""
    panels = [
        panel for panel in _PANELS if any(key in row for row in history for key in panel.keys)
    ]
    epochs = np.array([row["epoch"] for row in history], dtype=float)
    columns = min(len(panels), 2 if len(panels) in (2, 4) else 3 if len(panels) < 7 else 4)
    rows = -(-len(panels) // columns)
    figure = new_figure(4.0 * columns + 0.4, 2.9 * rows)
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for ax, panel in zip(axes, panels, strict=False):
        _draw_panel(ax, panel, epochs, history, best_epoch)
    for ax in axes[len(panels) :]:
        ax.set_axis_off()
    save(figure, path)


def _column(history: Sequence[Mapping[str, float]], key: str) -> NDArray[Any]:
    return np.array([row.get(key, np.nan) for row in history], dtype=float)


def _draw_panel(
    ax: Axes,
    panel: _Panel,
    epochs: NDArray[Any],
    history: Sequence[Mapping[str, float]],
    best: float | None,
) -> None:
    drawn = 0
    for key, (label, colour) in panel.keys.items():
        values = _column(history, key)
        # Gaps instead of an error: the curves of a run that diverged are the ones people look at.
        finite = np.isfinite(values)
        if not finite.any():
            continue
        values = np.where(finite, values, np.nan)
        marker = "o" if len(epochs) <= 25 else None
        ax.plot(epochs, values, color=colour, label=label, marker=marker, markersize=3)
        drawn += 1
        at_best = np.flatnonzero((epochs == best) & finite)
        if at_best.size:
            at = at_best[0]
            ax.axvline(epochs[at], color=LIGHT, linewidth=1.2, zorder=0)
            ax.plot(epochs[at], values[at], "o", color=colour, markersize=7, mec="white", zorder=5)
    if drawn == 0:
        ax.text(0.5, 0.5, "no finite value", transform=ax.transAxes, ha="center", color=GREY)
    if drawn > 1:
        ax.legend(frameon=False, fontsize=8, labelcolor=INK)
    draw_title(ax, panel.title, _best_value(panel, epochs, history, best))
    ax.set_ylabel(panel.unit, color=GREY)
    ax.set_xlabel("epoch")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: short(value)))
    if panel.from_zero and drawn:
        ax.set_ylim(bottom=0)
    ax.margins(y=0.1)
    style(ax)


def _best_value(
    panel: _Panel,
    epochs: NDArray[Any],
    history: Sequence[Mapping[str, float]],
    best: float | None,
) -> str:
    for key in panel.keys if panel.measures_quality else ():
        for value in _column(history, key)[epochs == best]:
            if np.isfinite(value):
                return f"best epoch {best:g}: {panel.show(value)}"
    return ""


def plot_learning_rates(
    path: Path,
    rates: ArrayLike,
    losses: ArrayLike,
    smoothed: ArrayLike,
    suggestion: float,
) -> None:
    """Draw the learning-rate finder's loss against the learning rate, and its suggestion.

    The three series have one entry a step.
    """
    x, raw, smooth = (np.asarray(values, dtype=float) for values in (rates, losses, smoothed))
    usable = np.isfinite(smooth)
    figure = new_figure(7.2, 4.4)
    ax = figure.subplots()
    ax.plot(x, raw, color="#A9C9E0", linewidth=1, label="loss of each step")
    ax.plot(x, smooth, color=BLUE, linewidth=2.2, label="smoothed")
    low, start = float(smooth[usable].min()), float(smooth[usable][0])
    high = max(start, low) + 0.5 * max(start - low, 0.05 * abs(start), 1e-3)  # hides the explosion
    ax.set_ylim(low - 0.12 * (high - low), high)
    ax.set_xscale("log")
    ax.axvline(suggestion, color=ORANGE, linewidth=1.6, linestyle=(0, (4, 3)))
    value = float(np.interp(np.log(suggestion), np.log(x[usable]), smooth[usable]))
    ax.plot([suggestion], [value], "o", color=ORANGE, markersize=8, markeredgecolor="white")
    ax.plot([], [], color=ORANGE, linestyle=(0, (4, 3)), label=f"suggested: {suggestion:.2g}")
    ax.legend(frameon=False, loc="lower left", labelcolor=INK)
    ax.set_xlabel("learning rate")
    ax.set_ylabel("training loss")
    draw_title(ax, "Learning-rate finder", "")
    style(ax)
    save(figure, path)
