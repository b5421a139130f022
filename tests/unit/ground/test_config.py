"""Settings from flags and YAML: strict, all errors at once, flags over YAML over defaults."""

from pathlib import Path
from typing import Literal

import pytest
from pydantic import Field, ValidationError

from seqvis.cli.job import JobSettings
from seqvis.config import Settings, read_yaml, settings_from
from seqvis.errors import ConfigError, DataError
from tests.support.objectstore import Bucket


class ModelSettings(Settings):
    """The network."""

    hidden_size: int = Field(256, ge=1)
    """Units of each GRU layer."""
    dropout: float = Field(0.1, ge=0, lt=1)
    """Share of inputs set to zero."""
    variant: Literal["plain", "attn"] = "plain"
    """Which network."""


class TrainSettings(JobSettings):
    """Trains a thing."""

    corpus: str
    """Directory that prepare_corpus wrote."""
    epochs: int = Field(10, ge=1)
    """Passes over the training part."""
    use_gpu: bool = False
    """Train on GPUs."""
    model: ModelSettings = ModelSettings()


def read(*arguments: str) -> TrainSettings:
    return TrainSettings.from_command_line(arguments)


def preset(folder: Path, text: str, name: str = "preset.yaml") -> str:
    (folder / name).write_text(text, encoding="utf-8")
    return str(folder / name)


def complaint(*arguments: str) -> list[str]:
    with pytest.raises(ConfigError) as raised:
        read(*arguments)
    return str(raised.value).splitlines()


def test_flags_reach_every_level_of_the_tree() -> None:
    settings = read("--corpus", "c", "--epochs=3", "--use-gpu", "--model.hidden-size", "64")
    assert (settings.corpus, settings.epochs, settings.use_gpu) == ("c", 3, True)
    assert settings.model == ModelSettings(hidden_size=64)


def test_flags_win_over_yaml_and_yaml_over_defaults(tmp_path: Path) -> None:
    file = preset(tmp_path, "epochs: 5\nuse_gpu: true\nmodel: {hidden_size: 64, dropout: 0.3}\n")
    settings = read("--corpus", "c", "--config", file, "--model.hidden-size", "32", "--no-use-gpu")
    assert settings.epochs == 5  # of the file
    assert settings.model.hidden_size == 32  # of the flag
    assert settings.model.dropout == 0.3  # of the file, beside a flag in the same group
    assert settings.model.variant == "plain"  # the default
    assert settings.use_gpu is False


def test_a_second_preset_wins_over_the_first_key_by_key(tmp_path: Path) -> None:
    first = preset(tmp_path, "corpus: a\nmodel: {hidden_size: 64, dropout: 0.3}\n", "a.yaml")
    second = preset(tmp_path, "model: {hidden_size: 128}\n", "b.yaml")
    settings = read("--config", first, f"--config={second}")
    assert (settings.model.hidden_size, settings.model.dropout) == (128, 0.3)


def test_the_place_of_config_among_the_flags_does_not_matter(tmp_path: Path) -> None:
    file = preset(tmp_path, "epochs: 5\n")
    before = read("--config", file, "--corpus", "c", "--epochs", "2")
    after = read("--corpus", "c", "--epochs", "2", "--config", file)
    assert before.epochs == after.epochs == 2


def test_all_errors_are_told_at_once(tmp_path: Path) -> None:
    file = preset(tmp_path, "epohcs: 5\nmodel: {dropout: 3}\n")
    lines = complaint("--config", file, "--model.variant", "atn", "--hiden-size", "3")
    assert len(lines) == 5
    text = "\n".join(lines)
    for name in ("epohcs", "--model.dropout", "--model.variant", "--hiden-size", "--corpus"):
        assert name in text


def test_a_missing_setting_is_told_with_what_it_is() -> None:
    (line,) = complaint()
    assert line == "--corpus: is needed: Directory that prepare_corpus wrote."


def test_a_value_out_of_range_is_told_with_the_value() -> None:
    (line,) = complaint("--corpus", "c", "--epochs", "0")
    assert line.startswith("--epochs:")
    assert "1" in line
    assert "'0'" in line or "given: 0" in line


def test_a_wrong_flag_comes_with_a_suggestion() -> None:
    (line,) = complaint("--corpus", "c", "--epoch", "3")
    assert "--epoch:" in line
    assert "did you mean --epochs?" in line


def test_a_flag_is_never_an_abbreviation() -> None:
    assert any("--corp:" in line for line in complaint("--corp", "c"))


def test_a_word_without_a_flag_is_an_error() -> None:
    assert any(line.startswith("fast:") for line in complaint("--corpus", "c", "fast"))


@pytest.mark.parametrize(
    ("text", "key", "suggestion"),
    [
        ("epohcs: 5", "epohcs", "epochs"),
        ("model: {hiden_size: 5}", "model.hiden_size", "hidden_size"),
    ],
)
def test_an_unknown_yaml_key_comes_with_a_suggestion(tmp_path, text, key, suggestion) -> None:
    (line,) = complaint("--corpus", "c", "--config", preset(tmp_path, text))
    assert line.startswith(f"{key}: no such key")
    assert f"did you mean {suggestion}?" in line


def test_a_missing_preset_is_named() -> None:
    (line,) = complaint("--corpus", "c", "--config", "nowhere.yaml")
    assert line.startswith("nowhere.yaml: no such file")


def test_a_preset_may_lie_in_a_bucket(bucket: Bucket) -> None:
    bucket.put("best.yaml", b"epochs: 7\n")
    assert read("--corpus", "c", "--config", bucket.uri("best.yaml")).epochs == 7
    with pytest.raises(DataError, match=r"other\.yaml.*: no such file"):
        read("--corpus", "c", "--config", bucket.uri("other.yaml"))


@pytest.mark.parametrize("text", ["a: [1, 2", "- 1\n- 2\n", "just words"])
def test_a_preset_that_is_no_mapping_is_named(tmp_path: Path, text: str) -> None:
    assert "preset.yaml" in complaint("--corpus", "c", "--config", preset(tmp_path, text))[0]


def test_a_preset_in_another_encoding_is_named(tmp_path: Path) -> None:
    (tmp_path / "latin.yaml").write_bytes("corpus: été".encode("latin-1"))
    assert "latin.yaml" in complaint("--config", str(tmp_path / "latin.yaml"))[0]


def test_an_empty_preset_changes_nothing(tmp_path: Path) -> None:
    file = preset(tmp_path, "# only a comment\n")
    assert read("--corpus", "c", "--config", file) == read("--corpus", "c")


def test_what_seqvis_ships_has_its_name_without_a_checkout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert read_yaml("jobs/presets/multi30k-fr-en.yaml")["epochs"] == 12
    assert "optimizer.learning_rate" in read_yaml("tune/spaces/translator.yaml")
    own = tmp_path / "jobs/presets/multi30k-fr-en.yaml"
    own.parent.mkdir(parents=True)
    own.write_text("epochs: 3\n")
    assert read_yaml("jobs/presets/multi30k-fr-en.yaml") == {"epochs": 3}
    with pytest.raises(ConfigError, match=r"^jobs/presets/other\.yaml: no such file"):
        read_yaml("jobs/presets/other.yaml")
    with pytest.raises(ConfigError, match=r"^serve/config/gpu\.yaml: no such file"):
        read_yaml("serve/config/gpu.yaml")


def test_config_without_a_file_is_an_error() -> None:
    assert complaint("--corpus", "c", "--config") == ["--config: needs the path of a YAML file"]


def test_settings_cannot_be_changed() -> None:
    settings = read("--corpus", "c")
    with pytest.raises(ValidationError):
        settings.epochs = 3  # type: ignore[misc]
    with pytest.raises(ValidationError):
        settings.model.hidden_size = 3  # type: ignore[misc]


def test_the_environment_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("EPOCHS", "epochs", "CORPUS"):
        monkeypatch.setenv(name, "7")
    assert read("--corpus", "c").epochs == 10


def test_the_help_tells_every_flag_its_meaning_and_default(capsys) -> None:
    with pytest.raises(SystemExit) as exit_code:
        read("--help")
    assert exit_code.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    for words in ("--corpus", "Passes over the training part", "10", "--model.hidden-size", "256"):
        assert words in text
    assert "Units of each GRU layer" in text
    assert "--config" in text


def test_stored_settings_are_checked_like_given_ones() -> None:
    assert settings_from(ModelSettings, {"dropout": 0.2}, "m.json").dropout == 0.2
    with pytest.raises(ConfigError, match=r"m\.json: .*dropouts.*did you mean dropout\?"):
        settings_from(ModelSettings, {"dropouts": 0.2}, "m.json")


def test_the_environment_sets_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    class Job(JobSettings):
        host: str = "127.0.0.1"

    monkeypatch.setenv("HOST", "elsewhere")
    monkeypatch.setenv("host", "elsewhere")
    assert Job().host == "127.0.0.1"
    assert Job.from_command_line([]).host == "127.0.0.1"
