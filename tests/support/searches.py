"""Tables of trials whose truth is known, as a search would write them."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from tune.report.settings import ForestSettings, ReportSettings

# Fewer forests than the report's own: enough for effects as plain as those of the tests.
QUICK = ReportSettings(forest=ForestSettings(trees=20, repeats=5, refits=12))


def trials(metric: ArrayLike, settings: Mapping[str, ArrayLike], **columns: Any) -> pd.DataFrame:
    """One row per trial; `columns` replace status, epochs, seconds and error."""
    values = np.asarray(metric, dtype=float)
    frame: dict[str, Any] = {
        "trial": [f"{number:05d}" for number in range(len(values))],
        "status": "finished",
        "epochs": 3,
        "seconds": 60.0,
        "metric": values,
        "error": None,
    }
    frame |= columns
    return pd.DataFrame(
        {**frame, **{f"config/{name}": column for name, column in settings.items()}}
    )


def write_search(
    folder: Path,
    table: pd.DataFrame,
    space: Mapping[str, Any] | None = None,
    history: pd.DataFrame | None = None,
    metric: str = "bleu",
    mode: str = "max",
) -> Path:
    """The files of a search in a new folder."""
    folder.mkdir(parents=True, exist_ok=True)
    table.to_parquet(folder / "trials.parquet")
    search = {"metric": metric, "mode": mode, "space": dict(space or {})}
    (folder / "search.json").write_text(json.dumps(search))
    if history is not None:
        history.to_parquet(folder / "history.parquet")
    return folder


def interacting(count: int = 110, seed: int = 4) -> pd.DataFrame:
    """bleu = 30 + 3 a + b² + 12 (a - ½)(c - ½) + noise; d and e do nothing."""
    random = np.random.default_rng(seed)
    drawn = {f"part.{name}": random.uniform(0, 1, count) for name in "abcde"}
    a, b, c = (drawn[f"part.{name}"] for name in "abc")
    bleu = 30 + 3 * a + b**2 + 12 * (a - 0.5) * (c - 0.5) + random.normal(0, 0.3, count)
    return trials(bleu, drawn)


def translator(count: int = 90, seed: int = 6) -> pd.DataFrame:
    """Effects without interaction, of every kind of setting.

    The loss (smaller is better) is lowest at a learning rate of 1e-3, four whole decades of which
    are searched; relu is better than tanh by 1.2; the weight drop costs 2 from nothing to 0.6; the
    attention size, which matters nothing, is there only with attention, which is worth 1.5.
    """
    random = np.random.default_rng(seed)
    rate = 10 ** random.uniform(-5, -1, count)
    activation = random.choice(["relu", "tanh"], count)
    weight = random.uniform(0, 0.6, count)
    embedding = random.uniform(0, 0.3, count)
    attention = random.random(count) < 0.5
    size = np.where(attention, random.choice([128, 256, 512], count), np.nan)
    loss = 4 + 0.8 * (np.log10(rate) + 3) ** 2 - 1.2 * (activation == "relu")
    loss += 2 * weight / 0.6 - 1.5 * attention + random.normal(0, 0.25, count)
    settings: dict[str, ArrayLike] = {
        "optimizer.learning_rate": rate,
        "model.attention_activation": activation,
        "model.dropout.weight": weight,
        "model.dropout.embedding": embedding,
        "model.attention": attention,
        "model.attention_size": size,
    }
    return trials(loss, settings)


def raced(
    final: ArrayLike, epochs: ArrayLike, seed: int = 2
) -> tuple[np.ndarray[Any, Any], pd.DataFrame]:
    """The last metric of trials that were trained for so many epochs, and their history.

    After epoch e a trial has reached the share 1 - 2^-e of its final metric, with some noise.
    """
    random = np.random.default_rng(seed)
    values, many = np.asarray(final, dtype=float), np.asarray(epochs, dtype=int)
    rows = [
        (f"{number:05d}", epoch, value * (1 - 0.5**epoch) + random.normal(0, 0.05))
        for number, (value, last) in enumerate(zip(values, many, strict=True))
        for epoch in range(1, last + 1)
    ]
    history = pd.DataFrame(rows, columns=["trial", "epoch", "metric"])
    return history.groupby("trial")["metric"].last().to_numpy(), history
