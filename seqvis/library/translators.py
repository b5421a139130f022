"""From sentence pairs to a corpus and to a translator."""

import hashlib
import os
from collections.abc import Sequence
from typing import Any, TypeAlias

import pandas as pd

from seqvis import artifacts
from seqvis.artifacts import Artifact
from seqvis.checks import require_extra
from seqvis.cli.console import stage_progress, training_console
from seqvis.corpus.prepare import prepare
from seqvis.corpus.settings import PrepareSettings
from seqvis.errors import ArtifactError, ConfigError
from seqvis.library.arguments import is_artifact, ray_session, require_ray, settings_for, uri_of
from seqvis.seq2seq.settings import Variant
from seqvis.storage import HUGGING_FACE, Location, Place, locate
from seqvis.training.trackers.tracking import TrackerName
from seqvis.training.workers import Resources
from seqvis.translation.task import TrainSettings
from seqvis.translation.train import train
from seqvis.translation.translator import Translator

Pairs: TypeAlias = pd.DataFrame | Place | Sequence[Place]
"""A table of sentence pairs, a file or dataset that has both sides, or two aligned text files."""

_DIGEST = "pairs.sha256"  # in the corpus of a translator: what it was made of


def prepare_corpus(
    pairs: Pairs,
    out: Place,
    *,
    source_lang: str | None = None,
    target_lang: str | None = None,
    columns: Sequence[str] | None = None,
    valid_pairs: Pairs | None = None,
    **settings: Any,
) -> Artifact:
    """Make a corpus for training a translator out of sentence pairs, on Ray.

    Args:
        pairs: a DataFrame; two text files, line n of one the translation of line n of the other;
            or one file or dataset that has both sides (TSV, TMX, JSON lines, Parquet, `hf://NAME`).
        out: directory or URI for the corpus. A corpus that is there is replaced.
        source_lang: language code to translate from, such as "fr".
        target_lang: language code to translate into, such as "en".
        columns: names of the two columns, source and target; of a DataFrame the first two by
            default.
        valid_pairs: pairs to validate with; by default a tenth of `pairs` is held out.
        **settings: any other flag of `prepare_corpus`, such as `max_target_length=50`.

    Returns:
        The corpus; its `metrics` say how many pairs and words it has.

    Raises:
        TypeError: `pairs` is none of these.
        ConfigError: a setting is unknown or has a wrong value, or a language has no tokenizer.
        DataError: the pairs cannot be used.
        StorageError: `out` cannot be written; then what was there is still there.
    """
    require_ray()
    given: dict[str, Any] = {"source_lang": source_lang, "target_lang": target_lang}
    frames: dict[str, pd.DataFrame] = {}
    for name, prefix, value in (("pairs", "", pairs), ("valid_pairs", "valid_", valid_pairs)):
        if isinstance(value, pd.DataFrame):
            frames[name] = value
            columns = columns or _first_two(value)
        elif isinstance(value, str | os.PathLike | Location):
            given[name] = uri_of(value)
        elif value is not None or name == "pairs":
            source, target = _two_files(value, name)
            given |= {f"{prefix}source": source, f"{prefix}target": target}
    if columns is not None:
        given["columns"] = ",".join(_two(columns))
    chosen = settings_for(
        PrepareSettings, "prepare_corpus", {**given, **settings, "out": uri_of(out)}
    )
    with stage_progress() as progress:
        prepare(
            chosen,
            progress,
            ray_session,
            frame=frames.get("pairs"),
            valid_frame=frames.get("valid_pairs"),
        )
    return artifacts.load(chosen.out, "corpus", verify=False)


def train_translator(
    pairs: Pairs | Artifact,
    out: Place,
    *,
    source_lang: str | None = None,
    target_lang: str | None = None,
    columns: Sequence[str] | None = None,
    variant: Variant = "all",
    epochs: int = 12,
    num_workers: int | None = 0,
    use_gpu: bool = False,
    restart: bool = False,
    track: Sequence[TrackerName] = (),
    **settings: Any,
) -> Translator:
    """Train a translator and open it.

    Interrupted, the same call goes on where it was; finished, one with more epochs does.

    Args:
        pairs: a prepared corpus, or pairs as `prepare_corpus` takes them, of which a corpus is made
            beside the translator, in OUT.corpus.
        out: directory or URI for the translator; OUT.run beside it holds checkpoints and curves.
        source_lang: language code to translate from, such as "fr"; not of a corpus.
        target_lang: language code to translate into, such as "en"; not of a corpus.
        columns: names of the two columns, source and target; of a DataFrame the first two by
            default.
        variant: of lesson 11: "plain", "bidir", "force", "attn" or "all".
        epochs: passes over the corpus.
        num_workers: Ray Train workers; 0 trains in this process, without Ray; None: as many as fit.
        use_gpu: train on a GPU, with workers on one each.
        restart: begin anew, deleting the checkpoints.
        track: where to show the run as well: "mlflow", "wandb", "tensorboard".
        **settings: any other flag of `train_translator`; groups are given as a dict, such as
            `optimizer={"learning_rate": 0.002}`.

    Raises:
        TypeError: `pairs` is nothing of what it may be.
        ConfigError: a setting is unknown or has a wrong value, or does not go with the run that
            was interrupted.
        DataError: the pairs cannot be used.
        TrainingError: the loss is not finite, or Ray does not start.
    """
    require_extra("train", "tensorboard")
    place = locate(out)
    values = {"variant": variant, "epochs": epochs, **settings, "out": place.uri}
    corpus_uri = place.beside(".corpus").uri
    chosen = settings_for(TrainSettings, "train_translator", {**values, "corpus": corpus_uri})
    if isinstance(pairs, Artifact | str | os.PathLike | Location) and is_artifact(pairs):
        if any(given is not None for given in (source_lang, target_lang, columns)):
            raise ConfigError(
                "train_translator: a prepared corpus has its languages and columns already; leave "
                "source_lang, target_lang and columns out"
            )
        chosen = chosen.model_copy(update={"corpus": uri_of(pairs)})
    else:
        _corpus_of(pairs, locate(corpus_uri), source_lang, target_lang, columns)
    with training_console() as report:
        resources = Resources(num_workers, 0, use_gpu, 0)
        train(chosen, report, resources, restart, session=ray_session, track=track)
    return Translator.load(place, "cuda" if use_gpu else "cpu")


def _corpus_of(
    pairs: Any,
    place: Location,
    source_lang: str | None,
    target_lang: str | None,
    columns: Sequence[str] | None,
) -> None:
    """Prepare the corpus, unless it is there and was made of the same pairs.

    A corpus that is made again is another one to an interrupted training, which would not go on.
    """
    named = f"{source_lang} {target_lang} {columns and list(columns)}"
    digest = hashlib.sha256(f"{named}\n{_content(pairs)}".encode()).hexdigest()
    note = place / _DIGEST
    if note.exists() and note.read_bytes().decode() == digest:
        try:
            artifacts.load(place, "corpus")
            return
        except ArtifactError:  # damaged: it is made again
            pass
    prepare_corpus(pairs, place, source_lang=source_lang, target_lang=target_lang, columns=columns)
    note.write_bytes(digest.encode())


def _content(pairs: Any) -> str:
    """Return a text that differs for other pairs: their hash, or the name of a dataset of a hub."""
    if isinstance(pairs, pd.DataFrame):
        rows = pd.util.hash_pandas_object(pairs.astype(str), index=False).to_numpy()
        return f"{list(pairs.columns)} {hashlib.sha256(rows.tobytes()).hexdigest()}"
    if isinstance(pairs, str | os.PathLike | Location):
        if str(pairs).startswith(HUGGING_FACE):
            return str(pairs)
        files = [locate(pairs)]
        if files[0].is_directory():
            files = [files[0] / name for name in files[0].files_below()]
    else:
        files = [locate(file) for file in _two_files(pairs, "pairs")]
    return " ".join(artifacts.describe_file(file)["sha256"] for file in files)


def _two_files(given: Any, name: str) -> tuple[str, str]:
    if not isinstance(given, Sequence) or isinstance(given, bytes):
        raise TypeError(
            f"{name}: give a DataFrame, two text files, or a file or dataset that has both sides, "
            f"not {type(given).__name__}: {given!r:.80}"
        )
    if len(given) != 2:
        raise TypeError(f"{name}: give two text files, source and target, not {len(given)}")
    source, target = given
    return uri_of(source), uri_of(target)


def _two(columns: Any) -> tuple[str, str]:
    if isinstance(columns, str) or len(columns) != 2:
        raise TypeError(f"columns: give two names, source and target, not {columns!r:.80}")
    first, second = columns
    return str(first), str(second)


def _first_two(frame: pd.DataFrame) -> list[str]:
    if len(frame.columns) < 2:
        raise ConfigError(
            f"pairs: the DataFrame has {len(frame.columns)} column; give one with two, source and "
            f"target"
        )
    return [str(name) for name in frame.columns[:2]]
