"""The command `seqvis`: a table of contents, and every job by its name.

    seqvis prepare-corpus --source my.fr …    runs python -m jobs.prepare_corpus --source my.fr …
    python -m jobs prepare-corpus …           does the same where nothing is installed

Only the job that is named is imported, so that `seqvis --help` answers at once.
"""

import sys
from collections.abc import Sequence
from importlib import import_module

import seqvis

CONTENTS = {
    "Begin": {
        "demo": ("jobs.demo", "Train a translator and a search of drawings"),
        "lesson": ("jobs.lesson", "Run lesson 11: five translators and a search for pictures"),
        "fetch-data": ("jobs.fetch_data", "Fetch a public data set by its name"),
    },
    "Translate": {
        "prepare-corpus": ("jobs.prepare_corpus", "Make a corpus from sentence pairs"),
        "build-vectors": ("jobs.build_vectors", "Make a store of word vectors"),
        "pretrain": ("jobs.pretrain", "Pretrain a translator's encoder or decoder"),
        "train-translator": ("jobs.train_translator", "Train a translator on a corpus"),
        "tune-translator": ("tune.translator", "Search for the settings of a translator"),
        "evaluate-translator": (
            "jobs.evaluate_translator",
            "Score a translator: BLEU, chrF, losses, speed",
        ),
        "translate": ("jobs.translate", "Translate a sentence, a file, or standard input"),
    },
    "Search pictures": {
        "embed-images": ("jobs.embed_images", "Turn pictures into features"),
        "train-devise": ("jobs.train_devise", "Train a head that places pictures among words"),
        "tune-devise": ("tune.devise", "Search for the settings of a DeViSE head"),
        "evaluate-devise": ("jobs.evaluate_devise", "Score a DeViSE model on labelled pictures"),
        "build-index": ("jobs.build_index", "Make a collection from features and a model"),
        "search": ("jobs.search", "Search a collection by words or a picture; name a picture"),
        "collection": ("jobs.collection", "Change, copy, split or measure a collection"),
    },
    "Share": {
        "push-to-hub": ("jobs.push_to_hub", "Publish an artifact on the Hugging Face Hub"),
    },
    "Serve": {
        "serve": ("serve.app", "Serve a translator and a search of pictures"),
        "make-key": ("serve.make_key", "Make an API key"),
        "config-check": ("serve.config_check", "Check a YAML file for Ray Serve strictly"),
        "environment": ("serve.environment", "Print the environment that servers' nodes need"),
        "ray-token": ("jobs.ray_token", "Make the token of a Ray cluster"),
    },
    "Measure": {
        "tune-report": ("tune.report.__main__", "Report what mattered in a search for settings"),
        "benchmark": ("jobs.benchmark", "Measure each stage beside its reference"),
    },
}
"""The module of each command, and the first line of its docstring."""
MODULES = {name: module for group in CONTENTS.values() for name, (module, _) in group.items()}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command that `arguments` name (default: the process's own); return its exit code.

    A job ends the process itself, by `seqvis.cli.job.leave`.
    """
    first, *rest = (sys.argv[1:] if arguments is None else arguments) or [""]
    if first in ("-h", "--help"):
        print(contents())
    elif first == "--version":
        print(f"seqvis {seqvis.__version__}")
    elif first == "--print-completion":
        return _print_completion(rest)
    elif first in MODULES:
        _run(first, rest)
    elif first:
        return _complain(_unknown(first))
    else:
        print(contents(), file=sys.stderr)
        return 2
    return 0


def contents() -> str:
    """Return the text of `seqvis --help`."""
    width = max(map(len, MODULES))
    lines = ["usage: seqvis COMMAND [FLAGS]", "       seqvis COMMAND --help"]
    for group, commands in CONTENTS.items():
        lines += ["", group]
        lines += [f"  {name:{width}}  {description}" for name, (_, description) in commands.items()]
    return "\n".join(
        [
            *(*lines, ""),
            "seqvis --version",
            "seqvis --print-completion SHELL    prints a script that completes all this",
        ]
    )


def _run(name: str, arguments: Sequence[str]) -> None:
    from seqvis.cli.job import leave

    leave(import_module(MODULES[name]).main(arguments, program=f"seqvis {name}"))


def _print_completion(shells: Sequence[str]) -> int:
    """Print the script of a shell. It imports every job, which takes some seconds."""
    from seqvis.cli.completion import SHELLS, completion_script

    if len(shells) != 1 or shells[0] not in SHELLS:
        return _complain(f"--print-completion: needs one of {', '.join(SHELLS)}")
    jobs = (
        (name, description, import_module(module).main.args[0])
        for group in CONTENTS.values()
        for name, (module, description) in group.items()
    )
    print(completion_script("seqvis", jobs, shells[0]))
    return 0


def _unknown(name: str) -> str:
    from seqvis.config import suggestion

    kind = "flag" if name.startswith("-") else "command"
    known = [*MODULES, "--help", "--version", "--print-completion"]
    return f"{name}: no such {kind}{suggestion(name.replace('_', '-'), known)}; see seqvis --help"


def _complain(message: str) -> int:
    print(f"error: {message}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
