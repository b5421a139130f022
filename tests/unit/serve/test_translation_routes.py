"""Translation over HTTP, by real models in one process."""

import json
from pathlib import Path
from typing import Any

import pytest

from seqvis.decoding.beam import DecodingSettings
from seqvis.errors import ConfigError
from seqvis.samples.questions import generate_pairs
from seqvis.translation.confidence import CALIBRATION, GOOD
from seqvis.translation.translator import Translator
from serve.app import Serve, free_port, serving
from tests.support.models import copied
from tests.support.serving import Served, error_of, served

TEXTS = [pair[0] for pair in generate_pairs(12, seed=31)]


def test_texts_are_translated_as_offline(both: Served, translator: Translator) -> None:
    body = {"text": TEXTS, "beam": 3, "n_best": 2}
    answer = both.client.post("/v1/translate", json=body).json()
    expected = translator.translate(TEXTS, DecodingSettings(beam=3, n_best=2))
    assert answer["model"] == "default"
    assert [translation["text"] for translation in answer["translations"]] == [
        translation.text for translation in expected
    ]
    for translation, offline in zip(answer["translations"], expected, strict=True):
        scores = [candidate["score"] for candidate in translation["candidates"]]
        assert scores == pytest.approx([c.score for c in offline.alternatives], abs=1e-3)


def test_attention_comes_if_asked_for(both: Served) -> None:
    body = {"text": TEXTS[0]}
    assert (
        both.client.post("/v1/translate", json=body).json()["translations"][0]["candidates"][0][
            "attention"
        ]
        is None
    )
    answer = both.client.post("/v1/translate", json=body | {"attention": True}).json()
    translation = answer["translations"][0]
    weights = translation["candidates"][0]["attention"]
    assert len(weights) >= len(translation["candidates"][0]["tokens"])
    assert all(len(row) == len(translation["source_tokens"]) + 1 for row in weights)
    assert sum(weights[0]) == pytest.approx(1.0, abs=0.02)


def test_a_stream_gives_each_translation_as_it_ends(both: Served) -> None:
    body = {"text": [*TEXTS, ""], "stream": True, "partial": True}
    with both.client.stream("POST", "/v1/translate", json=body) as response:
        assert response.headers["content-type"].startswith("application/x-ndjson")
        lines = [json.loads(line) for line in response.iter_lines()]
    assert lines[-1] == {"done": True, "count": len(TEXTS) + 1, "model": "default"}
    whole = {line["index"]: line["translation"]["text"] for line in lines if "translation" in line}
    plain = both.client.post("/v1/translate", json={"text": [*TEXTS, ""]}).json()["translations"]
    assert [whole[index] for index in sorted(whole)] == [
        translation["text"] for translation in plain
    ]
    grown = [line["partial"] for line in lines if line.get("index") == 0 and "partial" in line]
    assert grown
    assert grown[-1] == whole[0]


def confidences(served: Served) -> list[float]:
    translations = served.client.post("/v1/translate", json={"text": TEXTS}).json()["translations"]
    return [translation["confidence"] for translation in translations]


def test_each_translation_says_how_sure_it_is_and_what_it_does_not_know(
    both: Served, translator: Translator
) -> None:
    body = {"text": [*TEXTS, "Bonjour le monde", ""]}
    translations = both.client.post("/v1/translate", json=body).json()["translations"]
    for translation, offline in zip(translations, translator.translate(body["text"]), strict=True):
        assert translation["confidence"] == pytest.approx(offline.confidence, abs=1e-3)
        assert translation["refused"] is None
    assert translations[-2]["unknown_words"] == ["Bonjour", "monde"]
    assert translations[-1]["confidence"] == 1


@pytest.mark.parametrize("stream", [False, True])
def test_less_sure_translations_of_several_have_no_text(both: Served, stream: bool) -> None:
    sure = confidences(both)
    least = (min(sure) + max(sure)) / 2
    body = {"text": TEXTS, "min_confidence": least, "stream": stream, "partial": stream}
    answer = both.client.post("/v1/translate", json=body)
    assert answer.status_code == 200
    if stream:
        lines = [json.loads(line) for line in answer.text.splitlines()][:-1]
        lines.sort(key=lambda line: line["index"])
        translations = [line["translation"] for line in lines]  # nothing partial before them
    else:
        translations = answer.json()["translations"]
    for translation, confidence in zip(translations, sure, strict=True):
        assert translation["confidence"] == confidence
        if confidence < least:
            assert (translation["text"], translation["candidates"]) == (None, [])
            assert f"below {least:g}" in translation["refused"]
        else:
            assert translation["text"] == translation["candidates"][0]["text"]
    assert {bool(translation["refused"]) for translation in translations} == {True, False}


def test_a_single_text_that_is_too_unsure_is_refused(both: Served) -> None:
    body = {"text": "Bonjour le monde", "min_confidence": 0.9999}
    error = error_of(both.client.post("/v1/translate", json=body), 422, "unsure")
    assert error["unknown_words"] == ["Bonjour", "monde"]
    assert 0 <= error["confidence"] < 0.9999
    assert "new to the model: Bonjour, monde" in error["message"]
    with both.client.stream("POST", "/v1/translate", json=body | {"stream": True}) as response:
        first = json.loads(next(response.iter_lines()))
    assert first["translation"]["refused"]


def test_the_operators_threshold_holds_where_a_request_has_none(translator: Translator) -> None:
    with served(translator.artifact.location.uri, None, min_confidence=0.9999) as strict:
        post = strict.client.post
        error_of(post("/v1/translate", json={"text": "Bonjour le monde"}), 422, "unsure")
        own = {"text": "Bonjour le monde", "min_confidence": 0}
        assert post("/v1/translate", json=own).json()["translations"][0]["text"]


def test_a_translator_that_is_not_calibrated_refuses_a_threshold(
    translator: Translator, tmp_path: Path
) -> None:
    old = copied(translator, tmp_path / "old", without=CALIBRATION)
    strict = Serve(translator=old, min_confidence=0.5, port=free_port())
    with pytest.raises(ConfigError, match="is not calibrated"), serving(strict):
        pass
    with served(str(old), None) as running:
        post = running.client.post
        plain = post("/v1/translate", json={"text": "Où ?"}).json()["translations"][0]
        assert plain["confidence"] is None
        for stream in (False, True):
            body = {"text": "Où ?", "min_confidence": 0.5, "stream": stream}
            error = error_of(post("/v1/translate", json=body), 422, "bad_artifact")
            assert "not calibrated" in error["message"]


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        ({}, "text"),
        ({"text": "Où ?", "min_confidence": 2}, "min_confidence"),
        ({"text": 5}, "text"),
        ({"text": "Où ?", "bean": 3}, "bean"),
        ({"text": "Où ?", "n_best": 2}, "n_best"),
        ({"text": "Où ?", "beam": 64}, "beam"),
        ({"text": "Où ?", "partial": True}, "stream"),
        ({"text": "x" * 3000}, "characters"),
        ({"text": ["x"] * 200}, "at most"),
        ({"text": "Où ?", "length_penalty": "much"}, "length_penalty"),
    ],
)
def test_what_cannot_be_translated_is_refused_in_words(
    both: Served, body: dict[str, Any], problem: str
) -> None:
    error = error_of(both.client.post("/v1/translate", json=body), 422, "invalid")
    assert problem in error["message"]


def test_bodies_that_are_no_json_are_refused(both: Served) -> None:
    for content in (b"{", b"\xff\xfe", b"[1,", b'{"text": NaN}', b"[" * 10000):
        answer = both.client.post(
            "/v1/translate", content=content, headers={"content-type": "application/json"}
        )
        assert answer.status_code in (400, 422)
        assert answer.json()["error"]["message"]


def test_a_model_that_is_not_there_is_named(both: Served) -> None:
    answer = both.client.post("/v1/translate", json={"text": "Où ?", "model": "june"})
    assert "default" in error_of(answer, 404, "not_found")["message"]


def test_the_document_says_what_a_good_translation_is(both: Served) -> None:
    schemas = both.client.get("/openapi.json").json()["components"]["schemas"]
    meaning = schemas["Translation"]["properties"]["confidence"]["description"]
    assert f"a sentence chrF of {GOOD:g} or more" in " ".join(meaning.split())
