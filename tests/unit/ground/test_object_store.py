"""Artifacts in an S3 bucket, over a real S3 server: jobs read and write them by URI."""

import json
import os
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from jobs.build_index import main as build_index
from jobs.build_vectors import main as build_vectors
from jobs.collection import main as collection
from jobs.evaluate_devise import main as evaluate_devise
from jobs.evaluate_translator import main as evaluate_translator
from jobs.search import main as search
from jobs.train_devise import main as train_devise
from jobs.translate import main as translate
from seqvis import artifacts
from seqvis.artifacts import MANIFEST, create, load
from seqvis.errors import ArtifactError, StorageError
from seqvis.samples.questions import generate_pairs
from seqvis.storage import locate
from seqvis.training.checkpoints import CheckpointStore
from seqvis.translation.task import TrainSettings
from seqvis.translation.train import train
from seqvis.vectors.store import WordVectors
from tests.support.corpora import write_corpus
from tests.support.objectstore import Bucket
from tests.support.pictures import picture_features, word_vectors, write_features, write_vec_file
from tests.unit.conftest import SMALL

Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def few_questions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus of 160 training and 20 validation questions."""
    pairs = generate_pairs(180, seed=3)
    return write_corpus(tmp_path_factory.mktemp("few") / "corpus", pairs[20:], pairs[:20])


def run(capsys: Capture, main: Callable[[Sequence[str]], int], *flags: str) -> dict[str, Any]:
    """The result of a job that must succeed."""
    code = main(flags)
    printed = capsys.readouterr()
    assert code == 0, printed.err
    return dict(json.loads(printed.out.splitlines()[-1]))


def upload(bucket: Bucket, folder: Path, name: str) -> str:
    """Copies an artifact to the bucket as `aws s3 cp --recursive` would; returns its URI."""
    for file in folder.rglob("*"):
        if file.is_file():
            bucket.put(f"{name}/{file.relative_to(folder)}", file.read_bytes())
    return bucket.uri(name)


def test_an_artifact_appears_whole_and_the_one_before_stays_until_then(bucket: Bucket) -> None:
    uri = bucket.uri("corpus")
    with create(uri, "corpus", {"made": 1}) as writer:
        writer.path("train/part").write_bytes(b"old")
        assert not locate(uri).exists() or not (locate(uri) / MANIFEST).exists()
    with create(uri, "corpus", {"made": 2}) as writer:
        writer.path("valid/part").write_bytes(b"new")
        before = load(uri, "corpus")
        assert before.config == {"made": 1}
        assert before.file("train/part").read_bytes() == b"old"
    after = load(uri, "corpus")
    assert set(after.files) == {"valid/part"}
    assert after.file("valid/part").read_bytes() == b"new"
    assert len(bucket.paths("corpus")) == 2, "nothing of the old one is left"


def test_the_environment_may_say_where_the_store_is(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in bucket.environment.items():
        monkeypatch.setenv(name, value)
    with create(bucket.plain_uri("corpus"), "corpus", {}) as writer:
        writer.path("a").write_bytes(b"x")
    assert load(bucket.uri("corpus"), "corpus").file("a").read_bytes() == b"x"


def test_a_bucket_that_does_not_exist_is_named(bucket: Bucket) -> None:
    missing = bucket.uri("corpus").replace(bucket.name, "no-such-bucket")
    with pytest.raises(ArtifactError, match=r"s3://no-such-bucket/corpus.*: no such corpus"):
        load(missing, "corpus")
    with pytest.raises(StorageError, match=r"no-such-bucket.*not found"):
        with create(missing, "corpus", {}) as writer:
            writer.path("a").write_bytes(b"x")


class Stopped(BaseException):
    """As if the process were killed."""


@pytest.mark.slow
def test_a_translator_is_trained_resumed_and_used_in_a_bucket(
    bucket: Bucket, few_questions: Path, capsys: Capture
) -> None:
    corpus, out = upload(bucket, few_questions, "corpus"), bucket.uri("translator")
    settings = TrainSettings.model_validate(
        SMALL | {"corpus": corpus, "out": out, "epochs": 3, "variant": "bidir"}
    )

    def stop(event: dict[str, Any]) -> None:
        if event["event"] == "progress" and event["epoch"] == 3:  # the first epoch is saved
            raise Stopped

    with pytest.raises(Stopped):
        train(settings, stop)
    events: list[dict[str, Any]] = []
    metrics = train(settings, events.append)
    assert any("going on from" in event.get("text", "") for event in events)
    assert metrics["epoch"] in (1, 2, 3)
    assert "translator.run/metrics.csv" in bucket.paths()
    bucket.put("questions.fr", "Où est le chat ?\nQui chante ?\n".encode())
    flags = ["--model", out, "--input", bucket.uri("questions.fr")]
    translated = run(capsys, translate, *flags, "--output", bucket.uri("questions.en"))
    assert translated["sentences"] == 2
    assert len(bucket.get("questions.en").decode().splitlines()) == 2
    assert "questions.en.partial" not in bucket.paths()
    scores = run(capsys, evaluate_translator, "--model", out, "--corpus", corpus)
    assert 0 <= scores["bleu"] <= 100


def test_half_a_checkpoint_is_passed_over(bucket: Bucket, few_questions: Path) -> None:
    out = bucket.uri("translator")
    settings = TrainSettings.model_validate(
        SMALL | {"corpus": str(few_questions), "out": out, "epochs": 1, "variant": "plain"}
    )
    train(settings, lambda event: None)
    store = CheckpointStore(locate(out).beside(".run") / "checkpoints")
    whole = store.latest()
    assert whole is not None
    # As a machine leaves it that is taken away while it writes.
    bucket.put("translator.run/checkpoints/step-000009999/files-0123abcd/state.json", b"{")
    assert store.latest() == whole


@pytest.mark.slow
def test_pictures_are_searched_with_what_lies_in_a_bucket(
    bucket: Bucket, tmp_path: Path, capsys: Capture
) -> None:
    labels = [name for name in ("dog", "cat", "boat", "truck") for _ in range(12)]
    vectors = word_vectors(["dog", "cat", "boat", "truck", "engine"])
    words = write_vec_file(tmp_path / "words.vec", vectors)
    bucket.put("words.vec", words.read_bytes())
    features = write_features(tmp_path / "features", labels, picture_features(labels, vectors))
    places = ["--features", upload(bucket, features, "features")]
    store, model = bucket.uri("vectors"), bucket.uri("devise")
    built = run(
        capsys, build_vectors, "--format", "vec", "--input", bucket.uri("words.vec"), "--out", store
    )
    assert built["words"] == 5
    assert WordVectors.open(store).vector("boat") == pytest.approx(vectors["boat"], abs=1e-5)
    flags = ["--vectors", store, "--out", model, "--epochs", "3", "--fit.precision", "float32"]
    run(capsys, train_devise, *places, *flags)
    table, page = bucket.uri("scores.csv"), bucket.uri("page.html")
    written = ["--per-class", table, "--page", page]
    scores = run(
        capsys, evaluate_devise, "--model", model, *places, "--candidates", "seen", *written
    )
    assert 0 <= scores["hit@1"] <= 1
    assert bucket.get("scores.csv").startswith(b"label,")
    assert b"<article" in bucket.get("page.html")
    out = str(tmp_path / "collection")
    assert run(capsys, build_index, "--model", model, *places, "--out", out)["items"] == 48
    sheet = ["--sheet", bucket.uri("found.png")]
    result = run(capsys, search, "--collection", out, "--text", "engine + boat", *sheet)
    assert len(result["results"]) == 10
    assert bucket.get("found.png").startswith(b"\x89PNG")


@pytest.mark.parametrize(
    "job",
    [
        lambda uri, _: build_index(["--model", "m", "--features", "f", "--out", uri]),
        lambda uri, _: search(["--collection", uri, "--text", "boat"]),
        lambda uri, _: collection(["--collection", uri, "--compact"]),
        lambda uri, here: collection(["--collection", here, "--split", "2", "--out", uri]),
    ],
)
def test_a_collection_in_a_bucket_is_refused_in_one_line(
    job: Callable[[str, str], int], tmp_path: Path, capsys: Capture
) -> None:
    assert job("s3://bucket/collection", str(tmp_path)) == 1
    error = capsys.readouterr().err
    assert (
        error == "error: s3://bucket/collection: must be on a local disk, not in an object store\n"
    )
    assert not (Path.cwd() / "s3:").exists()


def test_a_writer_that_is_not_the_last_leaves_nothing(bucket: Bucket) -> None:
    killed = artifacts.ArtifactWriter(locate(bucket.uri("corpus")), "corpus", {})
    killed.path("train/part").write_bytes(b"half")
    with create(bucket.uri("corpus"), "corpus", {}) as writer:
        writer.path("a").write_bytes(b"whole")
    assert len(bucket.paths("corpus")) == 2


def test_a_file_in_a_bucket_is_whole_although_its_writing_is_interrupted(bucket: Bucket) -> None:
    place = locate(bucket.uri("trial.json"))
    place.write_bytes(b"old")

    class Interrupting:
        """The bucket, where Ctrl-C is pressed as soon as a file is opened."""

        def open_output_stream(self, path: str) -> Any:
            stream = place.filesystem.open_output_stream(path)
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.2)
            return stream

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have muted it
    try:
        with pytest.raises(KeyboardInterrupt):
            replace(place, filesystem=Interrupting()).replace(b"new")  # type: ignore[arg-type]
    finally:
        signal.signal(signal.SIGINT, before)
    assert bucket.get("trial.json") == b"new"
