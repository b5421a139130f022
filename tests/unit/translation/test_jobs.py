"""translate, and what it shares with evaluate_translator, through their own mains."""

import io
import json
import os
import select
import threading
from pathlib import Path

import pytest
from PIL import Image

from jobs.evaluate_translator import main as evaluate
from jobs.translate import main as translate
from seqvis.errors import DataError
from seqvis.text.lines import lines_at_hand
from seqvis.translation.translator import Translator

Capture = pytest.CaptureFixture[str]


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


def test_the_attention_picture_is_drawn(model: str, tmp_path: Path, capsys: Capture) -> None:
    picture = tmp_path / "attention.png"
    flags = ["--model", model, "--attention", str(picture), "Où travaille ta sœur ?"]
    assert translate(flags) == 0
    with Image.open(picture) as image:
        assert min(image.size) > 200


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
    assert "no such translator; make one with seqvis train-translator" in capsys.readouterr().err
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
