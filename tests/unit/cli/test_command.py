"""The command `seqvis`: what it lists, what it runs, and what a shell completes after it."""

import ast
import os
import re
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import seqvis
from jobs.__main__ import CONTENTS, MODULES, main

ROOT = Path(__file__).parents[3]
HELP = "import sys; from jobs.__main__ import main; main(['--help']); print(*sys.modules)"


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "jobs", *arguments], cwd=ROOT, capture_output=True, text=True
    )


def test_every_job_is_listed_by_the_first_line_of_its_docstring() -> None:
    first_lines = {}
    for package in ("jobs", "tune", "serve"):
        for path in (ROOT / package).rglob("*.py"):
            text = path.read_text(encoding="utf-8")
            if "main = partial(run_job" in text:
                docstring = ast.get_docstring(ast.parse(text))
                assert docstring, path
                name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
                first_lines[name] = docstring.splitlines()[0].removesuffix(".")
    assert first_lines == dict(entry for group in CONTENTS.values() for entry in group.values())


def test_a_command_is_called_as_its_module() -> None:
    for name, module in MODULES.items():
        words = module.removesuffix(".__main__").removesuffix(".app").split(".")
        assert name == "-".join(words).removeprefix("jobs-").removeprefix("serve-").replace(
            "_", "-"
        )


def test_help_is_a_table_of_contents_that_loads_no_job() -> None:
    done = subprocess.run(
        [sys.executable, "-c", HELP],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    *lines, modules = done.stdout.splitlines()
    assert max(map(len, lines)) <= 80
    for group, commands in CONTENTS.items():
        assert group in lines
        for name, (_, description) in commands.items():
            assert re.search(rf"(?m)^  {name} +{re.escape(description)}$", done.stdout)
    heavy = {"torch", "ray", "pydantic", "numpy", "rich", "yaml"}
    assert not heavy & set(modules.split())
    assert not [name for name in modules.split() if name.startswith("jobs.") and "main" not in name]


def test_help_takes_a_moment() -> None:
    def seconds() -> float:
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        return usage.ru_utime + usage.ru_stime

    before = seconds()
    assert run("--help").returncode == 0
    assert seconds() - before < 0.5  # of the processor; 0.04 on an idle machine


def test_the_version_is_the_packages(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"seqvis {seqvis.__version__}\n"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("trian-translator", "no such command, did you mean train-translator?; see seqvis --help"),
        ("prepare_corpus", "no such command, did you mean prepare-corpus?; see seqvis --help"),
        ("--versoin", "no such flag, did you mean --version?; see seqvis --help"),
        ("bake", "no such command; see seqvis --help"),
    ],
)
def test_an_unknown_command_gets_a_near_one(
    given: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([given]) == 2
    assert capsys.readouterr().err == f"error: {given}: {message}\n"


def test_without_a_command_the_contents_are_shown_as_an_error(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main([]) == 2
    assert "train-translator" in capsys.readouterr().err


def test_a_job_runs_as_its_module_does() -> None:
    shown = run("make-key", "--name", "alice", "--scope", "translate")
    assert shown.returncode == 0
    assert '"name": "alice"' in shown.stdout.splitlines()[-1]
    wrong = run("make-key", "--nmae", "alice")
    as_module = subprocess.run(
        [sys.executable, "-m", "serve.make_key", "--nmae", "alice"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert (wrong.returncode, wrong.stderr) == (as_module.returncode, as_module.stderr)
    assert wrong.returncode == 2


def test_help_of_a_job_names_the_command_and_of_a_module_the_module() -> None:
    assert run("make-key", "--help").stdout.startswith("usage: seqvis make-key ")
    as_module = [sys.executable, "-m", "serve.make_key", "--help"]
    done = subprocess.run(as_module, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("usage: python -m serve.make_key ")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_a_command_with_the_jobs_exit_code(
    number: signal.Signals, code: int, tmp_path: Path
) -> None:
    waiting = tmp_path / "list"
    os.mkfifo(waiting)  # that nobody writes to, so that reading the settings waits
    process = subprocess.Popen(
        [sys.executable, "-m", "jobs", "make-key", "--config", str(waiting)],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    with waiting.open("wb"):  # returns when the job reads
        process.send_signal(number)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == code
    assert errors.startswith("error: ")


@pytest.fixture(scope="module")
def bash_script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    script = tmp_path_factory.mktemp("completion") / "seqvis.bash"
    script.write_text(run("--print-completion", "bash").stdout)
    return script


@pytest.mark.parametrize(
    ("line", "completions"),
    [
        ("seqvis train-t", ["train-translator"]),
        ("seqvis tune-", ["tune-translator", "tune-devise", "tune-report"]),
        ("seqvis train-translator --model.hid", ["--model.hidden-size"]),
        ("seqvis train-translator --variant b", ["bidir"]),
        ("seqvis make-key --scope tr", ["translate"]),
        ("seqvis search --collection pho", ["photos"]),
        ("seqvis train-translator --config pho", ["photos"]),
        ("seqvis translate --model m --pre", ["--precision"]),
    ],
)
def test_bash_completes_commands_flags_choices_and_files(
    line: str, completions: list[str], bash_script: Path, tmp_path: Path
) -> None:
    (tmp_path / "photos").mkdir()
    program = (
        f"source {bash_script}; COMP_WORDS=({line}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); "
        'complete -p seqvis >/dev/null && _shtab_seqvis && printf "%s\\n" "${COMPREPLY[@]}"'
    )
    done = subprocess.run(
        ["bash", "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == completions


def test_a_shell_without_completion_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    for shells in (["--print-completion"], ["--print-completion", "ksh"]):
        assert main(shells) == 2
        assert "needs one of bash, zsh" in capsys.readouterr().err
