"""LibreTranslate's own client against the interface, on a real port."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import ExitStack
from typing import Any
from urllib.error import HTTPError

import pytest
import requests
from libretranslatepy import LibreTranslateAPI

from seqvis.errors import BusyError
from seqvis.translation.translator import Translator
from serve.common.keys import KeyHolder, Keys, sha256_of
from serve.common.services import TranslatorService
from serve.common.settings import GatewaySettings, TranslateOptions, Version
from serve.common.versions import configure, version_key
from serve.gateway.live import LiveModels
from serve.gateway.routes import build_api
from tests.support.serving import MemoryStore, Served, listening

JUNE, JULY = Version(name="june", path="a"), Version(name="july", path="b")


class Shouting(TranslatorService):
    """Knows two languages, and translates by capitals; `busy` has no place."""

    def __init__(self, pairs: dict[Version, tuple[str, str]]):
        self._pairs = {version_key(version): pair for version, pair in pairs.items()}
        self.asked: list[tuple[str, list[str]]] = []

    async def describe(self) -> dict[str, Any]:
        versions = {
            key: {"source_language": source, "target_language": target}
            for key, (source, target) in self._pairs.items()
        }
        return {"versions": versions, "refused": {}}

    async def try_version(self, version: Version) -> None:
        raise NotImplementedError

    async def translate(
        self, version: str, texts: Sequence[str], options: TranslateOptions
    ) -> list[dict[str, Any]]:
        self.asked.append((version.partition("=")[0], list(texts)))
        if "busy" in texts:
            raise BusyError("the queue is full", 7.0)
        return [
            {
                "text": text.upper(),
                "refused": None,
                "candidates": [{"text": f"{text.upper()} {n}"} for n in range(options.n_best)],
            }
            for text in texts
        ]

    def stream(
        self, version: str, texts: Sequence[str], options: TranslateOptions
    ) -> AsyncIterator[dict[str, Any]]:
        raise NotImplementedError

    async def detect(self, version: str, texts: Sequence[str]) -> list[dict[str, float]]:
        source, target = self._pairs[version]
        return [{target: 0.25, source: 0.875} for _ in texts]


def running(
    stack: ExitStack, translator: Shouting, versions: Sequence[Version], keys: Keys | None = None
) -> str:
    store = MemoryStore()
    configure(store, "translator", list(versions))
    live = LiveModels(store, translator, None)
    asyncio.run(live.refresh())
    return stack.enter_context(
        listening(build_api(live, GatewaySettings(), keys, lambda seen: None))
    )


@pytest.fixture(scope="module")
def shouting() -> Shouting:
    return Shouting({JUNE: ("fr", "en")})


@pytest.fixture(scope="module")
def address(shouting: Shouting) -> Iterator[str]:
    with ExitStack() as stack:
        yield running(stack, shouting, [JUNE])


def post(address: str, path: str = "/translate", **body: Any) -> requests.Response:
    return requests.post(address + path, json={"source": "fr", "target": "en", **body}, timeout=10)


def test_its_client_translates_detects_and_lists_languages(address: str) -> None:
    client = LibreTranslateAPI(address)
    assert client.translate("Où est le chat ?", "fr", "en") == "OÙ EST LE CHAT ?"
    assert client.translate("Qui chante ?", "auto", "en") == "QUI CHANTE ?"
    assert client.languages() == [{"code": "fr", "name": "French", "targets": ["en"]}]
    assert client.detect("Où est le chat ?") == [
        {"language": "fr", "confidence": 87.5},
        {"language": "en", "confidence": 25.0},
    ]


def test_its_client_works_with_a_real_translator(both: Served, translator: Translator) -> None:
    text = "Où est le chat ?"
    with listening(both.client.app) as address:
        client = LibreTranslateAPI(address)
        assert client.translate(text, "fr", "en") == translator.translate([text])[0].text
        assert client.languages()[0]["targets"] == ["en"]
        french, english = client.detect(text), client.detect("Where is the cat?")
    assert [found["language"] for found in french] == ["fr", "en"]
    assert french[0]["confidence"] == 100.0
    assert english[0]["language"] == "en"


def test_its_client_sends_its_key_in_the_body(shouting: Shouting) -> None:
    keys = Keys(
        [
            KeyHolder(name="may", sha256=sha256_of("may"), scopes=("translate",)),
            KeyHolder(name="not", sha256=sha256_of("not"), scopes=("search",)),
        ]
    )
    with ExitStack() as stack:
        address = running(stack, shouting, [JUNE], keys)
        client = LibreTranslateAPI(address, "may")
        assert client.translate("Qui ?", "fr", "en") == "QUI ?"
        assert client.languages()[0]["code"] == "fr"
        assert client.detect("Qui ?")[0]["language"] == "fr"
        files = {name: (None, value) for name, value in {"q": "Qui ?", "api_key": "may"}.items()}
        assert requests.post(f"{address}/detect", files=files, timeout=10).status_code == 200
        header = {"authorization": "Bearer may"}
        assert requests.get(f"{address}/languages", headers=header, timeout=10).status_code == 200
        for key, problem in ((None, "valid API key"), ("bad", "valid API key"), ("not", "scope")):
            with pytest.raises(HTTPError) as caught:
                LibreTranslateAPI(address, key).translate("Qui ?", "fr", "en")
            assert caught.value.code == 403
            assert problem in json.loads(caught.value.read())["error"]
        assert (
            requests.get(f"{address}/v1/models", data={"api_key": "may"}, timeout=10).status_code
            == 401
        )


def test_several_texts_alternatives_and_lines(address: str, shouting: Shouting) -> None:
    answer = post(address, q=["un", " deux\n\ntrois "], source="auto", alternatives=2).json()
    assert answer["translatedText"] == ["UN", " DEUX\n\nTROIS "]
    assert answer["alternatives"] == [
        ["UN 1", "UN 2"],
        [" DEUX 1\n\nTROIS 1 ", " DEUX 2\n\nTROIS 2 "],
    ]
    assert answer["detectedLanguage"] == [{"language": "fr", "confidence": 87.5}] * 2
    assert shouting.asked[-1] == ("june", ["un", "deux", "trois"]), "in one call"
    assert post(address, q="\n").json() == {"translatedText": "\n"}


def test_of_html_only_the_text_is_translated(address: str) -> None:
    html = (
        '<p class="a">le chat &amp; l\'eau <b>noire</b></p>\n<br/>'
        "<script>if (a < b) c()</script><style>p {}</style><!-- rien -->fin"
    )
    assert post(address, q=html, format="html").json()["translatedText"] == (
        '<p class="a">LE CHAT &amp; L\'EAU <b>NOIRE</b></p>\n<br/>'
        "<script>if (a < b) c()</script><style>p {}</style><!-- rien -->FIN"
    )


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        ({"q": "un", "source": "de"}, "de to en is not supported here; there are: fr to en"),
        ({"q": "un", "target": "es"}, "fr to es is not supported here"),
        ({}, "q: "),
        ({"q": "un", "format": "pdf"}, "format"),
        ({"q": "un", "alternatives": 8}, "at most 7"),
        ({"q": ["un"] * 200}, "128 at most"),
        ({"q": "x" * 3000}, "2,000 characters"),
    ],
)
def test_what_cannot_be_translated_is_400_in_its_form(
    address: str, body: dict[str, Any], problem: str
) -> None:
    answer = post(address, **body)
    assert answer.status_code == 400, answer.text
    assert list(answer.json()) == ["error"]
    assert problem in answer.json()["error"]


def test_other_refusals_have_its_form_too(address: str) -> None:
    busy = post(address, q="busy")
    assert (busy.status_code, busy.headers["retry-after"]) == (503, "7")
    assert busy.json() == {"error": "the queue is full"}
    for content in (b"{", b"[]"):
        headers = {"content-type": "application/json"}
        bad = requests.post(f"{address}/translate", data=content, headers=headers, timeout=10)
        assert (bad.status_code, list(bad.json())) == (400, ["error"])
    other = requests.get(f"{address}/translate", timeout=10)
    assert (other.status_code, list(other.json())) == (405, ["error"])


def test_of_two_pairs_the_one_that_is_asked_for_answers() -> None:
    two = Shouting({JUNE: ("fr", "en"), JULY: ("de", "en")})
    with ExitStack() as stack:
        address = running(stack, two, [JUNE, JULY])
        for source, name in (("fr", "june"), ("de", "july")):
            assert post(address, q="un", source=source).status_code == 200
            assert two.asked[-1][0] == name
        codes = [each["code"] for each in requests.get(f"{address}/languages", timeout=10).json()]
        assert codes == ["fr", "de"]
