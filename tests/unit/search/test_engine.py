"""The engine: words, pictures and stored pictures find what a search by hand finds."""

import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from seqvis.collection.collection import Collection
from seqvis.collection.items import Item, check_ids
from seqvis.deadline import Deadline
from seqvis.devise.labels import WordNet, imagenet_classes, label_vectors
from seqvis.devise.model import DeviseModel
from seqvis.errors import (
    ArtifactError,
    BadPictureError,
    DataError,
    FilterSyntaxError,
    QueryError,
    SearchTimeoutError,
    UnknownWordError,
)
from seqvis.search.build import PictureItems
from seqvis.search.engine import SearchEngine
from seqvis.search.pictures import Candidates, ImageEncoder, find_candidates
from seqvis.search.requests import EncodedImage, NameSet
from seqvis.vectors.build import build_store
from seqvis.vectors.sources import open_source
from seqvis.vectors.store import WordVectors
from seqvis.vision.backbones import Embedded, load_recorded
from seqvis.vision.feature_table import FeatureTable
from tests.support.pictures import write_vec_file
from tests.support.searching import NAMES, UNSEEN, World, draw, train_small


@pytest.fixture(scope="module")
def engine(world: World) -> Iterator[SearchEngine]:
    with SearchEngine.open(world.collection) as opened:
        yield opened


def by_hand(world: World, query: np.ndarray) -> dict[str, float]:
    """The cosine of every picture, by the table's features and the model alone."""
    model, table = DeviseModel.open(str(world.model)), FeatureTable.open(str(world.features))
    rows = model.project(table.features).astype(np.float64)
    wanted = query.astype(np.float64) / np.linalg.norm(query)
    return dict(zip(table.paths, (rows @ wanted).tolist(), strict=True))


def point_of(world: World, word: str) -> np.ndarray:
    vector = WordVectors.open(str(world.vectors)).vector(word)
    assert vector is not None
    return DeviseModel.open(str(world.model)).project_words(vector[None])[0]


def assert_best(matches: list[tuple[str, float]], scores: dict[str, float], k: int) -> None:
    best = sorted(scores.values(), reverse=True)[:k]
    np.testing.assert_allclose([score for _, score in matches], best, atol=1e-5)
    for name, score in matches:
        assert scores[name] == pytest.approx(score, abs=1e-5)


@pytest.mark.parametrize("wnid", [wnid for wnid in NAMES if wnid != UNSEEN])
def test_a_word_finds_its_pictures(wnid: str, world: World, engine: SearchEngine) -> None:
    matches = engine.text(NAMES[wnid], k=8)
    assert_best([(m.id, m.score) for m in matches], by_hand(world, point_of(world, NAMES[wnid])), 8)
    assert sum(match.metadata["label"] == wnid for match in matches) >= 5  # a guess finds 1 or 2
    assert matches[0].metadata["name"] == NAMES[wnid]


def test_a_signed_sum_is_found_as_by_hand(world: World, engine: SearchEngine) -> None:
    wanted = 2 * point_of(world, "dog") - 0.5 * point_of(world, "boat")
    matches = engine.text("2 * dog - .5 * boat", k=20)
    assert_best([(m.id, m.score) for m in matches], by_hand(world, wanted), 20)


def test_scores_and_filters_limit_what_is_found(world: World, engine: SearchEngine) -> None:
    scores = by_hand(world, point_of(world, "cat"))
    least = sorted(scores.values())[-5] - 1e-4
    assert len(engine.text("cat", k=50, min_score=least)) == 5
    boats = engine.text("cat", k=50, where={"label": "n02858304"})
    assert {m.id for m in boats} == {p for p, wnid in world.labels.items() if wnid == "n02858304"}
    assert engine.text("cat", min_score=1.0) == []
    assert engine.text("cat", 50, where="label = n02858304 and width >= 1") == boats


def test_an_unknown_word_names_those_near_in_spelling(engine: SearchEngine) -> None:
    with pytest.raises(UnknownWordError, match="baot: has no word vector; did you mean boat"):
        engine.text("engine + baot")


def test_a_picture_finds_itself_first_as_its_stored_projection(
    world: World, engine: SearchEngine
) -> None:
    for path in list(world.pictures)[::17]:
        matches = engine.image(world.pictures[path], k=3)
        assert matches[0].id == path
        assert matches[0].score == pytest.approx(1.0, abs=2e-3)  # features are stored in float16


def test_a_new_picture_finds_those_of_its_kind(world: World, engine: SearchEngine) -> None:
    matches = engine.image(draw(2, seed=999), k=8)
    assert sum(match.metadata["name"] == "boat" for match in matches) >= 7


@pytest.mark.parametrize("content", [b"", b"no picture", b"\x89PNG\r\n\x1a\n" + b"0" * 99])
def test_what_is_no_picture_is_refused_with_its_reason(
    content: bytes, engine: SearchEngine
) -> None:
    with pytest.raises(QueryError, match="picture cannot be used"):
        engine.image(content)


def test_what_is_no_bytes_of_a_picture_says_what_to_pass(
    world: World, engine: SearchEngine, tmp_path: Path
) -> None:
    file = tmp_path / "boat.png"
    file.write_bytes(draw(2, 1))
    encoder = engine.pictures
    backbone = load_recorded(encoder.model.backbone_config, "model")
    for given in (str(file), file, file.open("rb"), None):
        with pytest.raises(TypeError, match=r"bytes of its file, not as .*read_bytes"):
            encoder.encode(given)
    with pytest.raises(QueryError, match=r"no picture .* has this id; .* the path as a Path"):
        engine.classify(str(file))
    for several in (encoder.encode_many, backbone.embed_files):
        for given in (str(file), file.read_bytes()):
            with pytest.raises(TypeError, match="pictures must be a list"):
                several(given)
        with pytest.raises(TypeError, match="bytes of its file"):
            several([str(file)])
    assert engine.image(bytearray(file.read_bytes()), k=1)


def test_warming_up_runs_the_network_for_each_number_of_pictures(
    engine: SearchEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone = engine.pictures._backbone
    embed = backbone.embed
    numbers: list[int] = []

    def noting(pictures: np.ndarray) -> Embedded:
        numbers.append(len(pictures))
        return embed(pictures)

    monkeypatch.setattr(backbone, "embed", noting)
    engine.pictures.warm_up((), together=3)
    assert numbers == [1, 2, 3]


def test_one_text_where_several_belong_is_refused(world: World, engine: SearchEngine) -> None:
    table = FeatureTable.open(str(world.features))
    store = WordVectors.open(str(world.vectors))
    calls: list[tuple[Callable[[], object], str]] = [
        (lambda: table.columns("label"), "columns must be a list"),
        (lambda: PictureItems(engine.pictures.model, table, "size"), "columns"),
        (lambda: label_vectors("dog", store, WordNet.load()), "labels"),
        (lambda: store.find("dog"), "words"),
        (lambda: engine.pictures.warm_up("labels"), "sets of candidates"),
        (lambda: check_ids("dog"), "ids"),
        (lambda: engine.text(["dog"]), "a query is one str, not list"),
        (lambda: engine.text(b"dog"), "a query is one str, not bytes"),
    ]
    for call, problem in calls:
        with pytest.raises(TypeError, match=problem):
            call()
    with pytest.raises(DataError, match="no set of candidates; there are labels, classes, wordnet"):
        engine.classify(world.pictures["000000.jpg"], candidates="everything")
    with pytest.raises(DataError, match="is no filter"):
        engine.text("dog", where=["label"])
    with pytest.raises(
        FilterSyntaxError, match=r"'dog' in the filter, at column 11: expected `and`"
    ):
        engine.text("dog", where="name=nice dog")


def test_words_are_placed_alike_without_torch(world: World, engine: SearchEngine) -> None:
    code = (
        "import json, sys\n"
        "from seqvis.search.words import WordEncoder\n"
        "print(json.dumps(WordEncoder.open(sys.argv[1]).encode('engine + boat').tolist()))\n"
        "assert not {'torch', 'ray', 'nmslib'} & set(sys.modules)\n"
    )
    command = [sys.executable, "-c", code, str(world.collection)]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert json.loads(printed) == engine.words.encode("engine + boat").tolist()


def test_a_bad_picture_does_not_spoil_the_batch_it_comes_in(world: World) -> None:
    pictures = ImageEncoder.open(world.collection)
    path, content = next(iter(world.pictures.items()))
    encoded = pictures.encode_many([b"no picture", content, b"", draw(3, seed=5)])
    assert [type(result) for result in encoded] == [BadPictureError, EncodedImage] * 2
    for error, reason in ((encoded[0], "not an image"), (encoded[2], "empty file")):
        assert isinstance(error, BadPictureError)
        assert error.reason == reason
    for result, alone in ((encoded[1], content), (encoded[3], draw(3, seed=5))):
        assert isinstance(result, EncodedImage)
        np.testing.assert_allclose(result.vector, pictures.encode(alone).vector, atol=1e-5)
        assert (result.width, result.height, result.thumbnail[:2]) == (80, 64, b"\xff\xd8")
    assert pictures.encode_many([]) == []
    assert pictures.classify(pictures.encode(content).vector, 1, "labels")[0].labels == (
        world.labels[path],
    )


def test_a_stored_picture_finds_the_others_but_not_itself(
    world: World, engine: SearchEngine
) -> None:
    for path in list(world.pictures)[::23]:
        item = engine.collection.get(path)
        assert item is not None
        scores = by_hand(world, item.vector)
        del scores[path]
        matches = engine.like(path, k=6)
        assert_best([(m.id, m.score) for m in matches], scores, 6)
    assert len(engine.like(path, k=10_000)) == len(world.pictures) - 1
    with pytest.raises(QueryError, match=r"nowhere\.jpg: no picture"):
        engine.like("nowhere.jpg")
    with pytest.raises(DataError, match="k is 0"):
        engine.like(path, k=0)


def test_a_picture_is_named_among_the_models_own_labels(world: World, engine: SearchEngine) -> None:
    words = engine.classify(draw(0, seed=77), k=6, candidates="labels")
    assert (words[0].name, words[0].labels, words[0].seen) == ("dog", ("n02084071",), True)
    assert {word.labels[0] for word in words if not word.seen} == {UNSEEN}
    stored = engine.classify("000000.jpg", k=1, candidates="labels")
    assert stored[0].name == "dog"


def test_classes_are_imagenets_and_wordnet_is_all_nouns(engine: SearchEngine) -> None:
    classes = {wnid for wnid, _ in imagenet_classes()}
    named = engine.classify("000000.jpg", k=1000, candidates="classes")
    assert {label for word in named for label in word.labels} <= classes
    nouns = engine.classify("000000.jpg", k=5, candidates="wordnet")
    assert nouns[0].name == "dog"
    assert "n02084071" in nouns[0].labels
    everything = engine.classify("000000.jpg", k=100_000, candidates="wordnet")
    assert {word.name for word in everything} >= {*NAMES.values(), "mink"}
    assert len({(word.name, word.score) for word in everything}) == len(everything)


def test_who_names_among_all_nouns_waits_for_them_no_longer_than_may_be(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    pictures = ImageEncoder.open(world.collection)
    picture = pictures.encode(world.pictures["000000.jpg"])
    go_on, calls = threading.Event(), []

    def slowly(*arguments: Any) -> Candidates:
        calls.append(arguments)
        if len(calls) == 1:
            raise OSError("a disk that is away for a while")
        assert go_on.wait(10)
        return find_candidates("labels", *arguments[1:])  # which are found at once

    monkeypatch.setattr("seqvis.search.pictures.find_candidates", slowly)
    with pytest.raises(OSError, match="away"):
        pictures.classify(picture.vector, 5, "wordnet")
    for _ in range(2):
        with pytest.raises(SearchTimeoutError):
            pictures.classify(picture.vector, 5, "wordnet", Deadline(0.05))
    assert pictures.encode(world.pictures["000001.jpg"]).vector.any()  # meanwhile
    go_on.set()
    assert pictures.classify(picture.vector, 5, "wordnet")[0].name == "dog"
    assert len(calls) == 2


@pytest.mark.parametrize("among", ["labels", "classes", "wordnet"])
def test_the_bonus_is_for_the_models_own_labels_alone(
    among: NameSet, world: World, engine: SearchEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen_picture = next(path for path, label in world.labels.items() if label != UNSEEN)
    before = engine.classify(seen_picture, k=6, candidates=among)
    monkeypatch.setattr(type(engine.pictures.model), "unseen_bonus", property(lambda model: 3.0))
    after = engine.classify(seen_picture, k=6, candidates=among)
    if among == "labels":
        assert not after[0].seen
        assert before[0].seen
    else:
        assert after == before


def test_the_bonus_lifts_unseen_names_but_not_their_scores() -> None:
    vectors = np.eye(3, dtype=np.float32)
    names = Candidates.of(["a", "b", "c"], ["1", "2", "3"], vectors, np.array([True, False, True]))
    point = np.array([0.7, 0.6, 0.1], np.float32)
    assert [word.name for word in names.nearest(point, 3, 0.0)] == ["a", "b", "c"]
    lifted = names.nearest(point, 3, 0.2)
    assert [word.name for word in lifted] == ["b", "a", "c"]
    assert lifted[0].score == pytest.approx(0.6)
    unseen = Candidates.of(["a", "b", "c"], ["1", "2", "3"], vectors, np.zeros(3, bool))
    assert [w.name for w in unseen.nearest(point, 3, 9.0)] == ["a", "b", "c"]


def test_names_that_share_a_vector_are_one_candidate_and_those_without_none() -> None:
    vectors = np.array([[1, 0], [0, 0], [1, 0], [0, 1]], np.float32)
    seen = np.array([False, True, True, False])
    names = Candidates.of(["mink", "x", "mink", "fur"], ["n1", "n2", "n3", "n4"], vectors, seen)
    assert names.names == ["mink", "fur"]
    assert names.labels == [("n1", "n3"), ("n4",)]
    assert names.seen.tolist() == [True, False]


def test_threads_find_what_one_finds(world: World) -> None:
    with SearchEngine.open(world.collection) as shared:
        wrong: list[object] = []

        def work(number: int) -> None:
            try:
                path = list(world.pictures)[number * 7]
                if shared.image(world.pictures[path], k=1)[0].id != path:
                    wrong.append(path)
                if shared.classify(path, k=1, candidates="wordnet")[0].score < 0.3:
                    wrong.append(path)
                if not shared.text("boat") or not shared.like(path):
                    wrong.append(number)
            except Exception as error:
                wrong.append(error)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert wrong == []


def test_a_collection_built_by_another_model_is_refused(world: World, tmp_path: Path) -> None:
    train_small(world.folder, tmp_path / "other", epochs=1)
    with pytest.raises(ArtifactError, match="was built by another model"):
        SearchEngine.open(world.collection, model=str(tmp_path / "other"))


def test_word_vectors_of_another_kind_are_refused(world: World, tmp_path: Path) -> None:
    lines = {word: np.ones(12) * number for number, word in enumerate(["dog", "cat"], 1)}
    file = write_vec_file(tmp_path / "words.vec", lines)
    build_store(open_source("vec", str(file)), str(tmp_path / "vectors"), {})
    with pytest.raises(ArtifactError, match="other word vectors"):
        SearchEngine.open(world.collection, vectors=str(tmp_path / "vectors"))
    (tmp_path / "short.vec").write_text("2 3\ndog 1 2 3\ncat 3 2 1\n")
    build_store(open_source("vec", str(tmp_path / "short.vec")), str(tmp_path / "short"), {})
    with pytest.raises(ArtifactError, match="dimension"):
        SearchEngine.open(world.collection, vectors=str(tmp_path / "short"))


def test_a_collection_of_another_dimension_is_refused(world: World, tmp_path: Path) -> None:
    config = {"model": str(world.model)}
    Collection.create(tmp_path / "flat", 3, "exact", config).close()
    with pytest.raises(ArtifactError, match="dimension 3"):
        SearchEngine.open(tmp_path / "flat")


def test_a_model_that_was_moved_is_asked_for(world: World, tmp_path: Path) -> None:
    with Collection.create(tmp_path / "c", 12, "exact", {"model": "/gone/model"}) as collection:
        collection.add([Item("a", np.ones(12))])
    with pytest.raises(ArtifactError, match="give --model"):
        SearchEngine.open(tmp_path / "c")
    with SearchEngine.open(tmp_path / "c", model=str(world.model)) as opened:
        assert [match.id for match in opened.text("dog")] == ["a"]
    with Collection.create(tmp_path / "d", 12, "exact") as collection:
        collection.add([Item("a", np.ones(12))])
    with pytest.raises(ArtifactError, match="does not say which model"):
        SearchEngine.open(tmp_path / "d")


def test_projected_items_are_those_of_the_whole_table(world: World) -> None:
    model, table = DeviseModel.open(str(world.model)), FeatureTable.open(str(world.features))
    items = list(PictureItems(model, table))
    assert [item.id for item in items] == table.paths
    expected = model.project(table.features)
    np.testing.assert_allclose(np.stack([item.vector for item in items]), expected, atol=1e-6)
    assert items[0].metadata == {
        "label": "n02084071",
        "name": "dog",
        "path": "000000.jpg",
        "width": 8,
        "height": 8,
    }
    assert items[0].thumbnail == table.thumbnails([0])[0]
    assert load_recorded(model.backbone_config, "here").image_size == 64
