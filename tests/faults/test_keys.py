"""Who may not change models from where: files of keys of before, and paths that name a host."""

import json
import time
from pathlib import Path

import pytest
import requests
import yaml

from serve.app import main
from serve.common.keys import sha256_of
from serve.testing.server import RunningServer
from tests.faults.conftest import Translators
from tests.support.serving import listener

pytestmark = [pytest.mark.ray, pytest.mark.slow]

SOON = 1.0  # seconds in which a refusal must come


def test_a_file_of_keys_of_before_is_refused_with_what_to_add(
    translators: Translators, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    keys = tmp_path / "keys.yaml"
    keys.write_text(yaml.safe_dump([{"name": "old", "sha256": sha256_of("old")}]))
    began = time.monotonic()
    assert main(["--translator", translators.first, "--keys", str(keys)]) == 2
    assert time.monotonic() - began < SOON
    (line,) = capsys.readouterr().err.splitlines()
    assert "entry 1: old: has no scopes; add scopes: [translate, search, write]" in line
    assert "--legacy-keys" in line


def test_a_model_path_that_names_a_host_is_refused_and_the_host_not_asked(
    server: RunningServer,
) -> None:
    server.wait_ready()
    with listener() as (port, arrived):
        option = f"scheme=http&endpoint_override=127.0.0.1:{port}"
        for path, status in (
            (f"s3://a:pw@bucket/x?{option}", 422),
            (f"s3://bucket/x?{option}", 422),
            (f"s3://127.0.0.1:{port}/x", 403),
        ):
            for application in ("translator", "search"):
                wanted = {"versions": [{"name": "new", "path": path}]}
                where = f"{server.address}/v1/models/{application}"
                answer = requests.put(where, json=wanted, timeout=5)
                assert answer.elapsed.total_seconds() < SOON
                assert answer.status_code == status, answer.text
                assert "pw" not in answer.text
        assert not arrived
    lines = [line for line in server.audit_lines() if line["action"] == "models"]
    assert [line["outcome"] for line in lines[-6:]] == [*4 * ["invalid"], *2 * ["forbidden"]]
    assert "pw" not in json.dumps(lines)
