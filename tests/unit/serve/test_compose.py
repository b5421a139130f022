"""What compose.yaml starts: files that exist, ports that match, flags that the server has."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from seqvis.config import load_yaml
from serve.app import Serve

PROJECT = Path(__file__).parents[3]
FOLDER = PROJECT / "docs/operate/compose"


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    parsed: dict[str, Any] = load_yaml(str(FOLDER / "compose.yaml"))
    return parsed


def mounts(service: dict[str, Any]) -> dict[str, str]:
    """Where a service finds what, by its path inside."""
    pairs = (entry.removesuffix(":ro").split(":") for entry in service["volumes"])
    return {inside: outside for outside, inside in pairs}


def test_every_file_and_volume_that_is_mounted_exists(compose: dict[str, Any]) -> None:
    for name, service in compose["services"].items():
        for outside in mounts(service).values():
            if outside == "./models":  # the operator's
                continue
            there = (FOLDER / outside).exists() if "/" in outside else outside in compose["volumes"]
            assert there, (name, outside)
        context = service.get("build", {}).get("context")
        assert context is None or (FOLDER / context / "Dockerfile").exists()


def test_images_are_of_the_ray_that_is_installed_and_of_fixed_versions(
    compose: dict[str, Any],
) -> None:
    ray = re.search(r"^ray==(\S+)", (PROJECT / "requirements.lock").read_text(), re.MULTILINE)
    assert ray
    server = compose["services"]["seqvis"]
    assert server["image"] == f"seqvis:{ray[1]}-cpu"
    assert server["build"]["args"]["BASE"] == f"rayproject/ray:{ray[1]}-py311"
    arguments = set(re.findall(r"^ARG (\w+)", (PROJECT / "Dockerfile").read_text(), re.MULTILINE))
    assert set(server["build"]["args"]) <= arguments
    for service in compose["services"].values():
        assert re.search(r":v?\d+\.\d+", service["image"])


def test_the_server_is_started_with_flags_that_it_has_and_with_keys(
    compose: dict[str, Any],
) -> None:
    words = compose["services"]["seqvis"]["command"].split()
    assert words[:3] == ["python", "-m", "serve.app"]
    flags = dict(zip(words[3::2], words[4::2], strict=True))
    settings = Serve.model_validate(
        {
            name.removeprefix("--").replace("-", "_"): (value,)
            if name == "--model-roots"
            else value
            for name, value in flags.items()
        }
    )
    assert settings.host == "0.0.0.0"
    assert settings.keys == "/models/keys.yaml"
    assert settings.model_roots == ("/models",)


def test_nothing_is_open_to_other_machines(compose: dict[str, Any]) -> None:
    for service in compose["services"].values():
        for port in service.get("ports", ()):
            assert port.startswith("127.0.0.1:")


def test_each_finds_the_next_where_it_listens(compose: dict[str, Any]) -> None:
    services = compose["services"]
    published = {
        port.split(":")[1]: name
        for name, service in services.items()
        for port in service.get("ports", ())
    }
    # Ray's metrics and Prometheus, which looks from inside, share the server's network.
    assert services["prometheus"]["network_mode"] == "service:seqvis"
    assert published == {"8000": "seqvis", "9090": "seqvis", "3000": "grafana"}
    source = load_yaml(str(FOLDER / "grafana-datasource.yaml"))["datasources"][0]
    assert (source["type"], source["url"]) == ("prometheus", "http://seqvis:9090")
    assert source["isDefault"]  # the dashboard's choice of a source begins with it


def test_grafana_finds_the_dashboard_and_prometheus_its_rules(compose: dict[str, Any]) -> None:
    services = compose["services"]
    (provider,) = load_yaml(str(FOLDER / "grafana-dashboards.yaml"))["providers"]
    dashboards = [
        FOLDER / outside
        for inside, outside in mounts(services["grafana"]).items()
        if inside.startswith(provider["options"]["path"] + "/")
    ]
    assert [path.resolve() for path in dashboards] == [PROJECT / "serve/grafana.json"]
    assert json.loads(dashboards[0].read_text())["uid"]
    config = load_yaml(str(FOLDER / "prometheus.yml"))
    inside = mounts(services["prometheus"])
    for rules in config["rule_files"]:
        outside = FOLDER / inside[f"/etc/prometheus/{rules}"]
        assert outside.resolve() == PROJECT / "serve/alerts.yaml"
    (job,) = config["scrape_configs"]
    (targets,) = job["file_sd_configs"][0]["files"]
    assert inside["/tmp/ray"] == mounts(services["seqvis"])["/tmp/ray"] == "ray"
    assert targets == "/tmp/ray/prom_metrics_service_discovery.json"  # as Ray writes it


@pytest.mark.skipif(not shutil.which("promtool"), reason="no promtool: apt-get install prometheus")
def test_prometheus_itself_accepts_the_configuration(tmp_path: Path) -> None:
    (tmp_path / "prometheus.yml").write_text((FOLDER / "prometheus.yml").read_text())
    (tmp_path / "alerts.yaml").write_text((PROJECT / "serve/alerts.yaml").read_text())
    subprocess.run(["promtool", "check", "config", tmp_path / "prometheus.yml"], check=True)
