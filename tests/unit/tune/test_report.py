"""The report finds what was put into the trials, and keeps silent where nothing can be found."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import pytest

from tests.support.searches import QUICK, interacting, raced, translator, trials
from tune.report.analysis import analyse, needed_trials
from tune.report.settings import ForestSettings, ReportSettings
from tune.report.table import make_table

pytestmark = pytest.mark.slow

Content = dict[str, Any]

# Enough where no curve or interaction is looked at.
FEW = ReportSettings(forest=ForestSettings(trees=10, repeats=2, refits=3))


def report(
    frame: pd.DataFrame, mode: Any = "max", settings: ReportSettings = QUICK, **table: Any
) -> Content:
    made = make_table(frame, **({"space": {}} | table))
    return analyse(made, "bleu", mode, "A search", settings)


def rows(content: Content, part: str = "ranking") -> dict[str, Mapping[str, Any]]:
    return {row["setting"]: row for row in content[part]["settings"]}


def important(content: Content) -> list[str]:
    return [name for name, row in rows(content).items() if row["important"]]


@pytest.fixture(scope="module")
def of_interacting() -> Content:
    return report(interacting())


@pytest.fixture(scope="module")
def of_translator() -> Content:
    return report(translator(), mode="min")


def test_settings_are_ranked_by_how_much_they_do(of_interacting: Content) -> None:
    names = list(rows(of_interacting))
    # Variances: a 3²/12 + 1 jointly with c, c 1 with a, b 4/45, d and e nothing.
    assert names[:3] == ["part.a", "part.c", "part.b"]
    assert of_interacting["summary"][0].startswith("Of 5 settings")
    assert "part.a most" in of_interacting["summary"][0]


def test_what_does_nothing_is_not_called_important(of_interacting: Content) -> None:
    assert set(important(of_interacting)) <= {"part.a", "part.b", "part.c"}
    assert {"part.a", "part.c"} <= set(important(of_interacting))


def test_the_share_that_is_explained_has_an_interval_below_what_noise_leaves(
    of_interacting: Content,
) -> None:
    r2 = of_interacting["r2"]
    assert 0 < r2["low"] < r2["value"] < r2["high"] < 1
    # 0.75 + 0.09 + 1 of signal beside 0.09 of noise: no forest can explain more than 95 %.
    assert r2["value"] < 0.95


def test_an_interaction_is_found_between_the_two_that_have_it(of_interacting: Content) -> None:
    by_pair = {
        frozenset((pair["first"], pair["second"])): pair["found"]
        for pair in of_interacting["ranking"]["interactions"]
    }
    assert by_pair.pop(frozenset(("part.a", "part.c")))
    assert not any(by_pair.values())


def test_the_surface_of_an_interaction_turns_its_slope(of_interacting: Content) -> None:
    (pair,) = (
        interaction
        for interaction in of_interacting["ranking"]["interactions"]
        if interaction["found"]
    )
    surface = np.array(pair["surface"])
    if pair["first"] == "part.c":
        surface = surface.T
    assert surface.shape == (12, 12)
    assert surface[-1, -1] > surface[-1, 0] + 1, "with a high, c must be high"
    assert surface[0, -1] < surface[0, 0] - 1, "with a low, c must be low"


def test_no_interaction_is_found_where_effects_add_up(of_translator: Content) -> None:
    pairs = of_translator["ranking"]["interactions"]
    assert len(pairs) >= 3
    assert not any(pair["found"] for pair in pairs)


def test_every_kind_of_setting_is_found_important(of_translator: Content) -> None:
    assert set(important(of_translator)) == {
        "optimizer.learning_rate",
        "model.attention_activation",
        "model.dropout.weight",
        "model.attention",
    }
    assert next(iter(rows(of_translator))) == "optimizer.learning_rate"


def test_effects_are_told_the_right_way_round(of_translator: Content) -> None:
    effects = {name: row["effect"] for name, row in rows(of_translator).items()}
    assert effects["model.attention_activation"]["best"] == "relu"
    assert effects["model.attention"]["best"] == "true"
    assert effects["model.dropout.weight"]["shape"] == "lower"
    assert rows(of_translator)["model.dropout.weight"]["says"].startswith("lower is better")
    rate = effects["optimizer.learning_rate"]
    assert rate["shape"] == "between"
    assert 10**-3.6 < rate["best"] < 10**-2.4


def test_a_logarithmic_scale_is_recognised_and_its_curve_spaced_evenly(
    of_translator: Content,
) -> None:
    kinds = {setting["setting"]: setting["kind"] for setting in of_translator["settings"]}
    assert kinds["optimizer.learning_rate"] == "log"
    assert kinds["model.dropout.weight"] == "number"
    values = rows(of_translator)["optimizer.learning_rate"]["curve"]["values"]
    ratios = np.diff(np.log10(values))
    assert ratios == pytest.approx(ratios[0])


def test_the_space_decides_whether_a_scale_is_logarithmic() -> None:
    frame = trials(range(40), {"x": np.linspace(0.001, 1, 40), "y": np.geomspace(0.001, 1, 40)})
    space = {"x": {"log_uniform": [0.001, 1]}, "y": {"uniform": [0, 1]}}
    assert [setting.kind for setting in make_table(frame, space).settings] == ["log", "number"]
    assert [setting.kind for setting in make_table(frame, {}).settings] == ["number", "log"]


def test_a_conditional_setting_is_credited_to_its_switch(of_translator: Content) -> None:
    by_name = {setting["setting"]: setting for setting in of_translator["settings"]}
    assert by_name["model.attention_size"]["only_with"] == "model.attention"
    ranked = rows(of_translator)
    assert not ranked["model.attention_size"]["important"]
    assert ranked["model.attention"]["important"]


def test_pure_noise_is_not_ranked() -> None:
    random = np.random.default_rng(11)
    frame = trials(random.normal(0, 1, 60), {name: random.random(60) for name in "abcd"})
    content = report(frame)
    assert content["ranking"] is None
    assert content["r2"]["low"] <= 0
    assert "explains nothing" in content["refused"][0]
    assert content["summary"][0].startswith("This search cannot say which settings mattered")


@pytest.mark.parametrize(("settings", "needed"), [(1, 20), (6, 20), (7, 21), (15, 45)])
def test_a_ranking_needs_twenty_trials_and_three_per_setting(settings: int, needed: int) -> None:
    assert needed_trials(settings) == needed


def test_too_few_trials_are_not_ranked_however_plain_their_effect() -> None:
    a = np.linspace(0, 1, 22)
    frame = trials(100 * a, {"a": a, "b": a[::-1] ** 2})
    frame.loc[:2, "status"] = "failed"
    content = report(frame)
    assert content["ranking"] is None
    assert content["r2"] is None
    assert content["refused"] == [
        "19 usable trials for 2 settings that varied: at least 20 are needed (20, or three per "
        "setting)"
    ]
    assert content["best"][0]["metric"] == 100


def test_without_a_setting_that_varied_or_a_metric_that_did_nothing_is_ranked() -> None:
    assert report(trials(range(30), {"a": 1.0}))["refused"] == [
        "no setting varied between the trials"
    ]
    assert report(trials(np.ones(30), {"a": range(30)}))["refused"] == [
        "the metric is the same in all trials"
    ]
    assert report(trials([], {"a": []}))["ranking"] is None


@pytest.fixture(scope="module")
def budgeted() -> tuple[pd.DataFrame, pd.DataFrame]:
    """`size` does nothing to the metric, but the larger the fewer epochs a trial was given."""
    random = np.random.default_rng(8)
    size, useful = random.uniform(0, 1, 90), random.uniform(0, 1, 90)
    epochs = np.clip(np.round(1 + 7 * (1 - size) + random.normal(0, 0.7, 90)), 1, 8).astype(int)
    last, history = raced(20 + 2 * useful, epochs)
    return trials(last, {"size": size, "useful": useful}, epochs=epochs), history


def test_the_budget_alone_would_make_a_setting_look_important(
    budgeted: tuple[pd.DataFrame, pd.DataFrame],
) -> None:
    blind = report(budgeted[0].assign(epochs=8), settings=FEW)
    assert next(iter(rows(blind))) == "size"  # else the two tests below would show nothing


def test_a_common_epoch_takes_the_effect_of_budgets_away(
    budgeted: tuple[pd.DataFrame, pd.DataFrame],
) -> None:
    content = report(budgeted[0], history=budgeted[1], settings=FEW)
    assert content["budget"]["how"] == "same epoch"
    assert content["budget"]["epoch"] == 1
    assert important(content) == ["useful"]


def test_without_a_history_what_the_epochs_give_is_taken_out(
    budgeted: tuple[pd.DataFrame, pd.DataFrame],
) -> None:
    content = report(budgeted[0], settings=FEW)
    assert content["budget"]["how"] == "centred"
    assert content["budget"]["share"] > 0.5
    assert important(content) == ["useful"]


def test_early_stopping_hides_no_effect_and_adds_none() -> None:
    random = np.random.default_rng(3)
    useful, useless = random.uniform(0, 1, 90), random.uniform(0, 1, 90)
    final = 20 + 4 * useful + random.normal(0, 0.3, 90)
    order = (-final).argsort().argsort()  # the best are trained longest, as ASHA does
    epochs = np.where(order < 30, 9, np.where(order < 50, 3, 1))
    last, history = raced(final, epochs)
    status = np.where(epochs == 9, "finished", "stopped")
    frame = trials(last, {"useful": useful, "useless": useless}, epochs=epochs, status=status)
    assert important(report(frame, settings=FEW)) == ["useful"]
    content = report(frame, history=history, settings=FEW)
    assert important(content) == ["useful"]
    later = content["deeper"]
    assert (later["epoch"], later["trials"]) == (9, 30)  # 30 trials got there, 20 are needed


def test_one_exploded_loss_does_not_hide_the_rest() -> None:
    frame = translator()
    frame.loc[5, "metric"] = 1e9
    content = report(frame, mode="min", settings=FEW)
    assert "1 trial " in content["budget"]["outliers"]
    assert next(iter(rows(content))) == "optimizer.learning_rate"


def test_settings_that_went_together_are_named() -> None:
    random = np.random.default_rng(1)
    a = random.random(40)
    frame = trials(a, {"a": a, "like_a": a + random.normal(0, 0.1, 40), "b": random.random(40)})
    (pair,) = report(frame, settings=FEW)["together"]
    assert (pair["first"], pair["second"]) == ("a", "like_a")


def test_members_of_a_population_are_not_learned_from() -> None:
    frame = interacting().assign(parent=None)
    frame.loc[10:, "parent"] = "00001"
    content = report(frame)
    assert "10 usable trials" in content["refused"][0]
    assert "100 trials went on from the checkpoint" in content["budget"]["inherited"]
    assert len(content["best"]) == 10


def test_the_same_trials_give_the_same_report() -> None:
    table = make_table(translator(40), {})
    first, second = (analyse(table, "loss", "min", "A search", FEW) for _ in range(2))
    assert first == second


def grouped(effect: float) -> Content:
    """Two settings of AWD-LSTM's set: the switch is worth `effect`, the weight drop nothing."""
    random = np.random.default_rng(9)
    rate, weight = random.uniform(0, 1, 80), random.uniform(0, 0.5, 80)
    switch = random.random(80) < 0.5
    bleu = 30 - 12 * (rate - 0.6) ** 2 + effect * switch + random.normal(0, 0.4, 80)
    drawn = {"rate": rate, "dropout.weight": weight, "dropout.variational": switch}
    return report(trials(bleu, drawn))


def test_a_group_that_helps_is_said_to_help_and_by_about_how_much() -> None:
    content = grouped(2.0)
    (group,) = (
        group for group in content["ranking"]["groups"] if group["group"] == "AWD-LSTM's set"
    )
    assert group["settings"] == ["dropout.weight", "dropout.variational"]
    assert group["important"]
    assert group["contrast"]["verdict"] == "helps"
    best = group["contrast"]["best"]
    assert best["low"] < 2.0 < best["high"]
    assert content["summary"][-1].startswith("AWD-LSTM's set: it helps. Well set, it is worth +")


def test_a_group_that_does_nothing_is_not_said_to_help_or_hurt() -> None:
    content = grouped(0.0)
    (group,) = (
        group for group in content["ranking"]["groups"] if group["group"] == "AWD-LSTM's set"
    )
    assert not group["important"]
    assert group["contrast"]["verdict"] == "not shown"
    assert "no help and no harm was shown" in content["summary"][-1]


def test_a_group_that_was_never_near_off_is_not_compared_with_off() -> None:
    frame = translator()
    frame["config/model.dropout.weight"] += 0.2
    (group,) = (
        group
        for group in report(frame, mode="min", settings=FEW)["ranking"]["groups"]
        if group["group"] == "AWD-LSTM's set"
    )
    assert "model.dropout.weight" in group["settings"]
    assert group["contrast"] is None
