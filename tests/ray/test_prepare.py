"""prepare_corpus through its own main, on a real Ray."""

import gzip
import json
import lzma
import math
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from datasets import Dataset

from jobs.prepare_corpus import main
from seqvis.artifacts import load
from seqvis.corpus import prepare
from seqvis.corpus.inputs import textindex
from seqvis.corpus.settings import PrepareSettings
from seqvis.text.tokenizers import TokenizerSettings, load_tokenizer
from seqvis.text.vocabulary import EOS, UNK, Vocabulary
from seqvis.translation.task import TrainSettings
from seqvis.translation.train import train
from seqvis.translation.translator import Translator

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]

NOUNS = ["chat", "chien", "arbre", "train", "livre", "jardin", "pont", "bateau", "stylo", "verre"]
ENGLISH = ["cat", "dog", "tree", "train", "book", "garden", "bridge", "boat", "pen", "glass"]


def sentences(count: int) -> tuple[list[str], list[str]]:
    """Different pairs: `Le chat 17 voit le pont.` / `The cat 17 sees the bridge.`"""
    draw = random.Random(0)
    source, target = [], []
    for number in range(count):
        first, second = draw.randrange(10), draw.randrange(10)
        source.append(f"Le {NOUNS[first]} {number} voit le {NOUNS[second]}.")
        target.append(f"The {ENGLISH[first]} {number} sees the {ENGLISH[second]}.")
    return source, target


class Workplace:
    """A folder with a source and a target file, and the job that reads them."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.names = ("text.fr", "text.en")

    def write(self, source: Sequence[str | bytes], target: Sequence[str | bytes]) -> None:
        for name, lines in zip(self.names, (source, target), strict=True):
            content = [line if isinstance(line, bytes) else line.encode() for line in lines]
            data = b"".join(line + b"\n" for line in content)
            (self.folder / name).write_bytes(gzip.compress(data) if name.endswith("gz") else data)

    def run(self, *flags: str, out: str = "corpus", langs: tuple[str, str] = ("fr", "en")) -> int:
        paths = [str(self.folder / name) for name in self.names]
        files = ["--source", paths[0], "--target", paths[1], "--out", str(self.folder / out)]
        return main([*files, "--source-lang", langs[0], "--target-lang", langs[1], *flags])

    def run_pairs(self, name: str, columns: str | None, out: str) -> int:
        flags = ["--pairs", str(self.folder / name), *(("--columns", columns) if columns else ())]
        langs = ("--source-lang", "fr", "--target-lang", "en")
        return main([*flags, *langs, "--out", str(self.folder / out)])

    def rows(self, part: str, out: str = "corpus") -> list[dict[str, Any]]:
        corpus = load(str(self.folder / out), "corpus")
        names = corpus.names_below(part)
        return [row for name in names for row in pq.read_table(corpus.file(name).path).to_pylist()]

    def words(self, side: str, out: str = "corpus") -> Vocabulary:
        path = self.folder / out / f"{side}.vocab"
        return Vocabulary.from_bytes(path.read_bytes(), str(path))

    def report(self, out: str = "corpus") -> dict[str, Any]:
        return dict(json.loads((self.folder / out / "report.json").read_text()))


@pytest.fixture
def place(tmp_path: Path) -> Workplace:
    return Workplace(tmp_path)


def text_of(place: Workplace, row: dict[str, Any], side: str) -> str:
    assert row[side][-1] == EOS
    return " ".join(place.words(side).words[number] for number in row[side][:-1])


def test_pairs_stay_aligned_whatever_odd_lines_stand_between_them(place: Workplace) -> None:
    source, target = sentences(60)
    odd: list[tuple[bytes, bytes]] = [
        (b"", b"A blank source."),
        (b"Une cible vide.", b"   "),
        (b"Deux\xe2\x80\xa8lignes 1001\r", b"Two\xe2\x80\xa8lines 1001\r"),
        (b"Page\x0csuivante 1002", b"Next\x0bpage\x85 1002".decode("latin1").encode()),
        (b"Mauvais \xff octets", b"Bad bytes"),
        (b"Bons octets", b"Bad \xe9 bytes"),
        (b"x" * 300, b"Too long."),
    ]
    pairs = [(s.encode(), t.encode()) for s, t in zip(source, target, strict=True)]
    mixed = [*pairs[:20], *odd, *pairs[20:]]
    mixed[0] = (b"\xef\xbb\xbf" + mixed[0][0], mixed[0][1])
    place.write([pair[0] for pair in mixed], [pair[1] for pair in mixed])
    with (place.folder / "text.fr").open("rb+") as file:  # one file lacks its last line feed
        file.truncate((place.folder / "text.fr").stat().st_size - 1)
    flags = ("--max-line-bytes", "200", "--max-bad-share", "0.2", "--target-percentile", "100")
    assert place.run(*flags, "--source-percentile", "100", "--unknown-share", "0") == 0
    rows = place.rows("train") + place.rows("valid")
    assert sorted(row["row"] for row in rows) == [
        n for n in range(67) if n not in (20, 21, 24, 25, 26)
    ]
    numbers = {}
    for row in place.rows("train"):
        words = [text_of(place, row, side).split() for side in ("source", "target")]
        if row["row"] not in (22, 23):
            numbers[row["row"]] = [next(w for w in side if w.isdigit()) for side in words]
    assert len(numbers) > 30
    assert all(first == second for first, second in numbers.values())
    expected = {row: str(row if row < 20 else row - 7) for row in numbers}
    assert {row: pair[0] for row, pair in numbers.items()} == expected
    assert place.report()["dropped"] == {
        "blank": {"pairs": 2, "first_lines": [21, 22]},
        "source_line_too_long": {"pairs": 1, "first_lines": [27]},
        "source_not_utf8": {"pairs": 1, "first_lines": [25]},
        "target_not_utf8": {"pairs": 1, "first_lines": [26]},
    }


def test_block_sizes_and_gzip_change_nothing(
    place: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, target = sentences(300)
    target = [line.replace(".", "\u202f!") for line in target]
    source[100:110], target[100:110] = source[:10], target[:10]
    place.write(source, target)
    assert place.run(out="one") == 0
    monkeypatch.setattr(prepare, "PARTITION_PAIRS", 80)
    monkeypatch.setattr(textindex, "COUNT_BLOCK_BYTES", 1000)
    assert place.run("--lines-per-block", "37", out="many") == 0
    monkeypatch.undo()
    place.names = ("text.fr.gz", "text.en.gz")
    place.write(source, target)
    assert place.run(out="packed") == 0
    for part in ("train", "valid"):
        expected = place.rows(part, "one")
        assert [row["row"] for row in expected] == sorted(row["row"] for row in expected)
        assert place.rows(part, "many") == expected
        assert place.rows(part, "packed") == expected
    assert len(load(str(place.folder / "many"), "corpus").names_below("train")) == 9
    for side in ("source", "target"):
        assert place.words(side, "one") == place.words(side, "many") == place.words(side, "packed")
    files = [place.folder / name / "target.spacing.json" for name in ("one", "many", "packed")]
    assert "\u202f" in files[0].read_text()
    assert len({file.read_bytes() for file in files}) == 1
    reports = [place.report(name) for name in ("one", "many", "packed")]
    assert reports[0]["put_back"] == reports[1]["put_back"] == reports[2]["put_back"]
    assert reports[0]["put_back"]["exact"] == reports[0]["put_back"]["sentences"] > 10
    assert reports[0]["dropped"] == reports[1]["dropped"] == reports[2]["dropped"]
    assert reports[0]["dropped"] == {"duplicate": {"pairs": 10, "first_lines": [101, 102, 103]}}


@pytest.mark.usefixtures("no_processes")
def test_the_same_pairs_make_the_same_corpus_whatever_they_come_in(
    place: Workplace, capsys: pytest.CaptureFixture[str]
) -> None:
    source, target = sentences(60)
    place.write(source, target)
    assert place.run(out="aligned") == 0
    lines = "".join(map("{}\t{}\n".format, source, target))
    (place.folder / "pairs.tsv.xz").write_bytes(lzma.compress(lines.encode()))
    unit = '<tu><tuv lang="fr"><seg>{}</seg></tuv><tuv lang="en"><seg>{}</seg></tuv></tu>'
    units = "".join(map(unit.format, source, target))
    (place.folder / "pairs.tmx").write_text(f"<tmx><body>{units}</body></tmx>")
    frame = pd.DataFrame({"fr": source, "en": target})
    frame.to_parquet(place.folder / "pairs.parquet")
    Dataset.from_pandas(frame).save_to_disk(place.folder / "pairs")
    assert place.run_pairs("pairs.tsv.xz", "1,2", "TSV") == 0
    assert place.run_pairs("pairs.tmx", None, "TMX") == 0
    assert place.run_pairs("pairs.parquet", "fr,en", "Parquet") == 0
    assert place.run_pairs("pairs", "fr,en", "dataset") == 0
    settings = PrepareSettings(
        source_lang="fr", target_lang="en", columns="fr,en", out=str(place.folder / "frame")
    )
    prepare.prepare(settings, frame=frame)
    expected = load(str(place.folder / "aligned"), "corpus")
    made = [name for name in expected.files if name not in ("report.json", "lengths.png")]
    assert len(made) > 5
    for out in ("TSV", "TMX", "Parquet", "dataset", "frame"):
        corpus = load(str(place.folder / out), "corpus")
        assert {name: corpus.files[name] for name in made} == {n: expected.files[n] for n in made}
        assert place.report(out)["dropped"] == place.report("aligned")["dropped"]
    capsys.readouterr()
    (place.folder / "bad.tsv").write_text(f"{lines}un\n")
    assert place.run_pairs("bad.tsv", "1,2", "bad") == 1
    printed = capsys.readouterr().err
    assert "bad.tsv: line 61 has 1 columns, the first line 2; repair it" in printed
    assert printed.count("error: ") == 1
    assert "Traceback" not in printed


@pytest.mark.usefixtures("no_processes")
def test_the_split_shares_no_source_sentence_not_even_in_other_case_or_spacing(
    place: Workplace,
) -> None:
    source, target = sentences(150)
    loud = [line.upper().replace("VOIT", "voit ") for line in source]
    place.write([*source, *loud, *source], [*target, *target, *(f"{t} Yes." for t in target)])
    assert place.run("--valid-share", "0.3", "--source-percentile", "100") == 0
    sides = [{tuple(row["source"][:-1]) for row in place.rows(part)} for part in ("train", "valid")]
    valid_rows = {row["row"] % 150 for row in place.rows("valid")}
    train_rows = {row["row"] % 150 for row in place.rows("train")}
    assert not valid_rows & train_rows
    assert len(valid_rows | train_rows) == 150
    assert 20 < len(valid_rows) < 70
    assert not {ids for ids in sides[1] if UNK not in ids} & sides[0]


@pytest.mark.usefixtures("no_processes")
def test_vocabulary_and_ids_are_those_of_a_straightforward_computation(place: Workplace) -> None:
    source, target = sentences(200)
    source = [line + " Oui." * (number % 7) for number, line in enumerate(source)]
    place.write(source, target)
    flags = ("--max-vocabulary", "25", "--min-count", "2", "--source-percentile", "50")
    assert place.run(*flags, "--uncased-share", "0") == 0
    rows = {row["row"]: row for row in place.rows("train")}
    for side, lines, language in (("source", source, "fr"), ("target", target, "en")):
        tokenizer = load_tokenizer(TokenizerSettings(language=language, case_token=True))
        tokens = {row: tokenizer.tokenize(lines[row]) for row in rows}
        counts: dict[str, int] = {}
        for sentence in tokens.values():
            for token in sentence:
                counts[token] = counts.get(token, 0) + 1
        often = sorted((-n, word) for word, n in counts.items() if n >= 2)[:25]
        vocabulary = place.words(side)
        assert vocabulary.words[4:] == tuple(word for _, word in often)
        lengths = [len(sentence) + 1 for sentence in tokens.values()]
        limit = int(np.percentile(lengths, 50 if side == "source" else 99))
        assert load(str(place.folder / "corpus"), "corpus").metrics[f"max_{side}_length"] == limit
        for row, sentence in tokens.items():
            assert rows[row][side] == [*vocabulary.ids(sentence)[: limit - 1], EOS]


@pytest.mark.usefixtures("no_processes")
def test_some_rare_words_become_unknown_and_some_sources_lose_their_capitals(
    place: Workplace,
) -> None:
    place.write(*sentences(600))
    assert place.run("--source-percentile", "100", "--target-percentile", "100") == 0
    train, valid = place.rows("train"), place.rows("valid")
    unknown = [{row["row"] for row in train if UNK in row[side]} for side in ("source", "target")]
    assert unknown[0] == unknown[1]  # the numbers, which both sides have
    tokens = sum(len(row["target"]) - 1 for row in train)
    assert 0.006 < len(unknown[1]) / tokens < 0.014  # a hundredth, chosen by hash
    marked = {part: [] for part in ("train", "valid")}
    for part, rows in (("train", train), ("valid", valid)):
        marked[part] = [text_of(place, row, "source").startswith("_cap_ ") for row in rows]
    assert 0.01 < marked["train"].count(False) / len(train) < 0.1
    assert all(marked["valid"])
    assert all(text_of(place, row, "target").startswith("_cap_ ") for row in train)


@pytest.mark.usefixtures("no_processes")
def test_the_users_validation_files_are_kept_whole_and_leave_the_training_part(
    place: Workplace,
) -> None:
    source, target = sentences(50)
    place.write(source, target)
    long = "mot " * 60
    valid = [source[3].upper(), "Une phrase nouvelle.", long, "Une phrase nouvelle.", ""]
    (place.folder / "v.fr").write_text("\n".join(valid) + "\n")
    (place.folder / "v.en").write_text("x\nA new sentence.\nword\nA new sentence.\nempty\n")
    files = ("--valid-source", str(place.folder / "v.fr"), "--valid-target")
    assert place.run(*files, str(place.folder / "v.en")) == 0
    rows = place.rows("valid")
    assert [row["row"] for row in rows] == [0, 1, 2, 3]
    assert rows[1]["source_text"] == "Une phrase nouvelle."
    assert rows[1]["target_text"] == "A new sentence."
    assert len(rows[2]["source"]) == 61
    assert [row["row"] for row in place.rows("train")] == [n for n in range(50) if n != 3]
    report = place.report()
    assert report["dropped"] == {"source_in_validation": {"pairs": 1, "first_lines": [4]}}
    assert report["valid_dropped"] == {"blank": {"pairs": 1, "first_lines": [5]}}


@pytest.mark.usefixtures("no_processes")
def test_the_question_filter_keeps_questions_and_counts_the_rest(place: Workplace) -> None:
    source, target = sentences(40)
    questions = [(f"Où est le {n} ? Là.", f"Where is the {n}? There.") for n in range(40)]
    place.write(
        [*source, *(pair[0] for pair in questions)], [*target, *(pair[1] for pair in questions)]
    )
    assert place.run("--filter", "questions") == 0
    rows = place.rows("train")
    assert text_of(place, rows[0], "target").startswith("_cap_ where is the")
    assert text_of(place, rows[0], "target").endswith("?")
    assert place.report()["dropped"]["not_a_question"]["pairs"] == 40
    assert place.rows("valid")[0]["target_text"].endswith("?")


def test_sentencepiece_prepares_a_language_without_spaces(place: Workplace) -> None:
    places = ["学校", "图书馆", "公园", "商店", "医院"]
    source = [f"第{n}个人在{places[n % 5]}吗？" for n in range(200)]
    target = [f"Is person {n} at place {n % 5}?" for n in range(200)]
    place.write(source, target)
    flags = ("--tokenizer", "sentencepiece", "--sentencepiece-size", "400")
    assert place.run(*flags, langs=("zh", "en")) == 0
    settings = json.loads((place.folder / "corpus" / "tokenizers.json").read_text())
    for side, lines in (("source", source), ("target", target)):
        tokenizer = load_tokenizer(
            TokenizerSettings(**settings[side]), (place.folder / f"corpus/{side}.spm").read_bytes()
        )
        vocabulary = place.words(side)
        for row in place.rows("valid"):
            assert UNK not in row[side]
            text = tokenizer.detokenize([vocabulary.words[number] for number in row[side][:-1]])
            if len(row[side]) < place.report()[f"max_{side}_length"]:
                assert text.replace("?", "？") == lines[row["row"]].replace("?", "？")
        assert set(tokenizer.tokenize("未见过的字 é")) <= set(vocabulary.words)
    first = place.rows("train")
    assert place.run(*flags, "--lines-per-block", "60", out="again", langs=("zh", "en")) == 0
    assert place.rows("train", "again") == first


def assert_fails(
    place: Workplace, capsys: pytest.CaptureFixture[str], *flags: str, code: int = 1, **more: Any
) -> str:
    """Runs the job, which must fail with one line on standard error; returns that line."""
    capsys.readouterr()
    assert place.run(*flags, **more) == code
    printed = capsys.readouterr()
    assert printed.out == ""
    errors = [line for line in printed.err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert "Traceback" not in printed.err
    return errors[0]


def test_bad_input_gives_one_message_and_leaves_the_earlier_result(
    place: Workplace, capsys: pytest.CaptureFixture[str]
) -> None:
    source, target = sentences(50)
    place.write(source, target)
    assert place.run() == 0
    before = load(str(place.folder / "corpus"), "corpus").fingerprint()

    place.write(source, target[:-3])
    message = assert_fails(place, capsys)
    assert "text.fr has 50 lines" in message
    assert "text.en has 47 lines" in message
    assert place.run("--allow-unequal", out="prefix") == 0
    assert place.report("prefix")["pairs_read"] == 47
    assert place.report("prefix")["lines_without_counterpart"] == 3

    place.write([*source[:-2], b"caf\xe9", b"\xe9t\xe9"], target)
    message = assert_fails(place, capsys)
    assert "text.fr: 2 of 50 lines are not valid UTF-8, the first are line 49, 50" in message

    place.write([], target)
    assert "text.fr: is empty" in assert_fails(place, capsys)
    place.write(source, target)
    message = assert_fails(place, capsys, "--filter", "questions")
    assert "no pair is left (not_a_question dropped 50)" in message
    assert "sw: spaCy cannot" in assert_fails(place, capsys, code=2, langs=("sw", "en"))
    assert "did you mean en?" in assert_fails(place, capsys, code=2, langs=("fr", "english"))
    place.names = ("text.fr", "nothing.en")
    assert "nothing.en: no such file" in assert_fails(place, capsys)
    (place.folder / "nothing.en").write_bytes(gzip.compress(b"a\n" * 5000)[:-12])
    assert "nothing.en: damaged or cut off" in assert_fails(place, capsys)

    assert load(str(place.folder / "corpus"), "corpus").fingerprint() == before
    assert not [path.name for path in place.folder.iterdir() if path.name.startswith(".")]


def test_an_output_that_cannot_be_written_is_named(
    place: Workplace, capsys: pytest.CaptureFixture[str]
) -> None:
    place.write(*sentences(5))
    (place.folder / "file").write_text("not a folder")
    assert "corpus" in assert_fails(place, capsys, out="file/corpus")


def test_a_corpus_too_small_to_split_says_so(
    place: Workplace, capsys: pytest.CaptureFixture[str]
) -> None:
    place.write(*sentences(1))
    assert "--valid-source" in assert_fails(place, capsys)


@pytest.mark.usefixtures("no_processes")
def test_a_vocabulary_of_more_than_65536_words_is_prepared_trained_and_used(
    place: Workplace,
) -> None:
    lines = [" ".join(f"w{10 * row + word}" for word in range(10)) for row in range(7000)]
    place.write(lines, [line.upper() for line in lines])
    flags = ["--tokenizer", "whitespace", "--no-case-token", "--unknown-share", "0"]
    flags += ["--uncased-share", "0", "--min-count", "1", "--max-vocabulary", "100000"]
    assert place.run(*flags, "--no-lowercase", "--valid-share", "0.01") == 0
    vocabulary = place.words("target")
    assert len(vocabulary) > 65_536
    row = max(place.rows("train"), key=lambda row: max(row["target"]))
    assert max(row["target"]) > 65_536
    assert text_of(place, row, "target") == lines[row["row"]].upper()
    sizes = {"embedding_size": 4, "hidden_size": 4, "layers": 1}
    chosen = TrainSettings.model_validate(
        {
            "corpus": str(place.folder / "corpus"),
            "out": str(place.folder / "translator"),
            "variant": "plain",
            "epochs": 1,
            "samples": 0,
            "model": sizes,
            "loss": {"sampled_words": 3000},
            "fit": {"precision": "float32", "monitor": "loss"},
        }
    )
    metrics = train(chosen, lambda event: None)
    assert 0 < metrics["loss"] < 2 * math.log(len(vocabulary))
    translator = Translator.load(chosen.out)
    assert translator.translate(lines[0]).source_tokens == lines[0].split()
