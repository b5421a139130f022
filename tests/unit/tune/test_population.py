"""Population-based training: who replaces whom, and that an interruption changes nothing."""

from pathlib import Path
from typing import Any

import pytest

from tests.support.played import choices, loss, open_search, outcome, play
from tune.study.records import Trial
from tune.study.settings import MODELS, TRANSLATOR
from tune.study.space import Space


def test_the_best_members_of_a_population_replace_the_worst(tmp_path: Path, space: Space) -> None:
    settings = choices(algorithm="pbt", trials=8, interval=3)
    search = open_search(tmp_path / "out", space, settings)
    for _ in play(search):
        pass
    children = [trial for trial in search.trials if trial.origin]
    assert len(children) == 4  # a quarter of eight, after epochs 3 and 6
    for child in children:
        assert child.origin is not None
        donor, loser = (
            search.records[name] for name in (child.origin.donor, child.origin.replaces)
        )
        assert loss(donor, child.origin.epoch) < loss(loser, child.origin.epoch)
        assert (loser.status, loser.epoch) == ("stopped", child.origin.epoch)
        assert child.config != donor.config
        # Sizes are the checkpoint's.
        assert child.config["model.hidden_size"] == donor.config["model.hidden_size"]
        assert child.results[0].epoch == child.origin.epoch + 1
    assert [trial.status for trial in search.trials].count("finished") == 8
    # The weights of the last to finish were trained by it and, before, by those it stems from.
    last = children[-1]
    store = TRANSLATOR.checkpoints(search.records.model(last.name))
    latest = store.latest()
    assert latest is not None
    trace = store.read(latest).tensors["model.trace"].tolist()
    assert last.origin is not None
    generation = last.origin.epoch // 3
    assert trace[generation - 1] == float(last.origin.donor[1:])
    assert trace[generation:] == [float(last.name[1:])] * (3 - generation)


@pytest.mark.parametrize(
    ("kind", "path", "changes"),
    [
        ("translator", "model.dropout.weight", True),
        ("translator", "model.hidden_size", False),
        ("translator", "model.attention_activation", False),
        ("translator", "variant", False),
        ("translator", "batches.size", False),
        ("translator", "loss.label_smoothing", True),
        ("translator", "forcing.schedule", True),
        ("translator", "optimizer.rise", True),
        ("translator", "optimizer.algorithm", False),
        ("devise", "loss", True),
        ("devise", "losses.scale", True),
        ("devise", "head.dropout", True),
        ("devise", "head.hidden", False),
        ("devise", "centred", False),
        ("devise", "validation_share", False),
    ],
)
def test_a_population_changes_what_a_checkpoint_is_not_bound_to(
    kind: str, path: str, changes: bool
) -> None:
    assert MODELS[kind].can_change(path) is changes


def test_an_interrupted_population_goes_on_as_if_it_had_not_been(
    tmp_path: Path, space: Space
) -> None:
    settings = choices(algorithm="pbt", trials=4, interval=3)
    whole = open_search(tmp_path / "whole", space, settings)
    for _ in play(whole):
        pass
    steps = 0
    while True:  # a new search after each fifth thing that happens
        parts = open_search(tmp_path / "parts", space, settings)
        steps = sum(1 for _, _ in zip(range(5), play(parts), strict=False))
        if steps < 5:
            break
    assert outcome(parts) == outcome(whole)


def test_a_selection_that_was_cut_off_is_done_again_to_the_same_effect(
    tmp_path: Path, space: Space, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = choices(algorithm="pbt", trials=8, interval=3)
    whole = open_search(tmp_path / "whole", space, settings)
    for _ in play(whole):
        pass
    cut = open_search(tmp_path / "cut", space, settings)
    calls: list[str] = []
    add = cut.records.add

    def dies_at_the_second_child(config: Any, epochs: int, origin: Any = None) -> Trial:
        if origin is not None:
            calls.append(origin.replaces)
            if len(calls) == 2:
                raise KeyboardInterrupt
        return add(config, epochs, origin)

    monkeypatch.setattr(cut.records, "add", dies_at_the_second_child)
    with pytest.raises(KeyboardInterrupt):
        for _ in play(cut):
            pass
    again = open_search(tmp_path / "cut", space, settings)
    for _ in play(again):
        pass
    assert outcome(again) == outcome(whole)
