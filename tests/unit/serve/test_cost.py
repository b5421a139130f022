"""What a request to translate may cost: known before it begins, bounded, and charged to its key."""

import time
from collections.abc import Iterator
from typing import Any

import pytest

from seqvis.decoding.cost import count_words
from seqvis.samples.questions import generate_pairs
from seqvis.text.tokenizers import TokenizerSettings, load_tokenizer
from seqvis.translation.translator import Translator
from serve.common.http import ApiError
from serve.common.keys import KeyHolder, Keys, sha256_of
from serve.common.settings import Limits
from serve.gateway.checks import check_texts, most_cost
from serve.gateway.schema import TranslateRequest
from tests.support.serving import Served, served

TEXTS = [pair[0] for pair in generate_pairs(128, seed=31)]
TWENTY = " ".join(" ".join(TEXTS).split()[:20])
LIMITS = Limits()
HOSTILE = ["l'" * 1000, "." * 2000, "a " * 1000, "\u4e00" * 2000, "x{" * 1000, "\U0001f600" * 2000]


def cost_in(body: dict[str, Any]) -> float:
    """How many requests it counts as."""
    request = TranslateRequest.model_validate(body)
    texts = [request.text] if isinstance(request.text, str) else request.text
    return check_texts(texts, request, LIMITS).work / LIMITS.work_per_request


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Où est le chat ?", 5),
        ("l'" * 3, 6),
        ("anticonstitutionnellement", 4),
        ("猫在哪里？", 5),
        ("", 0),
    ],
)
def test_words_and_marks_are_counted_and_long_words_more_than_once(text: str, words: int) -> None:
    assert count_words(text) == words


@pytest.mark.parametrize("language", ["fr", "en"])
def test_the_count_is_about_what_the_model_reads(language: str) -> None:
    tokenizer = load_tokenizer(TokenizerSettings(language=language, case_token=True))
    for pair in generate_pairs(200, seed=5):
        text = pair[language == "en"]
        tokens = len(tokenizer.tokenize(text))
        assert tokens / 2 <= count_words(text) <= 2 * tokens


@pytest.mark.parametrize("beam", [1, 4, 8])
def test_requests_of_ordinary_size_pass(beam: int) -> None:
    assert cost_in({"text": TWENTY, "beam": beam, "n_best": beam, "attention": True}) <= 1
    assert cost_in({"text": TWENTY[:20], "beam": beam}) <= 1
    assert 1 < cost_in({"text": [TWENTY] * 128, "beam": beam}) < 80
    assert cost_in({"text": [TWENTY] * 12_800, "beam": beam, "stream": True}) < 8000
    assert cost_in({"text": " ".join([TWENTY] * 8), "beam": 5, "n_best": 3, "attention": True})


@pytest.mark.parametrize(
    ("more", "lower"),
    [
        ({"text": ["l'" * 120] * 128, "beam": 8}, ["texts", "shorter", "beam"]),
        ({"text": [TWENTY] * 128, "n_best": 8, "beam": 8, "attention": True}, ["n_best"]),
        ({"text": ["ok", "l'" * 200]}, ["text 2", "400", "256"]),
    ],
)
def test_what_is_too_much_says_what_to_lower(more: dict[str, Any], lower: list[str]) -> None:
    with pytest.raises(ApiError) as refused:
        cost_in(more)
    assert refused.value.status == 422
    assert all(word in str(refused.value) for word in lower), refused.value


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_texts_are_refused_before_any_is_read(text: str) -> None:
    began = time.process_time()
    with pytest.raises(ApiError):
        cost_in({"text": [text] * 128, "beam": 8, "n_best": 8, "attention": True})
    with pytest.raises(ApiError):
        cost_in({"text": text})
    assert time.process_time() - began < 0.1


def test_the_longest_stream_is_counted_in_a_second() -> None:
    began = time.process_time()
    with pytest.raises(ApiError):
        cost_in({"text": ["l'" * 120] * 12_800, "beam": 8, "stream": True})
    assert time.process_time() - began < 1


def test_what_attention_an_answer_has_is_bounded_whatever_is_asked() -> None:
    """Six bytes a weight in JSON: less than three megabytes."""
    request = TranslateRequest(text="", beam=8, n_best=8, attention=True)
    assert most_cost(request, LIMITS).weights * 6 < 3 << 20


# At the translator itself


@pytest.fixture(scope="module")
def running(translator: Translator) -> Iterator[Served]:
    """What its gateway lets through is far more than its translator takes."""
    limits = Limits(characters=100_000, words=100_000, work=10**12, attention=10**12)
    with served(translator.artifact.location.uri, None, limits=limits) as opened:
        yield opened


def error_of(response: Any) -> str:
    assert response.status_code == 422, response.text
    assert response.json()["error"]["code"] == "invalid"
    return str(response.json()["error"]["message"])


def test_a_text_of_too_many_tokens_is_refused_when_it_is_read(running: Served) -> None:
    body = {"text": [TEXTS[0], "l'" * 1000], "beam": 8}
    began = time.monotonic()
    assert "tokens" in error_of(running.client.post("/v1/translate", json=body))
    assert time.monotonic() - began < 5
    assert running.client.post("/v1/translate", json={"text": TEXTS[0]}).status_code == 200


def test_a_stream_that_is_refused_in_the_middle_says_so_in_its_last_line(running: Served) -> None:
    body = {"text": [TEXTS[0], "l'" * 1000, *TEXTS], "stream": True}
    response = running.client.post("/v1/translate", json=body)
    if response.status_code == 200:  # else the second text was read before the first was translated
        last = response.text.splitlines()[-1]
        assert '"code": "invalid"' in last
        assert "tokens" in last
    else:
        assert "tokens" in error_of(response)


def test_the_translator_counts_tokens_and_holds_a_request_to_its_limit(
    translator: Translator,
) -> None:
    """The gateway counts 130 words; the model reads a case token before each."""
    limits = Limits(work=25_000)
    text = "LE CHAT " * 35
    with served(translator.artifact.location.uri, None, limits=limits) as opened:
        tokens = len(translator.languages.read(text).tokens)
        message = error_of(opened.client.post("/v1/translate", json={"text": [text, text]}))
    assert tokens >= 70
    assert "fewer texts" in message


# Keys


def test_a_heavy_request_is_charged_to_its_key_as_several(translator: Translator) -> None:
    key = "k" * 30
    holder = KeyHolder(
        name="a",
        sha256=sha256_of(key),
        scopes=["translate"],
        requests_per_minute=6,
        burst=6,
    )
    body = {"text": TEXTS[:20], "beam": 8}
    cost = cost_in(body)
    assert 3 < cost < 6
    with served(translator.artifact.location.uri, None, Keys([holder])) as opened:
        headers = {"X-API-Key": key}

        def ask(body: dict[str, Any]) -> Any:
            return opened.client.post("/v1/translate", json=body, headers=headers)

        assert ask(body).status_code == 200
        again = ask(body)
        assert again.status_code == 429
        assert f"counts as {cost:.0f}" in again.json()["error"]["message"]
        wait = int(again.headers["retry-after"])
        # six a minute; what came first has taken its cost, and this refusal a request
        assert wait == pytest.approx(10 * (2 * cost - 5), abs=2)
        left = [ask({"text": TEXTS[0]}).status_code for _ in range(6)]
        assert left.count(200) == int(5 - cost)
