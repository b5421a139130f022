"""Artifacts go to the Hugging Face Hub and come back, through a stand-in of its HTTP interface."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import constants

from jobs.push_to_hub import main as push_to_hub
from jobs.translate import main as translate
from seqvis import artifacts
from seqvis.collection.collection import Collection
from seqvis.collection.shards import split
from seqvis.devise.model import DeviseModel
from seqvis.errors import ArtifactError, ConfigError, DataError, StorageError
from seqvis.hub.push import push
from seqvis.search.engine import SearchEngine
from seqvis.storage import locate
from seqvis.translation.translator import Translator
from tests.support.hub import OWNER, READER, Hub
from tests.support.searching import World
from tests.unit.conftest import Job

ROOT = Path(__file__).parents[3]
QUESTION = "Où travaille ta sœur ?"


def front_matter(card: bytes) -> dict[str, Any]:
    front: dict[str, Any] = yaml.safe_load(card.decode().split("---\n")[1])
    return front


def test_a_translator_comes_back_as_it_went(hub: Hub, translator: Translator) -> None:
    commit = translator.push_to_hub("org/fr-en", license="apache-2.0")
    assert commit.startswith(f"{hub.url}/org/fr-en/commit/")
    assert not hub.repositories["org/fr-en"].private
    assert "model.safetensors" in hub.repositories["org/fr-en"].large
    again = Translator.from_pretrained("org/fr-en")
    assert again.artifact.fingerprint() == translator.artifact.fingerprint()
    assert again.translate(QUESTION).text == translator.translate(QUESTION).text
    translator.push_to_hub("org/fr-en", license="mit")  # over what is there
    assert front_matter(hub.files("org/fr-en")["README.md"])["license"] == "mit"


def test_the_card_says_what_the_manifest_says(hub: Hub, translator: Translator) -> None:
    translator.push_to_hub("org/fr-en", license="apache-2.0")
    card = hub.files("org/fr-en")["README.md"]
    artifact = translator.artifact
    front = front_matter(card)
    assert front["language"] == ["fr", "en"]
    assert front["license"] == "apache-2.0"
    assert front["library_name"] == "seqvis"
    assert front["pipeline_tag"] == "translation"
    assert "seqvis" in front["tags"]
    (model,) = front["model-index"]
    (result,) = model["results"]
    scores = {metric["type"]: metric["value"] for metric in result["metrics"]}
    assert scores["bleu"] == pytest.approx(artifact.metrics["bleu"], abs=1e-4)
    text = card.decode()
    assert artifact.metrics["signature"] in text
    assert f"| BLEU | {artifact.metrics['bleu']:.4g} |" in text
    assert "1,500 pairs of sentences of the corpus `corpus`" in text
    assert "](curves.png)" in text
    assert "curves.png" in hub.files("org/fr-en")
    settings = yaml.safe_load(re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)[0])
    assert settings["epochs"] == 3
    assert settings["model"]["hidden_size"] == 24
    assert str(Path.home()) not in text
    assert str(artifact.location.path) not in text
    assert "## Limits" in text


def test_the_snippets_of_a_card_run(hub: Hub, translator: Translator, tmp_path: Path) -> None:
    translator.push_to_hub("org/fr-en")
    text = hub.files("org/fr-en")["README.md"].decode()
    (snippet,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    environment = {**os.environ, "HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home")}
    ran = subprocess.run(
        [sys.executable, "-c", snippet], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stderr
    sentence = re.findall(r'translate\("(.*)"\)', snippet)[0]
    assert ran.stdout == f"{translator.translate(sentence).text}\n"


def test_jobs_take_what_is_on_the_hub_and_the_cache_serves_without_a_network(
    hub: Hub, translator: Translator, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    translator.push_to_hub("org/fr-en", revision="v1")
    hub.change("org/fr-en", "README.md", b"main has no artifact")
    model = "hf://org/fr-en@v1"
    assert translate(["--model", model, QUESTION]) == 0
    expected = f"{translator.translate(QUESTION).text}\n"
    assert capsys.readouterr().out == expected
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    template = "http://127.0.0.1:9/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    assert translate(["--model", model, QUESTION]) == 0
    assert capsys.readouterr().out == expected
    monkeypatch.setattr(time, "sleep", lambda _: None)  # between its five attempts
    assert translate(["--model", "hf://org/other", QUESTION]) == 1
    said = capsys.readouterr().err
    assert re.fullmatch(r"error: hf://org/other: \S+ cannot be reached, and .*\n", said)


def test_a_private_model_needs_the_token_of_its_owner(
    hub: Hub, translator: Translator, monkeypatch: pytest.MonkeyPatch
) -> None:
    translator.push_to_hub("org/secret", private=True)
    assert hub.repositories["org/secret"].private
    assert Translator.from_pretrained("org/secret").translate(QUESTION).text
    shutil.rmtree(constants.HF_HUB_CACHE)
    for token, reason in (
        (READER, "the token that is set may not read it"),
        ("", "needs HF_TOKEN"),
    ):
        monkeypatch.setenv("HF_TOKEN", token)
        with pytest.raises(ArtifactError, match=rf"^hf://org/secret: is not on .*{reason}"):
            Translator.from_pretrained("org/secret")


def test_a_head_needs_its_vectors_and_its_manifest_says_where_they_are(
    hub: Hub, world: World, job: Job
) -> None:
    flags = ("--artifact", world.vectors, "--name", "org/vectors")
    code, result, said = job(push_to_hub, *flags)
    assert (code, result["uri"]) == (0, "hf://org/vectors"), said
    model = DeviseModel.open(str(world.model))
    model.push_to_hub("org/alone")
    text = hub.files("org/alone")["README.md"].decode()
    assert "**It does not work alone.** Its word vectors, `vectors`, must be had" in text
    model.push_to_hub("org/head", needs="hf://org/vectors")
    assert "The word vectors that it works with, `hf://org/vectors`, will" in (
        hub.files("org/head")["README.md"].decode()
    )
    again = DeviseModel.from_pretrained("org/head")
    assert again.artifact.fingerprint() == model.artifact.fingerprint()
    assert again.vectors_uri == "hf://org/vectors"
    front = front_matter(hub.files("org/head")["README.md"])
    assert front["pipeline_tag"] == "zero-shot-image-classification"
    flags = ("--artifact", world.collection, "--name", "org/drawings", "--needs", "hf://org/head")
    code, result, said = job(push_to_hub, *flags)
    assert (code, result["kind"]) == (0, "collection"), said
    with SearchEngine.open("hf://org/drawings") as engine:
        names = [match.id for match in engine.text("dog", 3)]
        assert engine.words.model.artifact.location.uri == "hf://org/head"
    with SearchEngine.open(world.collection) as engine:
        assert [match.id for match in engine.text("dog", 3)] == names


def test_a_collection_is_read_from_the_hub_and_restored_from_it(
    hub: Hub, world: World, tmp_path: Path
) -> None:
    with Collection.open(world.collection, read_only=True) as collection:
        collection.push_to_hub("org/drawings")
        ids = sorted(collection.ids())
        assert f"- items: {len(ids):,}" in hub.files("org/drawings")["README.md"].decode()
    with Collection.from_pretrained("org/drawings") as published:
        assert published.read_only
        assert sorted(published.ids()) == ids
    with Collection.restore("hf://org/drawings", tmp_path / "own") as own:
        assert own.delete(ids[:1]) == 1
    shutil.rmtree(constants.HF_HUB_CACHE)
    with Collection.open(tmp_path / "own", verify=True) as own:
        assert sorted(own.ids()) == ids[1:]


def test_a_sharded_collection_is_published_shard_by_shard(
    hub: Hub, world: World, tmp_path: Path, job: Job
) -> None:
    split(world.collection, 2, tmp_path / "shards")
    code, _, said = job(push_to_hub, "--artifact", tmp_path / "shards", "--name", "org/shards")
    assert code == 2
    assert "is a sharded collection; publish its directories shard-000" in said
    code, _, said = job(
        push_to_hub, "--artifact", tmp_path / "shards" / "shard-001", "--name", "org/shard-1"
    )
    assert code == 0, said
    assert len(Collection.from_pretrained("org/shard-1"))


def test_a_name_that_does_not_exist_is_one_clear_line(hub: Hub, job: Job) -> None:
    code, _, said = job(translate, "--model", "hf://org/none", QUESTION)
    assert (code, len(said.splitlines())) == (1, 1)
    assert said.startswith(f"error: hf://org/none: is not on {hub.url}, or ")
    code, _, said = job(translate, "--model", "hf://org/a/b", QUESTION)
    assert (code, len(said.splitlines())) == (2, 1)
    assert "needs the form hf://ORGANISATION/REPOSITORY" in said


def test_a_revision_that_does_not_exist_and_a_repository_of_others_are_named(
    hub: Hub, translator: Translator
) -> None:
    translator.push_to_hub("org/fr-en")
    with pytest.raises(ArtifactError, match=r"^hf://org/fr-en@v9: has no such branch, tag or"):
        Translator.from_pretrained("org/fr-en", revision="v9")
    hub.change("org/fr-en", "manifest.json", None)
    with pytest.raises(ArtifactError, match=r"holds no manifest.json, so no job of seqvis"):
        Translator.from_pretrained("org/fr-en")
    with pytest.raises(DataError):
        artifacts.load("hg://org/fr-en", "translator")


def test_a_strangers_files_are_checked_and_none_outside_the_folder_is_written(
    hub: Hub, translator: Translator, tmp_path: Path
) -> None:
    translator.push_to_hub("org/fr-en")
    hub.change("org/fr-en", "huge.bin", b"not the model's")
    Translator.from_pretrained("org/fr-en")
    assert not list((tmp_path / "cache").rglob("huge.bin"))
    original = hub.files("org/fr-en")["source.vocab"]
    hub.change("org/fr-en", "source.vocab", original[::-1])
    with pytest.raises(ArtifactError, match="was altered since it was made"):
        Translator.from_pretrained("org/fr-en")
    hub.change("org/fr-en", "source.vocab", original)
    manifest = json.loads(hub.files("org/fr-en")["manifest.json"])
    outside = "../../../../../stolen.txt"
    manifest["files"][outside] = {"size": 1, "sha256": "0" * 64}
    hub.change("org/fr-en", outside, b"x")
    hub.change("org/fr-en", "manifest.json", json.dumps(manifest).encode())
    with pytest.raises(ArtifactError, match=r"names a file outside its directory .* do not trust"):
        Translator.from_pretrained("org/fr-en")
    assert not list(tmp_path.rglob("stolen.txt"))
    hub.change("org/fr-en", "manifest.json", json.dumps({**manifest, "files": {}}).encode())
    with pytest.raises(ArtifactError, match="is a translator, but a devise is needed"):
        DeviseModel.from_pretrained("org/fr-en")


def test_publishing_without_a_token_or_the_right_to_write_says_what_to_do(
    hub: Hub, translator: Translator, job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = translator.artifact.location.path
    monkeypatch.setenv("HF_TOKEN", "")
    code, _, said = job(push_to_hub, "--artifact", place, "--name", "org/fr-en")
    assert code == 2
    assert said == (
        "error: org/fr-en: no token; set HF_TOKEN to one that may write, or run `hf auth login`\n"
    )
    monkeypatch.setenv("HF_TOKEN", READER)
    code, _, said = job(push_to_hub, "--artifact", place, "--name", "org/fr-en")
    assert code == 1
    assert re.fullmatch(r"error: hf://org/fr-en: \S+ refuses \(403\); set HF_TOKEN to .*\n", said)
    monkeypatch.setenv("HF_TOKEN", OWNER)
    assert not hub.repositories
    for needs, reason in (("hf://org/x", "needs nothing else"), ("runs/x", "needs nothing else")):
        with pytest.raises(ConfigError, match=reason):
            translator.push_to_hub("org/fr-en", needs=needs)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(StorageError, match=r"^hf://org/fr-en: .* cannot be reached"):
        translator.push_to_hub("org/fr-en")


def test_secrets_of_the_settings_are_not_published(hub: Hub, translator: Translator) -> None:
    artifact = translator.artifact
    secret = {**artifact.config, "corpus": "s3://user:hunter2@bucket/corpus?secret_key=hunter2"}
    push(type(artifact)(**{**vars(artifact), "config": secret}), "org/fr-en")
    files = hub.files("org/fr-en")
    assert b"hunter2" not in files["manifest.json"] + files["README.md"]
    assert json.loads(files["manifest.json"])["config"]["corpus"].startswith("s3://***@bucket/c")


def test_the_hub_is_no_place_to_write_to(hub: Hub, translator: Translator) -> None:
    translator.push_to_hub("org/fr-en")
    with pytest.raises(ArtifactError, match="is not written to directly; give --out a directory"):
        artifacts.check_destination(locate("hf://org/fr-en"), "translator")


def test_a_missing_extra_is_named(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    code, _, said = job(translate, "--model", "hf://org/fr-en", QUESTION)
    assert code == 2
    assert "huggingface_hub: not installed; pip install 'seqvis[hub]' brings" in said
