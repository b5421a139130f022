"""Models that are switched in over HTTP."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from seqvis.decoding.beam import DecodingSettings
from seqvis.translation.translator import Translator
from tests.support.serving import Served, error_of, served


def test_a_new_model_is_tried_then_switched_in_and_a_bad_one_refused(
    translator: Translator, tmp_path: Path
) -> None:
    first = translator.artifact.location.uri
    with served(first, None, model_roots=(str(tmp_path),)) as running:
        client = running.client
        (tmp_path / "broken").mkdir()
        (tmp_path / "broken" / "manifest.json").write_text("{}")
        bad = {"versions": [{"name": "bad", "path": str(tmp_path / "broken")}]}
        error = error_of(client.put("/v1/models/translator", json=bad), 422, "bad_artifact")
        assert "bad" in error["message"]
        assert client.post("/v1/translate", json={"text": "Où ?"}).json()["model"] == "default"
        two = {
            "versions": [
                {"name": "june", "path": first, "share": 3},
                {"name": "july", "path": first, "share": 1},
            ]
        }
        live = client.put("/v1/models/translator", json=two).json()
        assert [version["ready"] for version in live["versions"]] == [True, True]
        names = [
            client.post("/v1/translate", json={"text": "Où ?"}).json()["model"] for _ in range(60)
        ]
        assert 30 <= names.count("june") < 60
        assert names.count("june") + names.count("july") == 60
        body = {"text": "Où ?", "model": "july"}
        assert client.post("/v1/translate", json=body).json()["model"] == "july"


def test_several_models_are_switched_in_as_an_ensemble(
    translator: Translator, tmp_path: Path
) -> None:
    first = translator.artifact.location.uri
    other = shutil.copytree(translator.artifact.location.path, tmp_path / "other")
    together = {"versions": [{"name": "both", "path": [first, str(other)]}]}
    body = {"text": "Où est le chat ?", "beam": 2}
    with served(first, None) as running:
        client = running.client
        assert client.put("/v1/models/translator", json=together).status_code == 403
    with served([first, str(other)], None, model_roots=(str(tmp_path),)) as running:
        client = running.client
        expected = client.post("/v1/translate", json=body).json()
        assert expected["model"] == "default"
        assert client.put("/v1/models/translator", json=together).status_code == 200
        answer = client.post("/v1/translate", json=body).json()
        assert (answer["model"], answer["translations"]) == ("both", expected["translations"])
        (live,) = client.get("/v1/models").json()["translator"]["versions"]
        assert (live["path"], live["ready"]) == ([first, str(other)], True)
        alone = Translator.load(first).translate(body["text"], DecodingSettings(beam=2))
        assert answer["translations"][0]["text"] == alone.text  # of two equal models


def test_several_collections_do_not_work_together(both: Served, collection: Path) -> None:
    several = {"versions": [{"name": "two", "path": [str(collection)] * 2}]}
    refused = error_of(both.client.put("/v1/models/search", json=several), 422, "bad_artifact")
    assert "two: needs one path" in refused["message"]


@pytest.mark.parametrize(
    "versions",
    [
        [],
        [{"name": "a", "path": "x"}, {"name": "a", "path": "y"}],
        [{"name": "a", "path": "x", "share": 0}],
        [{"name": "a b", "path": "x"}],
        [{"name": "a", "path": "x", "sahre": 1}],
    ],
)
def test_versions_that_make_no_sense_are_refused(
    both: Served, versions: list[dict[str, Any]]
) -> None:
    answer = both.client.put("/v1/models/translator", json={"versions": versions})
    error_of(answer, 422, "invalid")
