"""A translator that begins with all of another one's weights, or with a part of them."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from seqvis.errors import ArtifactError, ConfigError
from seqvis.samples.questions import generate_pairs
from seqvis.seq2seq.model import Seq2Seq
from seqvis.storage import locate
from seqvis.text.languages import Languages
from seqvis.training.checkpoints import CheckpointStore
from seqvis.translation.task import TrainSettings, TranslationTask
from seqvis.translation.train import train
from seqvis.translation.translator import Translator
from tests.support.corpora import write_corpus
from tests.unit.conftest import SMALL

WORDS = ("encoder.embedding.weight", "decoder.embedding.weight", "decoder.projection.bias")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small translator, its corpus, and another corpus of other words."""
    folder = tmp_path_factory.mktemp("warm")
    pairs = generate_pairs(330, seed=3)
    write_corpus(folder / "corpus", pairs[200:], pairs[:30])
    write_corpus(folder / "other", [*pairs[30:150], ("zèbre ?", "zebra ?")] * 2, pairs[:30])
    train(settings(folder, "corpus", out=str(folder / "donor"), epochs=1), lambda event: None)
    return folder


def settings(folder: Path, corpus: str, **changes: Any) -> TrainSettings:
    given = {"corpus": str(folder / corpus), "out": str(folder / "out"), "variant": "all"}
    return TrainSettings(**SMALL | given | changes)


def begun(
    folder: Path, corpus: str = "corpus", **changes: Any
) -> tuple[dict[str, torch.Tensor], list[str]]:
    task = TranslationTask(settings(folder, corpus, **changes).resolved())
    torch.manual_seed(5)
    model = task.build_model()
    assert isinstance(model, Seq2Seq)
    return dict(model.named_parameters()), task.begins_at_random()


def names_that_are(donor: Translator, own: dict[str, torch.Tensor]) -> set[str]:
    theirs = dict(donor.model.named_parameters())
    return {name for name, tensor in own.items() if torch.equal(tensor, theirs[name])}


def test_all_or_a_part_is_taken_and_the_rest_is_random(folder: Path) -> None:
    donor, uri = Translator.load(str(folder / "donor")), str(folder / "donor")
    own, notes = begun(folder, init=uri)
    assert (names_that_are(donor, own), notes) == (set(own), [])
    for part in ("encoder", "decoder"):
        own, notes = begun(folder, **{f"init_{part}": uri})
        taken = {name for name in own if name.startswith(f"{part}.")}
        assert 0 < len(taken) < len(own)
        assert (names_that_are(donor, own), notes) == (taken, [])


def test_words_are_matched_as_text(folder: Path) -> None:
    uri = str(folder / "donor")
    donor = Translator.load(uri)
    theirs = dict(donor.model.named_parameters())
    own, notes = begun(folder, "other", init=uri)
    random, _ = begun(folder, "other")
    languages = TranslationTask(settings(folder, "other").resolved()).languages
    new = {"source": 0, "target": 0}
    for name in WORDS:
        side = "source" if name.startswith("encoder") else "target"
        known = vocabulary(donor.languages, side)
        for row, word in enumerate(vocabulary(languages, side)):
            if word in known:
                assert torch.equal(own[name][row], theirs[name][known.index(word)]), word
            else:
                new[side] += name.endswith("embedding.weight")
                assert torch.equal(own[name][row], random[name][row]), word
    assert "zebra" in vocabulary(languages, "target")
    assert new["source"] > 0 < new["target"]
    assert notes == [
        f"--init: does not know {new[side]} of {len(vocabulary(languages, side))} {side} words, "
        f"which begin at random"
        for side in ("source", "target")
    ]


def vocabulary(languages: Languages, side: str) -> list[str]:
    chosen = languages.source_vocabulary if side == "source" else languages.target_vocabulary
    return list(chosen.words)


def test_a_part_that_the_other_lacks_begins_at_random(folder: Path) -> None:
    uri = str(folder / "donor")
    _, notes = begun(folder, init=uri, model=SMALL["model"] | {"readout": "context"})
    missing = "decoder.readout.weight, decoder.readout.bias"
    assert notes == [f"--init: lacks these weights, so they begin at random: {missing}"]
    own, notes = begun(folder, init=uri, variant="bidir")  # the donor's attention is left out
    assert names_that_are(Translator.load(uri), own) == set(own)
    assert notes == []


def test_a_decoder_of_the_other_direction_is_mentioned(folder: Path) -> None:
    uri = str(folder / "donor")
    for name, mentioned in (("init", True), ("init_decoder", True), ("init_encoder", False)):
        _, notes = begun(folder, direction="right-to-left", **{name: uri})
        flag = "--" + name.replace("_", "-")
        assert (
            any(note.startswith(f"{flag}: its decoder writes left-to-right") for note in notes)
            is mentioned
        )


def test_thawing_without_another_model_is_refused(folder: Path) -> None:
    for thaw in ({"epochs": 1.0}, {"rate_factor": 0.5}):
        with pytest.raises(ValueError, match=r"--thaw\.\*: .* give that one by --init, --init-enc"):
            settings(folder, "corpus", thaw=thaw)


@pytest.mark.parametrize("name", ["init", "init_encoder", "init_decoder"])
def test_other_sizes_are_refused_before_anything_is_trained(folder: Path, name: str) -> None:
    flag = "--" + name.replace("_", "-")
    wider = SMALL["model"] | {"embedding_size": 48}
    other = settings(folder, "corpus", model=wider, **{name: str(folder / "donor")})
    with pytest.raises(ConfigError, match=rf"^{flag} .*donor: .* has shape .* of --model"):
        train(other, lambda event: None)
    with pytest.raises(ArtifactError, match="corpus"):
        train(settings(folder, "corpus", **{name: str(folder / "corpus")}), lambda event: None)
    assert not (folder / "out.run").exists()


def test_a_training_goes_on_from_there_and_resumes_without_beginning_again(folder: Path) -> None:
    uri = str(folder / "donor")
    still = {"learning_rate": 1e-12, "divisor": 1.0}
    warm = settings(folder, "corpus", init=uri, out=str(folder / "warm"), epochs=1, optimizer=still)
    notes: list[str] = []
    metrics = train(warm, lambda event: notes.append(event.get("text", "")))
    donor = Translator.load(uri)
    assert metrics["loss"] == pytest.approx(donor.artifact.metrics["loss"], rel=1e-4)
    again = warm.model_copy(update={"epochs": 2})
    train(again, lambda event: notes.append(event.get("text", "")))
    assert any("going on from" in note for note in notes)


def test_a_checkpoint_that_does_not_name_what_was_donated_asks_the_donor(
    folder: Path, tmp_path: Path
) -> None:
    """As those of earlier versions."""
    chosen = settings(
        folder, "corpus", out=str(tmp_path / "out"), init=str(folder / "donor"), epochs=1
    )
    train(chosen, lambda event: None)
    store = CheckpointStore(locate(tmp_path / "out.run" / "checkpoints"))
    newest = store.latest()
    assert newest is not None
    snapshot = store.read(newest)
    state = json.loads(json.dumps(snapshot.state))
    assert state["identity"].pop("donated")
    assert state["identity"].pop("init").startswith("given (")
    store.save(type(snapshot)(snapshot.tensors, state), state["progress"]["step"], set())
    store.wait()
    train(chosen.model_copy(update={"epochs": 2}), lambda event: None)
    again = store.latest()
    assert again is not None
    names = dict(Translator.load(str(folder / "donor")).model.named_parameters())
    assert store.read(again).state["identity"]["donated"] == sorted(names)


def test_lower_layers_of_the_donor_thaw_later_and_move_less(folder: Path) -> None:
    uri = str(folder / "donor")
    thaw = {"rate_factor": 0.5, "epochs": 2.0}
    task = TranslationTask(settings(folder, "corpus", init_encoder=uri, thaw=thaw).resolved())
    model = task.build_model()
    names = {parameter: name for name, parameter in model.named_parameters()}
    groups = task.parameter_groups(model)
    assert [(group.factor, group.frozen_epochs) for group in groups] == [
        (1.0, 0.0),
        (0.5, 2.0),
        (0.25, 4.0),
        (0.125, 6.0),
    ]
    parts = [{names[parameter] for parameter in group.parameters} for group in groups]
    assert set.union(*parts) == set(names.values())
    assert {name for name in parts[0] if name.startswith("encoder.")} == {
        name for name in names.values() if name.startswith("encoder.bridges")
    }
    assert all(name.startswith("encoder.layers.1.") for name in parts[1])
    assert all(name.startswith("encoder.layers.0.") for name in parts[2])
    assert parts[3] == {"encoder.embedding.weight"}


def test_a_frozen_layer_stays_as_it_was_until_it_thaws(folder: Path) -> None:
    out, uri = folder / "thawed", str(folder / "donor")
    donor = dict(Translator.load(uri).model.named_parameters())
    chosen = settings(
        folder, "corpus", init=uri, out=str(out), thaw={"epochs": 0.6}, epochs=1,
        fit=SMALL["fit"] | {"monitor": "loss"},
    )  # fmt: skip
    train(chosen, lambda event: None)
    trained = dict(Translator.load(str(out)).model.named_parameters())
    still = {name for name, tensor in trained.items() if torch.equal(tensor, donor[name])}
    lower = [name for name in trained if ".layers.0." in name or ".embedding." in name]
    assert still == set(lower)  # the second layers thaw at 0.6, the first ones at 1.2 epochs
