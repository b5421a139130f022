"""The project's own client against real models, on a real port."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from seqvis.client import (
    Client,
    Found,
    NewPicture,
    NotFoundError,
    RefusedError,
    Search,
    UnreachableError,
)
from seqvis.search.engine import SearchEngine
from seqvis.translation.translator import Translator
from tests.support.searching import draw
from tests.support.serving import Served, listening
from tests.support.waiting import wait_until

TEXTS = ["Où est le chat ?", "Qui chante ?", "Où travaille ta sœur ?"]


@pytest.fixture(scope="module")
def client(both: Served) -> Iterator[Client]:
    with listening(both.client.app) as address, Client(address, timeout=20) as real:
        yield real


def test_it_translates_one_or_several_or_a_stream(client: Client, translator: Translator) -> None:
    expected = [translation.text for translation in translator.translate(TEXTS)]
    assert str(client.translate(TEXTS[0])) == expected[0]
    assert [translation.text for translation in client.translate(TEXTS)] == expected
    two = client.translate(TEXTS[0], beam=3, n_best=2, attention=True)
    assert len(two.candidates) == 2
    attention = two.candidates[0].attention
    assert attention is not None
    assert len(attention[0]) == len(two.source_tokens) + 1
    streamed = list(client.stream(TEXTS, partial=True))
    texts = {item.index: str(item.translation) for item in streamed if item.translation}
    assert [texts[number] for number in range(3)] == expected
    assert any(item.partial for item in streamed)
    with pytest.raises(RefusedError, match="beam is 64"):
        client.translate(TEXTS[0], beam=64)
    with pytest.raises(RefusedError, match="at most"):
        next(client.stream(["x" * 3000]))


def test_it_searches_and_names_pictures(client: Client, collection: Path, tmp_path: Path) -> None:
    file = tmp_path / "a.png"
    file.write_bytes(draw(2, seed=999))
    with SearchEngine.open(collection) as engine:
        words = [match.id for match in engine.text("dog - 0.5 * boat", 7)]
        alike = [match.id for match in engine.image(file.read_bytes(), 4)]
    found = client.search_text("dog - 0.5 * boat", 7)
    assert [match.id for match in found.matches] == words
    assert (found.model, found.read_as) == ("default", "dog - 0.5 * boat")
    assert client.thumbnail(found.matches[0].id)[:2] == b"\xff\xd8"
    for picture in (file, file.read_bytes()):
        assert [match.id for match in client.search_image(picture, 4).matches] == alike
    where = {"label": "n02121620"}
    for few in (client.search_text("boat", where=where), client.search_image(file, where=where)):
        assert {match.metadata["label"] for match in few.matches} == {"n02121620"}
    like = client.search_like("000003.jpg", 3)
    named = client.classify(id="000003.jpg", k=2)
    assert len(like.matches) == 3
    assert named == client.classify(id="000003.jpg", k=3)[:2]
    assert len(client.classify(file, k=2, candidates="labels")) == 2
    several = client.search_many(
        [Search("boat"), Search(id="000003.jpg", k=3), Search("baot"), Search(id="none.jpg")]
    )
    assert several[:2] == [client.search_text("boat"), like]
    assert isinstance(several[2], RefusedError)
    assert "boat" in several[2].problem["suggestions"]
    assert isinstance(several[3], NotFoundError)
    with pytest.raises(RefusedError) as caught:
        client.search_text("baot")
    assert (caught.value.status, caught.value.code) == (422, "unknown_word")


def test_it_adds_lists_and_deletes_pictures(client: Client, tmp_path: Path) -> None:
    before = {picture.id for picture in client.scroll(limit=7)}
    assert (
        client.add(draw(1, seed=1), "one/a.png", name="first", metadata={"by": "me"}) == "one/a.png"
    )
    damaged = tmp_path / "damaged.png"
    damaged.write_bytes(b"no picture")
    pictures = [
        *(NewPicture(draw(2, seed=100 + number), f"many/{number}") for number in range(10)),
        NewPicture(damaged, "many/damaged"),
        NewPicture(tmp_path / "missing.png", "many/missing"),
        NewPicture(b"x" * (13 << 20), "many/large"),
        NewPicture(draw(1, seed=2), "one/a.png"),
    ]
    added = list(client.add_many(iter(pictures), together=4, in_flight=2))
    assert [result.id for result in added] == [picture.id for picture in pictures]
    assert [result.status for result in added[:10]] == ["added"] * 10
    assert [(each.status, each.error and each.error["code"]) for each in added[10:]] == [
        ("refused", "bad_picture"),
        ("refused", "unreadable"),
        ("refused", "too_large"),
        ("replaced", None),
    ]
    names = {"one/a.png", *(f"many/{number}" for number in range(10))}

    def listed() -> set[str]:
        return {picture.id for picture in client.scroll(limit=7)}

    wait_until(lambda: listed() == before | names, "the change does not show", 2.0)
    assert [picture.id for picture in client.scroll({"label": "n02858304"}, limit=5)] == [
        picture.id for picture in client.scroll() if picture.metadata["label"] == "n02858304"
    ]
    assert all(client.delete(name) for name in names)
    assert not client.delete("one/a.png")


def test_pictures_are_read_no_further_ahead_than_they_are_sent(client: Client) -> None:
    read: list[int] = []

    def pictures() -> Iterator[NewPicture]:
        for number in range(1000):
            read.append(number)
            yield NewPicture(b"no picture", f"ahead/{number}")

    results = client.add_many(pictures(), together=2, in_flight=2)
    assert next(results).status == "refused"
    results.close()  # type: ignore[attr-defined]
    assert len(read) <= 7


def test_it_shows_and_changes_models(client: Client, translator: Translator) -> None:
    models = client.models()
    path = translator.artifact.location.uri
    assert models["translator"].versions[0].ready
    assert models["search"].versions[0].about["items"] > 0
    changed = client.change_models("translator", [{"name": "default", "path": path}])
    assert [version.path for version in changed.versions] == [path]
    assert client.ready()
    with pytest.raises(NotFoundError, match="june"):
        client.translate("Où ?", model="june")
    nobody = Client("http://127.0.0.1:1", retries=0)
    assert not nobody.ready()
    with pytest.raises(UnreachableError):
        nobody.models()


def test_a_search_is_comparable_whoever_asks(both: Served, client: Client) -> None:
    def same() -> bool:
        answer = both.client.post("/v1/search/text", json={"query": "boat"}).json()
        return Found.read(answer) == client.search_text("boat")

    wait_until(same, "the answers differ", 5)  # between two, the index may load a change
