"""Flags of a job: values that look like flags, lists, mappings and groups of settings."""

from pathlib import Path
from typing import Literal

import pytest
from pydantic import Field
from pydantic_settings import CliPositionalArg

from seqvis.cli.job import JobSettings
from seqvis.config import Settings
from seqvis.errors import ConfigError
from tests.unit.ground.test_config import ModelSettings, complaint, preset, read


class GroupSettings(Settings):
    """Groups."""

    names: dict[str, tuple[str, ...]] = Field({"sizes": ("*_size",)})
    """Patterns by name."""


class ListJob(JobSettings):
    """Takes lists."""

    words: CliPositionalArg[tuple[str, ...]] = ()
    """Sentences."""
    delete: tuple[str, ...] = ()
    """Ids."""
    only: tuple[Literal["a", "b"], ...] = ()
    """Stages."""
    sizes: tuple[int, ...] = ()
    """Numbers."""
    text: str | None = None
    """Any text."""
    limit: int | None = 3
    """A number or none."""
    quick: bool = False
    """Be quick."""
    k: int = 1
    """A single letter."""
    group: GroupSettings = GroupSettings()


def lists(*arguments: str) -> ListJob:
    return ListJob.from_command_line(arguments)


# What JSON, CSV, argparse, a shell or YAML would read as something else than text.
ODD = [
    "pictures/a.png, pictures/b.png",
    'Qui a dit "oui" ?',
    '"quoted"',
    "[Musique] Où est le chat ?",
    "[x]",
    "[]",
    "{",
    '{"a": 1}',
    "]",
    "a\nb",
    "\n",
    " padded ",
    "",
    "None",
    "null",
    "true",
    "1",
    "1e5",
    "007",
    "\\",
    "a\\",
    "'",
    "a=b",
    "=",
    ",",
    "#",
    "%s",
    "@file",
    "-",
    "-5",
    "- Non, dit-il.",
    "你好，世界",
    "\u200b",
]


@pytest.mark.parametrize("value", [*ODD, "-cat", "--cat", "-x=1", "--no-such", "---"])
def test_a_value_is_taken_to_the_letter(value: str) -> None:
    assert lists("--delete", value).delete == (value,)
    assert lists(f"--delete={value}").delete == (value,)
    assert lists("--delete", value, "--delete", value, "--quick").delete == (value, value)
    assert lists("--text", value).text == value
    assert lists(f"--text={value}", "--quick").text == value
    assert lists("--group.names", f"n={value}").group.names["n"] == (value,)
    assert lists("--", value).words == (value,)
    assert lists("--quick", "--", "before", value, "", "--", "--quick").words == (
        *("before", value, "", "--", "--quick"),
    )


@pytest.mark.parametrize("value", ODD)
def test_a_word_without_a_flag_is_one_value(value: str) -> None:
    assert lists(value).words == (value,)
    assert lists(value, "--quick", value, "").words == (value, value, "")


@pytest.mark.parametrize("value", ["--", "--quick", "--delete=x", "-k", "--k"])
def test_a_value_that_looks_like_a_flag_of_the_job_needs_an_equals_sign(value: str) -> None:
    assert lists(f"--text={value}").text == value
    assert lists(f"--delete={value}").delete == (value,)
    with pytest.raises(ConfigError, match=f"^--text: needs a value; write --text={value} if"):
        lists("--text", value)


def test_a_preset_is_no_flag_where_it_is_a_value() -> None:
    assert lists("--text=--config").text == "--config"
    assert lists("--", "--config", "nowhere.yaml").words == ("--config", "nowhere.yaml")


def test_lists_have_the_types_of_their_fields() -> None:
    settings = lists("--sizes", "3", "--sizes=4", "--only", "b", "--only", "a")
    assert (settings.sizes, settings.only) == ((3, 4), ("b", "a"))
    with pytest.raises(ConfigError, match=r"^--only: .*given: 'a,b'"):
        lists("--only", "a,b")


def test_a_number_can_be_none_but_text_is_text() -> None:
    assert lists("--limit", "None").limit is None
    assert lists("--text", "None").text == "None"


def test_a_single_letter_is_a_flag_like_the_others() -> None:
    assert [lists(*flags).k for flags in (["--k", "2"], ["--k=3"], ["-k", "4"])] == [2, 3, 4]


def test_a_mapping_is_given_by_name_and_value() -> None:
    flags = ["--group.names", "a.b=x", "--group.names", "a.b=y,z=1", "--group.names", "c="]
    assert lists(*flags).group.names["a.b"] == ("x", "y,z=1")
    assert lists(*flags).group.names["c"] == ("",)
    for wrong in ('{"a": ["x"]}', "=x", ""):
        with pytest.raises(ConfigError, match=r"^--group.names .*: needs the form NAME=VALUE"):
            lists("--group.names", wrong)


def test_a_group_of_settings_is_not_given_as_a_whole() -> None:
    with pytest.raises(ConfigError, match=r"^--group: is a group of settings.*--group\.names"):
        lists("--group", '{"names": {}}')


def test_a_list_in_a_preset_is_replaced_by_flags_and_kept_without(tmp_path: Path) -> None:
    file = preset(tmp_path, "words: ['a, b', '']\ndelete: ['[x]']\n")
    assert lists("--config", file).words == ("a, b", "")
    assert lists("--config", file, "c").words == ("c",)
    assert lists("--config", file, "--delete", "y").delete == ("y",)


def test_a_list_flag_takes_one_value_and_the_help_says_so(capsys) -> None:
    with pytest.raises(ConfigError, match=r"^b: is not preceded by a flag"):
        read("--corpus", "a", "b")
    with pytest.raises(SystemExit):
        lists("--help")
    text = " ".join(capsys.readouterr().out.split())
    assert text.count("Give the flag once for each value.") == 4
    assert "--delete VALUE" in text
    assert "--group.names NAME=VALUE" in text
    assert "Each argument is one value; put -- before those that begin with a dash." in text
    assert "--k int" in text


def test_a_flag_without_its_value_and_a_value_without_need_are_both_told() -> None:
    with pytest.raises(ConfigError) as raised:
        lists("--quick=false", "--text", "--delete")
    first, second, third = str(raised.value).splitlines()
    assert first == "--quick=false: this flag takes no value; write --quick alone"
    assert second.startswith("--text: needs a value")
    assert third == "--delete: needs a value"


@pytest.mark.parametrize(
    "arguments",
    [
        ["O\udcf9 est"],
        ["--", "\udce9"],
        ["--text", "caf\udce9.jpg"],
        ["--text=caf\udce9.jpg"],
        ["--delete", "\udcff"],
        ["--caf\udce9", "1"],
        ["--config", "\udce9.yaml"],
        ["\ud83d"],
    ],
)
def test_an_argument_that_is_not_utf8_is_named(arguments: list[str]) -> None:
    with pytest.raises(ConfigError, match=r"^[^\ud800-\udfff]*: is not UTF-8; ") as raised:
        lists(*arguments)
    assert "\\x" in str(raised.value) or "\\ud83d" in str(raised.value)


def test_a_preset_cannot_reach_what_is_not_a_setting(tmp_path: Path) -> None:
    file = preset(tmp_path, "1: 2\n_env_file: x\n_cli_parse_args: true\n")
    lines = complaint("--corpus", "c", "--config", file)
    assert lines == ["1: no such key", "_env_file: no such key", "_cli_parse_args: no such key"]


def test_a_partly_given_group_keeps_the_defaults_of_its_job(tmp_path: Path) -> None:
    class Tuned(JobSettings):
        model: ModelSettings = ModelSettings(hidden_size=64, dropout=0.5)

    assert Tuned.from_command_line(["--model.dropout", "0.3"]).model.hidden_size == 64
    file = preset(tmp_path, "model: {dropout: 0.2}\n")
    assert Tuned.from_command_line(["--config", file]).model == ModelSettings(
        hidden_size=64, dropout=0.2
    )
