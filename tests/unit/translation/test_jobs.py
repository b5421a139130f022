"""translate and evaluate_translator through their own mains."""

import io
import json
import os
import select
import threading
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from sacrebleu.metrics import BLEU

from jobs.evaluate_translator import main as evaluate
from jobs.prepare_corpus import main as prepare
from jobs.pretrain import main as pretrain
from jobs.train_devise import main as train_devise
from jobs.train_translator import main as train
from jobs.translate import main as translate
from seqvis import artifacts
from seqvis.corpus.pairs import load_pairs
from seqvis.decoding.beam import DecodingSettings
from seqvis.decoding.native import NativeBatch
from seqvis.errors import DataError
from seqvis.native import is_native
from seqvis.samples.questions import generate_pairs
from seqvis.seq2seq.state import pad_ids
from seqvis.text.languages import load_languages
from seqvis.text.lines import lines_at_hand
from seqvis.text.vocabulary import EOS, PAD
from seqvis.training.workers import Workers
from seqvis.translation import evaluate as scoring
from seqvis.translation.evaluate import evaluate as score
from seqvis.translation.task import TrainSettings, TranslationTask
from seqvis.translation.train import train as fit_translator
from seqvis.translation.translator import Translator
from tests.support.corpora import write_corpus
from tests.support.lesson import lesson_forward, lesson_loss
from tests.unit.conftest import SMALL, Job

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def model(translator: Translator) -> str:
    return translator.artifact.location.path


@pytest.fixture
def files(tmp_path: Path) -> tuple[str, str]:
    """200 questions in two aligned files."""
    pairs = generate_pairs(200, seed=20)
    for side, language in enumerate(("fr", "en")):
        lines = "".join(pair[side] + "\n" for pair in pairs)
        (tmp_path / f"questions.{language}").write_text(lines)
    return str(tmp_path / "questions.fr"), str(tmp_path / "questions.en")


def test_sentences_a_file_and_standard_input_give_the_same(
    model: str,
    files: tuple[str, str],
    tmp_path: Path,
    capsys: Capture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lines = Path(files[0]).read_text().splitlines()
    assert translate(["--model", model, *lines[:5]]) == 0
    spoken = capsys.readouterr().out.splitlines()
    out = tmp_path / "out.en"
    assert translate(["--model", model, "--input", files[0], "--output", str(out)]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["sentences"], result["out"]) == (200, str(out))
    assert out.read_text().splitlines()[:5] == spoken
    stdin = io.TextIOWrapper(io.BytesIO("\r\n".join(lines[:5]).encode()))
    monkeypatch.setattr("sys.stdin", stdin)
    assert translate(["--model", model]) == 0
    assert capsys.readouterr().out.splitlines() == spoken


@pytest.mark.parametrize(
    "sentence",
    [
        "Où travaille ta sœur, Paul ?",
        'Qui a dit "oui" ?',
        "[Musique] Où est le chat ?",
        "Où est\nle chat ?",
        "{",
        "- Où est le chat ?",
    ],
)
def test_one_argument_is_one_sentence(sentence: str, translator: Translator, capsys) -> None:
    model = translator.artifact.location.path
    assert translate(["--model", model, sentence, "", "Où est le chat ?", ""]) == 0
    expected = translator.translate([sentence, "Où est le chat ?"])
    assert capsys.readouterr().out.split("\n") == [expected[0].text, "", expected[1].text, "", ""]
    assert translate(["--model", model, "--", sentence]) == 0
    assert capsys.readouterr().out == f"{expected[0].text}\n"


def test_a_line_is_translated_while_input_pauses(
    model: str, translator: Translator, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = ["Où est le chat ?", "Quand dort la tortue ?"]
    answers: list[str] = []
    (our_in, their_in), (our_out, their_out) = os.pipe(), os.pipe()

    def talk() -> None:
        with open(our_out) as replies:
            with open(their_in, "wb", buffering=0) as stream:
                for line in lines:
                    stream.write(f"{line}\n".encode())
                    if not select.select([replies], [], [], 20)[0]:
                        break  # no answer before the end of input
                    answers.append(replies.readline())
            replies.read()

    person = threading.Thread(target=talk)
    person.start()
    with open(our_in) as stdin, open(their_out, "w") as stdout:
        monkeypatch.setattr("sys.stdin", stdin)
        monkeypatch.setattr("sys.stdout", stdout)
        code = translate(["--model", model])
    person.join()
    assert code == 0
    assert answers == [f"{translation.text}\n" for translation in translator.translate(lines)]


def _groups(*pieces: bytes, at_most: int = 100) -> list[list[str]]:
    """What a reader of a pipe gets who takes a group after each piece that is written."""
    readable, writable = os.pipe()
    taken: list[list[str]] = []
    with open(readable, "rb") as stream:
        groups = lines_at_hand(stream, "standard input", at_most)
        for piece in pieces:
            os.write(writable, piece)
            taken.append(next(groups))
        os.close(writable)
        return [*taken, *groups]


def test_lines_of_a_pipe_come_in_groups() -> None:
    assert _groups(b"a\nb\r\n", b"c\n") == [["a", "b"], ["c"]]
    assert _groups(b"a\nb\nc\nd", b"e\n", at_most=2) == [["a", "b"], ["c", "de"]]
    assert _groups(b"\xef\xbb\xbfa\n\n", b"\n", b"b\nno end") == [
        ["a", ""],
        [""],
        ["b"],
        ["no end"],
    ]
    assert _groups() == []
    letter = "é".encode()
    assert _groups(b"a\n" + letter[:1], letter[1:] + b"\n") == [["a"], ["é"]]


def test_a_fast_pipe_and_a_file_give_full_groups(tmp_path: Path) -> None:
    content = b"".join(b"line %d\n" % number for number in range(5000))
    (tmp_path / "lines").write_bytes(content)
    with open(tmp_path / "lines", "rb") as stream:
        sizes = [len(group) for group in lines_at_hand(stream, "x", 1500)]
    assert sizes == [1500, 1500, 1500, 500]
    assert [len(group) for group in _groups(content[: 1 << 12], at_most=100)][:3] == [100] * 3
    assert [len(g) for g in lines_at_hand(io.BytesIO(content), "x", 4000)] == [4000, 1000]


def test_lines_before_one_that_is_not_utf8_are_kept() -> None:
    with pytest.raises(DataError, match="standard input: line 3 is not valid UTF-8"):
        _groups(b"a\nb\nO\xf9\n")
    groups = lines_at_hand(io.BytesIO(b"a\nb\nO\xf9\n"), "x", 9)
    assert next(groups) == ["a", "b"]


def test_n_best_is_json_with_scores(model: str, capsys: Capture) -> None:
    assert translate(["--model", model, "--beam", "3", "--n-best", "3", "Où est le chat ?"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["source"] == "Où est le chat ?"
    assert len(result["translations"]) == 3
    assert translate(["--model", model, "--n-best", "3", "x"]) == 2


def test_unknown_words_are_named(model: str, tmp_path: Path, capsys: Capture) -> None:
    typed = ["Où travaille Zbigniew ?", "Où est le chat ?", "Zbigniew et eBay dorment ?"]
    assert translate(["--model", model, typed[0], typed[1]]) == 0
    assert "Zbigniew" in capsys.readouterr().err
    assert translate(["--model", model, typed[1]]) == 0
    assert "Zbigniew" not in capsys.readouterr().err
    assert translate(["--model", model, "--beam", "2", "--n-best", "2", typed[2]]) == 0
    assert {"Zbigniew", "eBay"} <= set(json.loads(capsys.readouterr().out)["unknown_words"])
    (tmp_path / "in").write_text("\n".join(typed) + "\n")
    flags = ["--model", model, "--input", str(tmp_path / "in"), "--output", str(tmp_path / "out")]
    assert translate(flags) == 0
    unknown = json.loads(capsys.readouterr().out)["unknown_words"]
    assert (unknown["Zbigniew"], unknown["eBay"]) == (2, 1)


def test_a_string_is_one_sentence_and_anything_but_text_is_refused(translator: Translator) -> None:
    alone = translator.translate("Où est le chat ?")
    assert alone.text == translator.translate(["Où est le chat ?"])[0].text
    for wrong in (b"O", ["a", 3], [None]):
        with pytest.raises(TypeError, match="sentence is a str"):
            translator.translate(wrong)  # type: ignore[call-overload]
    with pytest.raises(TypeError, match="lines of text"):
        next(translator.translate_stream("Où est le chat ?"))


def test_training_and_evaluation_score_with_case_alike(translator: Translator) -> None:
    evaluated, _ = score(translator, ["Où est le chat ?"], ["x"], DecodingSettings())
    assert translator.languages.keep_case is False
    assert "case:lc" in evaluated["signature"]
    lowercase = score(translator, ["Où ?"], ["x"], DecodingSettings(), lowercase=False)[0]
    assert "case:mixed" in lowercase["signature"]


def test_validation_decodes_as_a_translator_does(
    translator: Translator, questions: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the extension; without it, the texts are the same."""
    if not is_native("float32"):
        pytest.skip("seqvis/native was not built, or is switched off: make native")
    settings = TrainSettings(corpus=str(questions), out="", **SMALL | {"samples": 150})
    task = TranslationTask(settings.resolved())
    batches: list[NativeBatch] = []
    join = NativeBatch.join

    def joined(batch: NativeBatch, *given: Any) -> None:
        batches.append(batch)
        join(batch, *given)

    monkeypatch.setattr(NativeBatch, "join", joined)
    results = []
    for switch in "10":
        monkeypatch.setenv("SEQVIS_NATIVE", switch)
        results.append(task.evaluate(translator.model, Workers()))
        assert batches
    assert len(batches) == 1
    for key in ("samples", "bleu", "chrf"):
        assert results[0][key] == results[1][key]


def test_the_attention_picture_is_drawn(model: str, tmp_path: Path, capsys: Capture) -> None:
    picture = tmp_path / "attention.png"
    flags = ["--model", model, "--attention", str(picture), "Où travaille ta sœur ?"]
    assert translate(flags) == 0
    with Image.open(picture) as image:
        assert min(image.size) > 200


def test_evaluation_gives_sacrebleus_own_figures(
    model: str, files: tuple[str, str], tmp_path: Path, capsys: Capture
) -> None:
    out = tmp_path / "translations.en"
    flags = ["--model", model, "--source", files[0], "--reference", files[1]]
    assert evaluate([*flags, "--output", str(out)]) == 0
    result = json.loads(capsys.readouterr().out)
    names = "bleu chrf loss loss_with_padding accuracy sentences_per_second signature"
    assert set(names.split()) <= set(result)
    references = Path(files[1]).read_text().splitlines()
    expected = BLEU().corpus_score(out.read_text().splitlines(), [references]).score
    assert result["bleu"] == pytest.approx(expected, abs=0.01)
    assert "tok:13a" in result["signature"]
    assert evaluate([*flags, "--scoring", "moses", "--beam", "2"]) == 0
    assert "moses(en)" in json.loads(capsys.readouterr().out)["signature"]


def test_the_losses_of_plain_are_those_of_the_lessons_steps(
    questions: Path, files: tuple[str, str], tmp_path: Path, capsys: Capture
) -> None:
    """200 sentences are one batch of the lesson's validation."""
    out = str(tmp_path / "plain")
    choices = {"epochs": 1, "optimizer": {"learning_rate": 0.01}, "variant": "plain"}
    fit_translator(
        TrainSettings(corpus=str(questions), out=out, **SMALL, **choices),
        lambda event: None,
    )
    assert evaluate(["--model", out, "--source", files[0], "--reference", files[1]]) == 0
    result = json.loads(capsys.readouterr().out)
    translator = Translator.load(out)
    languages = translator.languages
    lines = [Path(name).read_text().splitlines() for name in files]
    sources = [list(languages.read(text).ids) for text in lines[0]]
    target, _ = pad_ids([languages.target_ids(text) for text in lines[1]])
    logits = lesson_forward(translator.model, sources, target.shape[1])
    expected = float(lesson_loss(logits, target.t()))
    assert result["loss_with_padding"] == pytest.approx(expected, rel=1e-5)
    expected = float(lesson_loss(logits, target.t(), ignore_index=PAD))
    assert result["loss"] == pytest.approx(expected, rel=1e-5)


def test_an_evaluation_says_how_much_of_it_was_trained_on(
    model: str, tmp_path: Path, capsys: Capture
) -> None:
    pairs = generate_pairs(1650, seed=3)  # the first 150 were held out
    train, valid = list(dict.fromkeys(pairs[150:])), list(dict.fromkeys(pairs[:150]))
    valid = [pair for pair in valid if pair not in set(train)]

    def share(chosen: list[tuple[str, str]]) -> tuple[float, str]:
        for side, name in enumerate(("source", "reference")):
            (tmp_path / name).write_text("".join(f"{pair[side]}\n" for pair in chosen))
        files = ["--source", str(tmp_path / "source"), "--reference", str(tmp_path / "reference")]
        capsys.readouterr()
        assert evaluate(["--model", model, *files]) == 0
        said = capsys.readouterr()
        return json.loads(said.out)["trained_share"], said.err

    longest = sorted(train, key=lambda pair: -len(pair[0]))
    assert share(longest[:60])[0] == 1
    assert share(valid[:60]) == (0, "")
    mixed, said = share([*train[100:115], *valid[:45]])
    assert mixed == 0.25
    assert "25% of these sentence pairs were in the training" in said
    assert share([(known[0], new[1]) for known, new in zip(train[:9], valid, strict=False)])[0] == 0
    assert share([(f"  {source}  ", f" {target}") for source, target in train[:9]])[0] == 1


def test_of_many_pairs_a_part_is_recorded_and_the_share_estimated(
    questions: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scoring, "MOST_PAIRS", 500)
    corpus = artifacts.load(str(questions), "corpus")
    with artifacts.create(str(tmp_path / "model"), "translator", {}) as writer:
        scoring.write_trained_pairs(writer, load_pairs(corpus, "train"))
    kept = artifacts.load(str(tmp_path / "model"), "translator")
    pairs = generate_pairs(1650, seed=3)
    texts = [[pair[side] for pair in pairs[150:450]] for side in range(2)]
    assert scoring.trained_share(kept, load_languages(corpus), *texts) == 1
    # A sentence that prepare_corpus cut is known by what was kept of it.
    whole, short = list(range(9, 30)), [*range(9, 19), EOS]
    assert list(scoring._cut([*whole, EOS], 11)) == short
    assert list(scoring._cut(short, 11)) == short
    assert scoring.trained_share(corpus, load_languages(corpus), *texts) is None


def test_a_corpus_stands_for_the_files_of_its_validation_part(
    model: str, questions: Path, tmp_path: Path, capsys: Capture
) -> None:
    pairs = generate_pairs(1650, seed=3)[:150]  # what the corpus was written from
    for side, name in enumerate(("source", "reference")):
        (tmp_path / name).write_text("".join(pair[side] + "\n" for pair in pairs))
    files = ["--source", str(tmp_path / "source"), "--reference", str(tmp_path / "reference")]
    results = []
    for flags in (["--corpus", str(questions)], files):
        assert evaluate(["--model", model, *flags]) == 0
        results.append(json.loads(capsys.readouterr().out))
    assert results[0]["bleu"] == results[1]["bleu"]
    assert results[0]["loss"] == results[1]["loss"]
    empty = ["--source", "", "--reference", ""]
    for flags in ([], files[:2], empty, [*files, "--corpus", str(questions)]):
        assert evaluate(["--model", model, *flags]) == 2
        assert "give --source and --reference, or --corpus alone" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("source", "reference", "message"),
    [
        (b"un\ndeux\n", b"one\n", "2 sources but 1 references"),
        (b"un\n\xff\xfe\n", b"one\ntwo\n", "line 2 is not valid UTF-8"),
        (b"", b"one\n", "is empty"),
        (None, b"one\n", "no such file"),
    ],
)
def test_bad_files_give_one_line_and_no_traceback(
    model: str,
    tmp_path: Path,
    capsys: Capture,
    source: bytes | None,
    reference: bytes,
    message: str,
) -> None:
    if source is not None:
        (tmp_path / "s").write_bytes(source)
    (tmp_path / "r").write_bytes(reference)
    flags = ["--source", str(tmp_path / "s"), "--reference", str(tmp_path / "r")]
    assert evaluate(["--model", model, *flags]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.startswith("error: ")
    assert len(error.splitlines()) == 1


def test_a_model_that_is_none_is_refused(tmp_path: Path, questions: Path, capsys: Capture) -> None:
    assert translate(["--model", str(tmp_path / "nothing"), "x"]) == 1
    assert "no such translator; make one with python -m jobs.train" in capsys.readouterr().err
    assert translate(["--model", str(questions), "x"]) == 1
    assert "is a corpus, but a translator is needed here" in capsys.readouterr().err


def test_an_interrupted_translation_leaves_the_old_file(
    model: str, tmp_path: Path, capsys: Capture
) -> None:
    (tmp_path / "in").write_bytes(b"Qui dort ?\n" * 1100 + b"\xff\n")
    out = tmp_path / "out"
    out.write_text("earlier\n")
    assert translate(["--model", model, "--input", str(tmp_path / "in"), "--output", str(out)]) == 1
    assert "line 1101 is not valid UTF-8" in capsys.readouterr().err
    assert out.read_text() == "earlier\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "out"]


def test_wrong_flags_of_training_are_told_together(tmp_path: Path, capsys: Capture) -> None:
    flags = ["--out", str(tmp_path / "o"), "--varaint", "all", "--epochs", "0"]
    assert train([*flags, "--model.dropout.output", "1.5"]) == 2
    error = capsys.readouterr().err
    for part in (
        "--varaint: no such flag, did you mean --variant?",
        "--corpus: is needed",
        "--epochs: input should be greater",
        "--model.dropout.output: input should be",
    ):
        assert part in error


def test_what_a_run_may_go_on_with_is_said_by_the_settings(tmp_path: Path, job: Job) -> None:
    pairs = generate_pairs(130, seed=3)
    corpus = write_corpus(tmp_path / "corpus", pairs[30:], pairs[:30])
    flags = [
        "--corpus", corpus, "--out", tmp_path / "out", "--num-workers", 0,
        "--model.embedding-size", 32, "--model.hidden-size", 24, "--fit.precision", "float32",
    ]  # fmt: skip
    assert job(train, *flags, "--epochs", 1)[0] == 0
    flags += ["--epochs", 2, "--samples", 1, "--fit.patience", 3]
    other = ["--model.dropout.output", 0.5, "--forcing.end", 0.5, "--optimizer.rise", 0.2]
    code, _, error = job(train, *flags, *other)
    assert code == 2
    shown = "forcing.end was 0.0, is 0.5; model.dropout.output was 0.35, is 0.5; optimizer.rise was"
    assert f"({shown} 0.1, is 0.2); give --fit.allow-changes to go on with these, " in error
    for never in (["--model.layers", 1], ["--optimizer.algorithm", "sgd"], ["--fit.seed", 7]):
        code, _, error = job(train, *flags, *never, "--fit.allow-changes")
        assert (code, "); give --restart to begin again" in error) == (2, True)
    code, result, error = job(train, *flags, *other, "--fit.allow-changes")
    assert (code, result["epoch"]) == (0, 2), error
    assert f"from here on with other settings: {shown}" in error
    code, _, error = job(train, *flags, *other)  # they are the run's own now
    assert code == 0, error


def test_every_preset_is_valid(questions: Path, tmp_path: Path, capsys: Capture) -> None:
    presets = sorted((Path(__file__).parents[3] / "jobs" / "presets").glob("*.yaml"))
    assert presets
    for preset in presets:
        # An impossible value stops the job after it has read the rest.
        flags = ["--config", str(preset), "--out", "y", "--epochs", "-1"]
        if preset.stem.endswith("corpus"):
            bad = ["--source", "x", "--target", "x", "--out", "y", "--seed", "one"]
            assert prepare(["--config", str(preset), *bad]) == 2
        elif preset.stem.endswith("devise"):
            assert train_devise([*flags, "--features", "x", "--vectors", "x"]) == 2
        elif preset.stem.endswith("pretrain"):
            assert pretrain([*flags, "--corpus", "x", "--side", "source"]) == 2
        else:
            assert train([*flags, "--corpus", "x"]) == 2
        assert capsys.readouterr().err.count("error:") == 1
