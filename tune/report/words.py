"""The sentences of the report: what was found, in plain English."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from tune.report.table import Response


def show(value: Any) -> str:
    """A number with three digits, or whatever else a setting may be."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "true" if value else "false"
    if not isinstance(value, (int, float)):
        return str(value)
    if value == 0:
        return "0"
    if isinstance(value, int) or abs(value) >= 1000:
        return f"{value:.0f}".replace("-", "−")
    text = f"{value:.3g}"
    return text if "e" in text else text.replace("-", "−")


def three(value: float) -> str:
    """Three decimals; what rounds to zero has no sign."""
    text = f"{value:.3f}"
    return "0.000" if text == "-0.000" else text.replace("-", "−")


def share(value: float) -> str:
    """A share as a whole percentage."""
    return f"{100 * value:.0f} %".replace("-", "−")


def listed(names: Sequence[str]) -> str:
    """one, two and three"""
    if len(names) < 2:
        return "".join(names)
    return ", ".join(names[:-1]) + " and " + names[-1]


def counted(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def duration(seconds: float) -> str:
    """Seconds, minutes or hours, whichever is read best."""
    if not math.isfinite(seconds):
        return "–"
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def too_few(usable: int, needed: int, settings: int) -> str:
    return (
        f"{counted(usable, 'usable trial')} for {counted(settings, 'setting')} that varied: "
        f"at least {needed} are needed (20, or three per setting)"
    )


def explains_nothing(r2: Mapping[str, float]) -> str:
    return (
        "the forest explains nothing of trials that it has not seen: R² is "
        f"{r2['value']:.2f}, and its 95 % interval, {r2['low']:.2f} to {r2['high']:.2f}, includes "
        "0 or lies below".replace("-", "−")
    )


def budget_sentence(response: Response, metric: str) -> str:
    """How trials of different budgets were made comparable."""
    if response.how == "same budget":
        text = "All usable trials were trained for as long"
        text += f" ({counted(response.epoch, 'epoch')})" if response.epoch else ""
        return f"{text}, so {metric} is taken as it is."
    if response.how == "same epoch":
        return (
            f"Trials were trained for different numbers of epochs. All are compared by {metric} "
            f"after epoch {response.epoch}, which {len(response.rows)} of them reached, so being "
            "stopped early makes nothing look important or unimportant; what matters only later "
            "in training is not seen."
        )
    assert response.budget_share is not None
    return (
        f"Trials were trained for different numbers of epochs, which alone go with "
        f"{share(response.budget_share)} of the variance of {metric}. From each trial what is "
        "expected of so many epochs is subtracted first. Bad settings are why trials are stopped, "
        "so some of their true effect goes with it: importances here are cautious."
    )


def shown_as(response: Response, metric: str) -> str:
    """What the heights of the pictures are."""
    if response.how == "centred":
        return f"{metric} against what its epochs give"
    return f"{metric} after epoch {response.epoch}" if response.epoch else metric


def moved_sentence(response: Response, metric: str) -> str:
    if not response.moved:
        return ""
    trials = counted(response.moved, "trial")
    return (
        f"The {metric} of {trials} was far from all others and was moved to three interquartile "
        "ranges from the quartiles, so that it does not outweigh the rest."
    )


def inherited_sentence(trials: int) -> str:
    """Of a population-based search."""
    if not trials:
        return ""
    return (
        f"{counted(trials, 'trial')} went on from the checkpoint of another one and "
        f"{'is' if trials == 1 else 'are'} left out, since what they reached is not due to their "
        "own settings alone."
    )


def effect_sentence(effect: Mapping[str, Any]) -> str:
    """What the curve of a setting shows."""
    best = show(effect["best"])
    shape = {
        "higher": "higher is better",
        "lower": "lower is better",
        "category": f"{best} is best",
        "between": f"best near {best}",
    }[effect["shape"]]
    return f"{shape}; its range is worth {show(effect['difference'])}"


def headline(content: Mapping[str, Any]) -> list[str]:
    """One to three sentences that say what was found."""
    if content["refused"]:
        return [
            "This search cannot say which settings mattered: " + "; ".join(content["refused"]) + "."
        ]
    ranking = content["ranking"]
    important = [one for one in ranking["settings"] if one["important"]]
    total = len(ranking["settings"])
    if important:
        first, *others = (one["setting"] for one in important)
        then = [*others[:4], *([counted(len(others) - 4, "other")] if len(others) > 4 else [])]
        found = f"Of {total} settings {len(important)} mattered more than chance: {first}"
        found += f" most, then {listed(then)}." if others else "."
    else:
        found = f"None of {total} settings mattered more than chance by itself."
    r2 = ranking["r2"]
    after = f" after epoch {ranking['epoch']}" if ranking["epoch"] else ""
    explained = (
        f"Together they explain {share(r2['value'])} ({share(r2['low'])} to {share(r2['high'])}) "
        f"of the variance of {content['metric']}{after} between {ranking['trials']} trials."
    )
    return [found, explained, *_helping(ranking["groups"], content["metric"])]


def _helping(groups: Sequence[Mapping[str, Any]], metric: str) -> list[str]:
    """The answer of the first group that could be off."""
    for group in groups:
        if group["contrast"] is not None:
            return [f"{capital(group['group'])}: {contrast_sentence(group, metric)}"]
    return []


def contrast_sentence(group: Mapping[str, Any], metric: str) -> str:
    """Whether a group helps."""
    best, drawn = group["contrast"]["best"], group["contrast"]["drawn"]
    verdict = {
        "helps": "it helps",
        "hurts": "it hurts",
        "not shown": "no help and no harm was shown",
    }[group["contrast"]["verdict"]]
    return (
        f"{verdict}. Well set, it is worth {_gain(best)} {metric} against switched off; as it was "
        f"tried on average, {_gain(drawn)}. Plus is better."
    )


def _gain(estimate: Mapping[str, float]) -> str:
    """With as many decimals as the interval is sure of."""
    width = max(estimate["high"] - estimate["low"], 1e-9)
    decimals = max(0, 1 - math.floor(math.log10(width)))
    value, low, high = (f"{estimate[key]:+.{decimals}f}" for key in ("value", "low", "high"))
    return f"{value} ({low} to {high})".replace("-", "−")


def capital(text: str) -> str:
    return text[:1].upper() + text[1:]
