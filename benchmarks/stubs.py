"""Deployments that do nothing, to measure what is around them."""

from collections.abc import Sequence
from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel
from ray import serve

from seqvis.config import Settings
from serve.settings import Version
from serve.versions import HeadStore, configure, version_key
from serve.work import Work

_VERSION = Version(name="default", path="stub")
_TRANSLATION = {
    "source": "Où travaille ta sœur ?",
    "source_tokens": ["_cap_", "où", "travaille", "ta", "sœur", "?"],
    "text": "Where does your sister work?",
    "candidates": [
        {
            "text": "Where does your sister work?",
            "tokens": ["_cap_", "where", "does", "your", "sister", "work", "?"],
            "score": -0.1629,
            "complete": True,
            "attention": None,
        }
    ],
}
ANSWER = {"model": "default", "translations": [_TRANSLATION]}


class NoSettings(Settings):
    """There is nothing to set."""


class StubTranslator:
    """Answers as the translator's replica does, at once."""

    def __init__(self) -> None:
        configure(HeadStore(), "translator", [_VERSION])

    async def translate(
        self, version: str, texts: Sequence[str], work: Work
    ) -> list[dict[str, Any]]:
        return [_TRANSLATION for _ in texts]

    async def describe(self) -> dict[str, Any]:
        return {"versions": {version_key(_VERSION): {}}, "refused": {}}


api = FastAPI()


class Asked(BaseModel):
    text: str


@serve.ingress(api)
class Empty:
    """An empty FastAPI deployment: the same answer, with nothing behind it."""

    @api.post("/v1/translate")
    async def translate(self, asked: Asked) -> dict[str, Any]:
        return ANSWER


def translator(settings: NoSettings) -> serve.Application:
    """The application `translator`, with nothing in it."""
    options = {"num_cpus": 0.1}
    deployment = serve.deployment(
        name="Translator", max_ongoing_requests=256, ray_actor_options=options
    )(StubTranslator)
    return deployment.bind()


def empty(settings: NoSettings) -> serve.Application:
    """An application of the one empty deployment."""
    options = {"num_cpus": 0.1}
    deployment = serve.deployment(
        name="Empty", max_ongoing_requests=256, ray_actor_options=options
    )(Empty)
    return deployment.bind()
