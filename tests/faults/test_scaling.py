"""serve/config/gpu.yaml on logical GPUs: what computes there grows under load and shrinks again.

`adapted` names everything that differs from the file. Two cores stand in for the GPUs
(SEQVIS_GPU_DEVICE), so few requests are normal for a replica, and few clients leave the processors
to the replicas that start.
"""

import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from serve.app import free_port
from serve.testing.clients import Kind, Request, Traffic
from serve.testing.server import QUICK_AUTOSCALING, ROOT, RunningServer, run_config
from serve.testing.traffic import RETRIES, searching
from tests.faults.conftest import QUERIES, SCALING, TEXTS, Collections, Translators

pytestmark = [pytest.mark.ray, pytest.mark.slow]
HOST = """
import ray, subprocess, sys
node = ray.init(address="local", num_cpus=32, num_gpus=2, include_dashboard=False)
serve = [sys.argv[1], "run", "--address", node.address_info["gcs_address"], sys.argv[2]]
sys.exit(subprocess.call(serve))
"""
"""A node that says that it has two GPUs, and the applications of a file on it."""
ON_GPUS = ("Translator", "Encoder", "Index-0")


def adapted(config: dict[str, Any], translator: str, collection: Path) -> dict[str, Any]:
    """The file for these artifacts, at a loopback address, with one replica to be added."""
    config["http_options"] |= {"host": "127.0.0.1", "port": free_port()}
    translation, search, gateway = config["applications"]
    translation["args"]["model"] = translator
    search["args"] |= {"collection": str(collection), "shards": 1}
    search["deployments"] = [
        each for each in search["deployments"] if each["name"] in ("Writer", *ON_GPUS)
    ]
    gateway["args"] |= {"host": "127.0.0.1", "keys": None, "model_roots": []}
    for deployment in translation["deployments"] + search["deployments"]:
        if scaling := deployment.get("autoscaling_config"):
            scaling |= {
                "target_ongoing_requests": scaling["target_ongoing_requests"] / 128,
                "max_replicas": scaling["min_replicas"] + 1,
                **SCALING,
                "downscale_delay_s": 2,
            }
    return config


def test_what_computes_on_gpus_grows_under_load_and_shrinks_after_it(
    translators: Translators, collections: Collections, tmp_path: Path
) -> None:
    file = ROOT / "serve" / "config" / "gpu.yaml"
    config = adapted(yaml.safe_load(file.read_text()), translators.first, collections.first)
    command = [sys.executable, "-c", HOST, str(Path(sys.executable).parent / "serve")]
    command.append(str(tmp_path / "logs" / "config.yaml"))
    environment = {**QUICK_AUTOSCALING, "SEQVIS_GPU_DEVICE": "cpu"}
    least = {
        deployment["name"]: deployment["autoscaling_config"]["min_replicas"]
        for application in config["applications"]
        for deployment in application["deployments"]
        if deployment["name"] in ON_GPUS
    }
    translate = Request("/v1/translate", {"text": TEXTS[:16], "beam": 4})
    picture = Request("/v1/search/image", form={"file": collections.picture, "k": "5"})
    kinds = {
        "translate": Kind(lambda number: translate, 6, None, RETRIES),
        "picture": Kind(lambda number: picture, 3, None, RETRIES),
        "search": searching(QUERIES, 4),
    }
    with run_config(config, tmp_path / "logs", environment, command) as server:
        wait_for(server, least)
        with Traffic(server.address, kinds):
            wait_for(server, {name: count + 1 for name, count in least.items()})
        assert all(kind.outcome.good() for kind in kinds.values())
        wait_for(server, least)


def wait_for(server: RunningServer, replicas: dict[str, int]) -> None:
    for name, count in replicas.items():
        server.wait_replicas(name, count)
