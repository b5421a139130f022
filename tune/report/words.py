"""The numbers and sentences of the report."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from tune.report.table import Response


def show(value: Any) -> str:
    """Write a number with three digits, or any other value of a setting."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "true" if value else "false"
    if not isinstance(value, (int, float)):
        return str(value)
    if isinstance(value, int) or abs(value) >= 1000:
        return _minus(f"{value:.0f}")
    text = f"{value or 0:.3g}"
    return text if "e" in text else _minus(text)


def three(value: float) -> str:
    """Write three decimals."""
    return _minus(f"{round(value, 3) + 0.0:.3f}")  # + 0.0 turns -0.0 into 0.0


def share(value: float) -> str:
    """Write a share as a whole percentage."""
    return _minus(f"{100 * value:.0f} %")


def listed(names: Sequence[str]) -> str:
    """Write "one, two and three"."""
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def counted(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def duration(seconds: float) -> str:
    """Write seconds, minutes or hours."""
    if not math.isfinite(seconds):
        return "–"
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _minus(text: str) -> str:
    return text.replace("-", "−")


def too_few(usable: int, needed: int, settings: int) -> str:
    return (
        f"{counted(usable, 'usable trial')} for {counted(settings, 'setting')} that varied: "
        f"at least {needed} are needed (20, or three per setting)"
    )


def explains_nothing(r2: Mapping[str, float]) -> str:
    value, low, high = (_minus(f"{r2[key]:.2f}") for key in ("value", "low", "high"))
    return (
        f"the forest explains nothing of trials that it has not seen: R² is {value}, and its 95 % "
        f"interval, {low} to {high}, includes 0 or lies below it"
    )


def budget(response: Response, metric: str, inherited: int) -> dict[str, Any]:
    """Say how trials with different numbers of epochs were made comparable."""
    epoch, how, shown_as = response.epoch, response.how, metric
    different = "Trials were trained for different numbers of epochs"
    if how == "same budget":
        epochs = f" ({counted(epoch, 'epoch')})" if epoch else ""
        text = f"All usable trials were trained equally long{epochs}: {metric} is taken as it is."
    elif how == "same epoch":
        text = (
            f"{different}. All are compared by {metric} after epoch {epoch}, which "
            f"{len(response.rows)} of them reached, so being stopped early makes nothing look "
            "important or unimportant; what matters only later in training is not seen."
        )
    else:
        shown_as = f"{metric} against what its epochs give"
        text = (
            f"{different}, which alone explain {share(response.budget_share or 0)} of the variance "
            f"of {metric}. What is expected of its number of epochs is first subtracted from each "
            "trial. Trials are stopped because of bad settings, so this also removes some of the "
            "settings' true effect: importances here are cautious."
        )
    outliers = (
        f"The {metric} of {counted(response.moved, 'trial')} was far from all others and was moved "
        "to three interquartile ranges from the quartiles, so that it does not outweigh the rest."
    )
    left_out = (
        f"{counted(inherited, 'trial')} went on from the checkpoint of another trial and "
        f"{'is' if inherited == 1 else 'are'} left out, since the result is not due to their own "
        "settings alone."
    )
    return {
        "how": how,
        "epoch": epoch,
        "share": response.budget_share,
        "shown_as": f"{metric} after epoch {epoch}" if epoch else shown_as,
        "explanation": text,
        "outliers": outliers if response.moved else "",
        "inherited": left_out if inherited else "",
    }


def effect_sentence(effect: Mapping[str, Any]) -> str:
    """Say what the curve of a setting shows."""
    best = show(effect["best"])
    shape = {
        "higher": "higher is better",
        "lower": "lower is better",
        "category": f"{best} is best",
        "between": f"best near {best}",
    }[effect["shape"]]
    return f"{shape}; its range is worth {show(effect['difference'])}"


def headline(content: Mapping[str, Any]) -> list[str]:
    """Say in one to three sentences what was found."""
    if content["refused"]:
        reasons = "; ".join(content["refused"])
        return [f"This search cannot say which settings mattered: {reasons}."]
    ranking, metric = content["ranking"], content["metric"]
    names = [row["setting"] for row in ranking["settings"] if row["important"]]
    total = len(ranking["settings"])
    finding = f"None of {total} settings mattered more than chance by itself."
    if names:
        first, others = names[0], names[1:5]
        if len(names) > 5:
            others.append(counted(len(names) - 5, "other"))
        then = f" most, then {listed(others)}" if others else ""
        finding = f"Of {total} settings {len(names)} mattered more than chance: {first}{then}."
    value, low, high = (share(ranking["r2"][key]) for key in ("value", "low", "high"))
    after = f" after epoch {ranking['epoch']}" if ranking["epoch"] else ""
    explained = (
        f"Together they explain {value} ({low} to {high}) of the variance of {metric}{after} "
        f"between {ranking['trials']} trials."
    )
    contrasts = (
        f"{capital(group['group'])}: {contrast_sentence(group, metric)}"
        for group in ranking["groups"]
        if group["contrast"]
    )
    return [finding, explained, *list(contrasts)[:1]]


def contrast_sentence(group: Mapping[str, Any], metric: str) -> str:
    """Say whether a group helps."""
    verdicts = {"helps": "it helps", "hurts": "it hurts"}
    verdict = verdicts.get(group["contrast"]["verdict"], "no help and no harm was shown")
    best, drawn = _gain(group["contrast"]["best"]), _gain(group["contrast"]["drawn"])
    return (
        f"{verdict}. Well set, it is worth {best} {metric} against switched off; as it was tried "
        f"on average, {drawn}. Plus is better."
    )


def _gain(estimate: Mapping[str, float]) -> str:
    """Write an estimate with as many decimals as its interval supports."""
    width = max(estimate["high"] - estimate["low"], 1e-9)
    decimals = max(0, 1 - math.floor(math.log10(width)))
    value, low, high = (f"{estimate[key]:+.{decimals}f}" for key in ("value", "low", "high"))
    return _minus(f"{value} ({low} to {high})")
