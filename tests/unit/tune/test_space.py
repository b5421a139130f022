"""The search space: what a file may say, what is drawn from it."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from seqvis.devise.settings import DeviseSettings
from seqvis.errors import ConfigError
from seqvis.seq2seq.settings import DropoutSettings
from seqvis.translation.task import TrainSettings
from tune.study.settings import DEVISE, FINETUNED, TRANSLATOR, TunableModel
from tune.study.space import Space, load_space

SPACES = Path(__file__).parents[3] / "tune" / "spaces"
BASE: dict[str, dict[str, Any]] = {
    "translator": TrainSettings(corpus="c", out="o").model_dump(),
    "devise": DeviseSettings(features="f", vectors="v", out="o").model_dump(),
}


def read(text: str, folder: Path) -> Space:
    (folder / "space.yaml").write_text(text)
    return load_space(str(folder / "space.yaml"), TRANSLATOR, BASE["translator"], "loss")


def test_everything_that_is_wrong_is_told_at_once(tmp_path: Path) -> None:
    wrong = {
        "model.dropout.inputs: {uniform: [0, 0.5]}": "no such key, did you mean input?",
        "model.dropout.output: {uniform: [0, 1]}": "should be less than 1 (given: 1.0)",
        "model.dropout.encoder: {uniform: [0.5, 0.1]}": "needs the low and the high end",
        "optimizer.learning_rate: {log_uniform: [0, 1]}": "log_uniform needs ends above 0",
        "model.layers: {int: [1, 2.5]}": "int needs whole numbers",
        "forcing.schedule: {choice: [linear, sudden]}": "(given: 'sudden')",
        "model.readout: {choice: [state, state]}": "names a choice twice",
        "forcing.end: {normal: [0, 1]}": "one of uniform, log_uniform, int, choice",
        "model.hidden_size: {int: [8, wide]}": "the ends of a range are numbers (given: 'wide')",
        "epochs: 0": "should be greater than or equal to 1 (given: 0)",
        "corpus: elsewhere": "cannot be searched; give it as a flag",
        "init_encoder: {choice: [one, other]}": "cannot be searched; give it as a flag",
    }
    with pytest.raises(ConfigError) as caught:
        read("\n".join(wrong), tmp_path)
    lines = str(caught.value).splitlines()
    assert len(lines) == len(wrong)
    for line, (given, message) in zip(lines, wrong.items(), strict=True):
        assert given.split(":")[0] in line
        assert message in line


def test_a_file_without_a_range_is_no_space(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no setting has a range"):
        read("epochs: 3", tmp_path)


def test_a_draw_depends_on_seed_and_number_alone(tmp_path: Path) -> None:
    space = read(
        "model.dropout.input: {uniform: [0.1, 0.5]}\n"
        "optimizer.learning_rate: {log_uniform: [1e-4, 1e-2]}\n"
        "model.layers: {int: [1, 3]}\n"
        "model.dropout.variational: {choice: [false, true]}\n"
        "loss.label_smoothing: 0.1\n",
        tmp_path,
    )
    draws = [space.random(1, number) for number in range(300)]
    assert draws[7] == space.random(1, 7) != space.random(2, 7)
    columns = {path: [draw[path] for draw in draws] for path in draws[0]}
    assert set(columns["model.layers"]) == {1, 2, 3}
    assert set(columns["model.dropout.variational"]) == {False, True}
    # The middle of a uniform range halves it; of a logarithmic one, the geometric mean does.
    for path, middle in (("model.dropout.input", 0.3), ("optimizer.learning_rate", 1e-3)):
        below = np.mean(np.array(columns[path]) < middle)
        assert abs(below - 0.5) < 4 * 0.5 / np.sqrt(300)  # four standard deviations
    settings = space.settings(TRANSLATOR, draws[0], "out")
    assert isinstance(settings, TrainSettings)
    assert settings.loss.label_smoothing == 0.1
    assert settings.fit.monitor == "loss"
    assert settings.model.layers == draws[0]["model.layers"]


@pytest.mark.parametrize("name", ["translator", "devise", "multi30k", "lesson11"])
def test_a_shipped_space_gives_settings_that_the_training_takes(name: str) -> None:
    kind: TunableModel = DEVISE if name == "devise" else TRANSLATOR
    space = load_space(str(SPACES / f"{name}.yaml"), kind, BASE[kind.artifact], "loss")
    for number in range(100):
        space.settings(kind, space.random(0, number), "out")


def test_fine_tuning_is_searched_where_it_is_done(tmp_path: Path) -> None:
    file = tmp_path / "space.yaml"
    file.write_text("finetune.learning_rate: {log_uniform: [1e-4, 1e-2]}")
    space = load_space(str(file), FINETUNED, BASE["devise"], "loss")
    settings = space.settings(FINETUNED, {"finetune.learning_rate": 0.002}, "out")
    assert isinstance(settings, DeviseSettings)
    assert settings.finetune.learning_rate == 0.002
    with pytest.raises(ConfigError, match=r"finetune.learning_rate: needs --finetune.epochs"):
        load_space(str(file), DEVISE, BASE["devise"], "loss")
    file.write_text("finetune.images: elsewhere")
    with pytest.raises(ConfigError, match="cannot be searched; give it as a flag"):
        load_space(str(file), FINETUNED, BASE["devise"], "loss")


@pytest.mark.parametrize("name", ["translator", "multi30k"])
def test_a_shipped_space_has_every_regularisation(name: str) -> None:
    space = load_space(str(SPACES / f"{name}.yaml"), TRANSLATOR, BASE["translator"], "loss")
    searched = {parameter.path for parameter in space.parameters}
    assert {f"model.dropout.{field}" for field in DropoutSettings.model_fields} <= searched
