"""cluster.yaml, its variant for Google Cloud and the KubeRay manifests, checked without a cloud.

Ray's own validator, and what it lets pass: unknown keys of `provider` and of an EC2 instance, and
the way without a built image that docs/operate/cluster.md describes.
"""

import copy
import re
import shlex
import tomllib
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import botocore.session
import pytest
import ray
import yaml
from botocore.validate import ParamValidator
from jsonschema import Draft202012Validator
from ray._private.runtime_env.packaging import create_package
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.autoscaler.v2.instance_manager.config import AutoscalingConfig
from ray.autoscaler.v2.scheduler import ResourceDemandScheduler, SchedulingRequest
from ray.autoscaler.v2.utils import ResourceRequestUtil
from ray.scripts.scripts import drain_node

from serve.applications import END_WITHIN
from serve.config_check import check

ROOT = Path(__file__).parents[3]
PINNED = re.search(
    r"^ray==(\S+)", (ROOT / "requirements.lock").read_text(encoding="utf-8"), re.MULTILINE
)
assert PINNED
RAY = PINNED.group(1)
CLUSTERS = {"aws": ROOT / "cluster.yaml", "gcp": ROOT / "docs" / "cluster" / "gcp.yaml"}
MANIFESTS = {
    "RayJob": ROOT / "docs" / "cluster" / "rayjob.yaml",
    "RayService": ROOT / "docs" / "cluster" / "rayservice.yaml",
}
IMAGE = f"registry.example.org/seqvis:{RAY}"
Yaml = dict[str, Any]


def read(path: Path) -> Yaml:
    return dict(yaml.safe_load(path.read_text(encoding="utf-8")))


@pytest.fixture(params=sorted(CLUSTERS))
def cluster(request: pytest.FixtureRequest) -> Yaml:
    return read(CLUSTERS[request.param])


@pytest.fixture(params=sorted(MANIFESTS))
def manifest(request: pytest.FixtureRequest) -> Yaml:
    return read(MANIFESTS[request.param])


def ray_cluster_of(manifest: Yaml) -> Yaml:
    spec = manifest["spec"]
    return dict(spec["rayClusterSpec" if manifest["kind"] == "RayJob" else "rayClusterConfig"])


def containers_of(manifest: Yaml) -> list[Yaml]:
    """The first container of the head and of each group of workers, which is where Ray runs."""
    spec = ray_cluster_of(manifest)
    groups = [spec["headGroupSpec"], *spec["workerGroupSpecs"]]
    return [group["template"]["spec"]["containers"][0] for group in groups]


def test_ray_accepts_the_cluster(cluster: Yaml) -> None:
    validate_config(prepare_config(cluster))


@pytest.mark.parametrize("change", [{"max_worker": 3}, {"docker": {"images": "x"}}])
def test_ray_refuses_unknown_keys_of_the_cluster(cluster: Yaml, change: Yaml) -> None:
    with pytest.raises(Exception, match="Additional properties are not allowed"):
        validate_config(prepare_config(cluster | change))


def provider_keys(kind: str) -> set[str]:
    """The keys of `provider` that the installed Ray reads for this cloud."""
    source = Path(ray.__file__).parent / "autoscaler" / "_private"
    files = [*source.glob("*.py"), *(source / kind).glob("*.py")]
    text = "\n".join(file.read_text(encoding="utf-8") for file in files)
    read = re.findall(r"provider(?:_config|\"\])(?:\[|\.get\()\s*\"(\w+)\"", text)
    return {"type", *read}


def unknown_provider_keys(cluster: Yaml) -> set[str]:
    return set(cluster["provider"]) - provider_keys(cluster["provider"]["type"])


def test_ray_reads_every_key_of_the_provider(cluster: Yaml) -> None:
    assert not unknown_provider_keys(cluster)
    cluster["provider"]["availability_zones"] = "a"
    validate_config(prepare_config(cluster))  # which is why the keys are checked here
    assert unknown_provider_keys(cluster) == {"availability_zones"}


def problems_of_instance(node: Mapping[str, Any]) -> str:
    """What EC2 would not understand in a node_config, by the description of its API."""
    service = botocore.session.get_session().get_service_model("ec2")
    shape = service.operation_model("RunInstances").input_shape
    counted = {**node, "MinCount": 1, "MaxCount": 1}
    return str(ParamValidator().validate(counted, shape).generate_report())


def test_ec2_understands_every_node() -> None:
    nodes = read(CLUSTERS["aws"])["available_node_types"]
    for name, node in nodes.items():
        assert problems_of_instance(node["node_config"]) == "", name
    wrong = copy.deepcopy(nodes["gpu_spot"]["node_config"])
    wrong["InstanceMarketOptions"]["MarketTyp"] = wrong["InstanceMarketOptions"].pop("MarketType")
    assert "MarketTyp" in problems_of_instance(wrong)


def environment_of(cluster: Yaml) -> dict[str, str]:
    """What `ray start` finds in its environment: that of the container it runs in."""
    options = shlex.split(" ".join(cluster["docker"]["run_options"]))
    given = [option.removeprefix("--env=") for option in options if option.startswith("--env=")]
    return dict(variable.split("=", 1) for variable in given)


def test_the_token_reaches_every_node_and_is_in_no_configuration(cluster: Yaml) -> None:
    environment = environment_of(cluster)
    assert environment["RAY_AUTH_MODE"] == "token"
    assert cluster["file_mounts"] == {"/home/ray/.ray/auth_token": "~/.ray/auth_token"}
    assert not any("TOKEN" in name for name in environment)


def test_only_ssh_leads_into_the_cluster() -> None:
    assert "IpPermissions" not in read(CLUSTERS["aws"])["provider"]["security_group"]
    for path in CLUSTERS.values():
        head = " ".join(read(path)["head_start_ray_commands"])
        assert "--dashboard-host=127.0.0.1" in head


def test_nodes_take_the_built_image_and_install_nothing_of_rays_own(cluster: Yaml) -> None:
    """What is left out here would be filled in: a development version of Ray."""
    assert cluster["docker"]["image"] == IMAGE
    assert not {"head_image", "worker_image"} & cluster["docker"].keys()
    assert not any("install" in command for command in workers_commands(cluster))


def workers_commands(cluster: Yaml) -> list[str]:
    """What a new worker runs before Ray starts on it; all that the file says, and nothing else."""
    prepared = prepare_config(copy.deepcopy(cluster))
    for role in ("head", "worker"):
        ours = cluster["setup_commands"] + cluster[f"{role}_setup_commands"]
        assert prepared[f"{role}_setup_commands"] == ours
        assert prepared[f"{role}_start_ray_commands"] == cluster[f"{role}_start_ray_commands"]
    return list(prepared["worker_setup_commands"])


def test_without_an_image_nodes_install_what_is_locked(cluster: Yaml) -> None:
    """The lines that docs/operate/cluster.md puts in the place of those of the file."""
    document = (ROOT / "docs" / "operate" / "cluster.md").read_text(encoding="utf-8")
    section = document.partition("### Without an image")[2].partition("\n#")[0]
    (block,) = re.findall(r"```yaml\n(.*?)```", section, re.DOTALL)
    changes = yaml.safe_load(block)
    changes["docker"] = cluster["docker"] | changes["docker"]
    slow = cluster | changes
    validate_config(prepare_config(copy.deepcopy(slow)))
    assert slow["docker"]["image"] == f"rayproject/ray:{RAY}-py311-gpu"
    assert slow["docker"]["head_image"] == f"rayproject/ray:{RAY}-py311"
    assert slow["file_mounts"].items() > cluster["file_mounts"].items()
    assert slow["file_mounts"]["/home/ray/seqvis"] == "."
    *_, install, environment = workers_commands(slow)
    assert install == "sh ~/seqvis/install.sh python"
    assert environment == "python -m serve.environment >> ~/.bashrc"  # which Ray reads before all


def launches(path: Path, wanted: Mapping[str, float], lately_failed: str = "") -> dict[str, int]:
    """Which nodes Ray's autoscaler starts for a demand, while only the head runs."""
    config = AutoscalingConfig(read(path), skip_content_hash=True)
    request = SchedulingRequest(
        disable_launch_config_check=True,
        node_type_configs=config.get_node_type_configs(),
        max_num_nodes=config.get_max_num_nodes(),
        resource_requests=ResourceRequestUtil.group_by_count(
            [ResourceRequestUtil.make(dict(wanted))]
        ),
        recoverable_resource_availabilities={lately_failed: 0.0},
    )
    reply = ResourceDemandScheduler(None).schedule(request)
    return {launch.instance_type: launch.count for launch in reply.to_launch}


@pytest.mark.parametrize("path", CLUSTERS.values(), ids=CLUSTERS)
def test_a_gpu_is_bought_on_the_spot_market_or_else_at_the_full_price(path: Path) -> None:
    assert launches(path, {"GPU": 1, "CPU": 4}) == {"gpu_spot": 1}
    assert launches(path, {"GPU": 1, "CPU": 4}, lately_failed="gpu_spot") == {"gpu_on_demand": 1}
    assert launches(path, {"CPU": 8}) == {"cpu_spot": 1}


def test_the_fallback_differs_from_the_spot_machine_in_its_price_only(cluster: Yaml) -> None:
    types = cluster["available_node_types"]
    spot, full = types["gpu_spot"], types["gpu_on_demand"]
    assert spot["priority"] > full["priority"]
    assert spot["resources"] == full["resources"]
    markets = ("InstanceMarketOptions", "scheduling")
    for node in (spot, full):
        node["node_config"] = {k: v for k, v in node["node_config"].items() if k not in markets}
    assert spot["node_config"] == full["node_config"]
    assert types["head"]["resources"]["CPU"] == 0


def strict(schema: Any) -> Any:
    """A custom resource's schema in which unknown keys are errors."""
    if isinstance(schema, list):
        return [strict(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    changed = {key: strict(value) for key, value in schema.items()}
    free = schema.get("x-kubernetes-preserve-unknown-fields") or "additionalProperties" in schema
    if isinstance(schema.get("properties"), dict) and not free:
        changed["additionalProperties"] = False
    return changed


def schema_of(kind: str, shared_data: Path) -> Any:
    path = shared_data / "kuberay" / f"ray.io_{kind.lower()}s.yaml"
    if not path.exists():
        pytest.skip(f"KubeRay's schemas are not here ({path.name})")
    text = path.read_text(encoding="utf-8")
    versions = yaml.load(text, Loader=yaml.CSafeLoader)["spec"]["versions"]  # a megabyte
    (schema,) = [
        version["schema"]["openAPIV3Schema"] for version in versions if version["name"] == "v1"
    ]
    schema["properties"]["metadata"] = {
        "type": "object",
        "properties": {"name": {"type": "string"}, "namespace": {"type": "string"}},
    }
    return strict(schema)


def test_kuberay_knows_every_key_of_the_manifests(manifest: Yaml, shared_data: Path) -> None:
    validator = Draft202012Validator(schema_of(manifest["kind"], shared_data))
    assert [error.message for error in validator.iter_errors(manifest)] == []
    ray_cluster_of(manifest)["headGroupSpec"]["rayStartParam"] = {}
    (error,) = validator.iter_errors(manifest)
    assert "'rayStartParam' was unexpected" in error.message


def test_the_manifests_are_of_one_ray(manifest: Yaml) -> None:
    assert manifest["apiVersion"] == "ray.io/v1"
    assert ray_cluster_of(manifest)["rayVersion"] == RAY
    for container in containers_of(manifest):
        assert container["image"] == IMAGE
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    asked_for = [
        requirement.partition("]")[2]
        for extra in project["optional-dependencies"].values()
        for requirement in extra
        if requirement.startswith("ray[")
    ]
    (needed,) = set(asked_for)
    assert f">={RAY.rpartition('.')[0]}," in needed


def test_the_manifests_grow_shrink_and_ask_for_a_token(manifest: Yaml) -> None:
    spec = ray_cluster_of(manifest)
    assert spec["enableInTreeAutoscaling"] is True
    assert spec["authOptions"]["mode"] == "token"
    assert spec["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    for group in spec["workerGroupSpecs"]:
        assert 0 <= group["minReplicas"] < group["maxReplicas"]


def test_the_service_outlives_its_head() -> None:
    fault_tolerance = ray_cluster_of(read(MANIFESTS["RayService"]))["gcsFaultToleranceOptions"]
    assert fault_tolerance["redisAddress"]
    assert "value" not in fault_tolerance["redisPassword"], "the password is in a secret"


def test_the_service_is_what_serve_deploy_takes(tmp_path: Path) -> None:
    service = read(MANIFESTS["RayService"])
    text = service["spec"]["serveConfigV2"]
    (tmp_path / "serve.yaml").write_text(text, encoding="utf-8")
    assert check(str(tmp_path / "serve.yaml")) == []
    assert yaml.safe_load(text) == read(ROOT / "serve" / "config" / "gpu.yaml")


def test_a_node_of_the_service_is_drained_before_it_ends() -> None:
    """Serve needs to know of the node's end for longer than a replica may take for what it has."""
    for group in ray_cluster_of(read(MANIFESTS["RayService"]))["workerGroupSpecs"]:
        pod = group["template"]["spec"]
        for container in pod["containers"]:
            *_, command = container["lifecycle"]["preStop"]["exec"]["command"]
            words = shlex.split(command)
            assert words[:2] == ["ray", "drain-node"]
            assert drain_node.make_context("drain-node", words[2 : words.index("&&")])
            deadline = int(words[words.index("--deadline-remaining-seconds") + 1])
            asleep = int(words[-1])
            assert END_WITHIN < deadline < asleep
            assert asleep < pod["terminationGracePeriodSeconds"]


def commands_in(text: str) -> Iterator[str]:
    yield from re.findall(r"python -m (jobs\.\w+)", text)


def test_the_job_is_one_of_the_project() -> None:
    entrypoint = read(MANIFESTS["RayJob"])["spec"]["entrypoint"]
    assert list(commands_in(entrypoint)) == ["jobs.train_translator"]
    preset = re.search(r"--config (\S+)", entrypoint)
    assert preset
    assert (ROOT / preset.group(1)).exists()


def test_a_job_takes_along_the_code_and_nothing_else(tmp_path: Path) -> None:
    excludes = read(ROOT / "jobs" / "runtime_env.yaml")["excludes"]
    package = tmp_path / "package.zip"
    create_package(str(ROOT), package, include_gitignore=True, excludes=excludes)
    with zipfile.ZipFile(package) as content:
        names = set(content.namelist())
    assert {"jobs/presets/demo.yaml", "seqvis/cluster.py", "serve/config/gpu.yaml"} <= names
    folders = {name.split("/")[0] for name in names if "/" in name}
    assert not folders & {".git", ".venv", "runs", "docs", "tests", "benchmarks", "build"}
    assert package.stat().st_size < 5 << 20
