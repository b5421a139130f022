"""Where models may come from, and that nobody is asked before that is clear."""

import json
import time
from pathlib import Path

import pytest
from pydantic import ValidationError

from seqvis.cli.job import JobSettings, run_job
from seqvis.errors import DataError, redacted
from seqvis.storage import locate
from seqvis.translation.translator import Translator
from serve.common.http import ApiError
from serve.common.settings import GatewaySettings, Roots, place_of
from serve.common.versions import Version, change
from tests.support.serving import listener, served


def allowed(root: str, path: str) -> bool:
    try:
        Roots([root]).check("new", path, [])
    except ApiError:
        return False
    return True


# Places


def test_a_local_path_must_lie_inside_of_a_root(tmp_path: Path) -> None:
    root = tmp_path / "models"
    (root / "june").mkdir(parents=True)
    (tmp_path / "models-of-others").mkdir()
    for inside in ("", "june", "june/", "./june", "july/../june", "nowhere/yet"):
        assert allowed(str(root), f"{root}/{inside}"), inside
    for outside in ("..", "../models-of-others", "../models-of-others/x", "june/../../x"):
        assert not allowed(str(root), f"{root}/{outside}"), outside
    assert not allowed(str(root), "/etc")
    assert not allowed(str(root), "models/june")
    assert allowed(str(root), f"file://{root}/june")
    assert not allowed(str(root), f"file://{root}/%2e%2e/x")
    assert not allowed(str(root), f"{root}/june\n")


def test_links_are_followed_before_paths_are_compared(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "models" / "link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "alias").symlink_to(tmp_path / "models")
    root = str(tmp_path / "models")
    assert not allowed(root, f"{root}/link")
    assert not allowed(root, f"{root}/link/x")
    assert allowed(root, str(tmp_path / "alias" / "june"))
    assert allowed(str(tmp_path / "alias"), f"{root}/june")


@pytest.mark.parametrize(
    ("path", "right"),
    [
        ("s3://bucket/models/june", True),
        ("S3://bucket/models/june", True),
        ("s3://bucket/models", True),
        ("s3://bucket/models/a%20b/", True),
        ("s3://bucket/models-of-others", False),
        ("s3://bucket/models/../secret", False),
        ("s3://bucket/models/%2e%2e/secret", False),
        ("s3://bucket/models%2f..%2fsecret", False),
        ("s3://bucket/models//june", False),
        ("s3://bucket/other", False),
        ("s3://bucket", False),
        ("s3://Bucket/models/june", False),
        ("s3://other/models/june", False),
        ("s3://bucket:9000/models/june", False),
        ("gs://bucket/models/june", False),
        ("://bucket/models/june", False),
        ("s3:///bucket/models/june", False),
        ("bucket/models/june", False),
        ("/bucket/models/june", False),
        ("s3://bucket/models/june?region=eu", False),
        ("s3://bucket/models/june?", False),
        ("s3://bucket/models/june#x", False),
        ("s3://user@bucket/models/june", False),
        ("s3://a:b@bucket/models/june", False),
        ("s3://evil\\@bucket/models/june", False),
        ("s3://bucket\t/models/june", False),
        (" s3://bucket/models/june", False),
        ("s3://[bucket/models/june", False),
        ("file://bucket/models/june", False),
    ],
)
def test_a_uri_must_have_the_scheme_bucket_and_prefix_of_a_root(path: str, right: bool) -> None:
    assert allowed("s3://bucket/models", path) == right


def test_a_whole_bucket_may_be_a_root() -> None:
    for root in ("s3://bucket", "s3://bucket/"):
        assert allowed(root, "s3://bucket/x")
        assert not allowed(root, "s3://bucket2/x")


def test_roots_with_options_are_refused_when_the_settings_are_read() -> None:
    for root in ("s3://a:b@bucket/models", "s3://bucket/models?region=eu"):
        with pytest.raises(ValidationError, match="plain paths and URIs"):
            GatewaySettings(model_roots=(root,))
    assert GatewaySettings(model_roots=("s3://bucket/models", "models"))


def test_by_default_models_come_from_beside_the_served_ones(tmp_path: Path) -> None:
    served = [str(tmp_path / "models" / "june"), "s3://a:b@bucket/models/june?region=eu"]
    roots = Roots()
    roots.check("new", str(tmp_path / "models" / "july"), served)
    roots.check("new", "s3://bucket/models/july", served)
    for path in (str(tmp_path / "other"), "s3://bucket/other"):
        with pytest.raises(ApiError, match="model_roots") as caught:
            roots.check("new", path, served)
        assert caught.value.status == 403
        assert "b@" not in str(caught.value)
    with pytest.raises(ApiError, match="none"):
        roots.check("new", "/etc", [])


def test_the_whole_disk_is_never_a_root_by_default() -> None:
    assert str(place_of("/translator").above()) == "/translator"
    with pytest.raises(ApiError):
        Roots().check("new", "/etc", ["/translator"])


# The interface


def test_a_listener_that_a_path_names_as_a_store_is_asked_if_the_path_is_opened() -> None:
    """The attack itself: else the next test would pass whatever the gateway does."""
    with listener() as (port, arrived):
        where = f"s3://a:pw@bucket/x?scheme=http&endpoint_override=127.0.0.1:{port}&region=x"
        with pytest.raises(Exception, match="bucket"):
            locate(where).exists()
        assert arrived


def test_a_path_that_names_a_host_is_refused_at_once_and_the_host_is_not_asked(
    translator: Translator, caplog: pytest.LogCaptureFixture
) -> None:
    first = translator.artifact.location.uri
    with served(first, None) as running, listener() as (port, arrived):
        where = f"127.0.0.1:{port}"
        for path in (
            f"s3://a:pw@bucket/x?scheme=http&endpoint_override={where}",
            f"s3://bucket/x?scheme=http&endpoint_override={where}",
            f"s3://a:pw@{where}/x",
            f"s3://{where}/x",
            f"gs://anonymous@bucket/x?scheme=http&endpoint_override={where}",
            f"hdfs://{where}/x",
            f"file://{where}/x",
        ):
            wanted = {"versions": [{"name": "new", "path": path}]}
            began = time.monotonic()
            answer = running.client.put("/v1/models/translator", json=wanted)
            assert time.monotonic() - began < 1.0
            assert answer.status_code in (403, 422), answer.text
            assert answer.json()["error"]["code"] in ("forbidden", "invalid")
            assert "pw" not in answer.text
            assert "pw" not in caplog.text
        live = running.client.get("/v1/models").json()["translator"]["versions"]
        assert [version["name"] for version in live] == ["default"]
    assert not arrived


def test_models_come_from_the_configured_roots_alone(
    translator: Translator, tmp_path: Path
) -> None:
    first = translator.artifact.location.uri
    (tmp_path / "linked").symlink_to(first)
    linked = {"versions": [{"name": "new", "path": str(tmp_path / "linked")}]}
    outside = {"versions": [{"name": "new", "path": str(tmp_path)}]}
    with served(first, None, model_roots=(str(tmp_path),)) as running:
        put = running.client.put
        refused = put("/v1/models/translator", json=linked)
        assert refused.status_code == 403
        assert str(tmp_path) in refused.json()["error"]["message"]
        # What the operator made live may stay live, wherever it lies.
        both = {"versions": [{"name": "again", "path": first}]}
        assert put("/v1/models/translator", json=both).status_code == 200
    with served(first, None) as running:
        put = running.client.put
        assert put("/v1/models/translator", json=outside).status_code == 403
        assert put("/v1/models/translator", json=linked).status_code == 200


def test_passwords_of_live_paths_are_not_shown(translator: Translator) -> None:
    with served(translator.artifact.location.uri, None) as running:
        secret = Version(name="new", path="s3://a:pw@bucket/x?client_secret=pw2&region=eu")
        change(running.store, "translator", [secret])
        running.client.portal.call(running.live.refresh)
        shown = running.client.get("/v1/models")
        assert "s3://***@bucket/x?client_secret=***&region=eu" in shown.text
        assert "pw" not in shown.text


# Passwords


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("s3://a:b@bucket/x: no such file", "s3://***@bucket/x: no such file"),
        ("'s3://AKIA:a/b+c@bucket/x'", "'s3://***@bucket/x'"),
        ("s3://a:b c@bucket/x", "s3://***@bucket/x"),
        ("of s3://token@bucket and gs://a:b@c", "of s3://***@bucket and gs://***@c"),
        ("s3://b/x?region=eu&secret_key=s&a=1", "s3://b/x?region=eu&secret_key=***&a=1"),
        ("s3://b/x?endpoint_override=http://u:p@h", "s3://b/x?endpoint_override=***"),
        ("https://h/x?X-Amz-Signature=ab&sig=cd", "https://h/x?X-Amz-Signature=***&sig=***"),
        ("s3://bucket/a@b/x?region=eu", "s3://bucket/a@b/x?region=eu"),
        ("write to a:b@c.example", "write to a:b@c.example"),
        ("http://127.0.0.1:8000/v1/images?id=boat.jpg", "http://127.0.0.1:8000/v1/images?id=boat.jpg"),
    ],
)  # fmt: skip
def test_what_uris_hold_of_secrets_is_not_shown(text: str, shown: str) -> None:
    assert redacted(text) == shown
    assert redacted(shown) == shown
    assert str(DataError(text)) == shown


def test_long_texts_are_looked_through_in_no_time() -> None:
    began = time.monotonic()
    for text in ("://" * 100_000, "a" * 300_000 + "://", "s3://a:" * 50_000, "?a=b" * 90_000):
        redacted(f"://{text}")
    assert time.monotonic() - began < 5.0


def test_a_location_that_cannot_be_opened_is_named_without_its_password() -> None:
    for text in ("s3://a:pw@/x", "s3://a:p w@bucket/x", "bad://a:pw@h/x", "s3://a:pw@b/x?bogus=1"):
        with pytest.raises(DataError, match="not a location") as caught:
            locate(text)
        assert "pw" not in str(caught.value)
        assert "p w" not in str(caught.value)


class Job(JobSettings):
    """Reads."""

    source: str
    """Where from."""


def test_a_job_prints_no_password_in_its_result_or_its_errors(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(settings: Job) -> None:
        raise DataError(f"{settings.source}: is empty")

    flags = ["--source", "s3://a:pw@bucket/x"]
    assert run_job(Job, lambda settings: {"out": settings.source}, flags) == 0
    assert run_job(Job, fail, flags) == 1
    printed = capsys.readouterr()
    assert json.loads(printed.out) == {"out": "s3://***@bucket/x"}
    assert printed.err == "error: s3://***@bucket/x: is empty\n"
