"""The strict check of a Serve YAML: each mistake is found, where it stands, without a Ray."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import ray
import yaml
from pydantic import BaseModel
from ray import serve
from ray.serve.schema import ServeDeploySchema

from seqvis.config import Settings
from serve.config_check import check, main


class Inner(Settings):
    size: int = 1


class Arguments(Settings):
    path: str
    shards: int = 1
    inner: Inner = Inner()


class Reachable(Settings):
    host: str = "127.0.0.1"


class UserConfig(Settings):
    share: float = 1.0


class Lenient(BaseModel):
    path: str = ""


@serve.deployment(name="Leaf")
class Leaf:
    UserConfig = UserConfig

    def reconfigure(self, user_config: dict[str, Any]) -> None: ...


@serve.deployment(name="Root")
class Root:
    def __init__(self, leaf: Any) -> None: ...


def build(args: Arguments) -> serve.Application:
    return Root.bind(Leaf.bind())  # type: ignore[attr-defined]


def build_leniently(args: Lenient) -> serve.Application:
    return Leaf.bind()  # type: ignore[attr-defined]


def build_reachable(args: Reachable) -> serve.Application:
    return Leaf.bind()  # type: ignore[attr-defined]


def build_untyped(args: dict[str, str]) -> serve.Application:
    return Leaf.bind()  # type: ignore[attr-defined]


def build_late(args: "Arguments") -> serve.Application:
    return Leaf.bind()  # type: ignore[attr-defined]


def build_badly(args: Arguments) -> serve.Application:
    raise RuntimeError("no such collection")


built = Leaf.bind()  # type: ignore[attr-defined]

HERE = __name__
GOOD: dict[str, Any] = {
    "proxy_location": "HeadOnly",
    "http_options": {"host": "127.0.0.1", "port": 8000, "request_timeout_s": 30},
    "grpc_options": {"port": 9000},
    "logging_config": {"encoding": "JSON", "log_level": "INFO", "enable_access_log": False},
    "applications": [
        {
            "name": "app",
            "route_prefix": "/",
            "import_path": f"{HERE}:build",
            "runtime_env": {"env_vars": {"A": "1"}},
            "args": {"path": "model", "inner": {"size": 2}},
            "deployments": [
                {
                    "name": "Leaf",
                    "max_ongoing_requests": 8,
                    "graceful_shutdown_timeout_s": 5,
                    "user_config": {"share": 0.5},
                    "autoscaling_config": {
                        "min_replicas": 0,
                        "max_replicas": 4,
                        "target_ongoing_requests": 2,
                        "policy": {"policy_kwargs": {}},
                    },
                    "ray_actor_options": {"num_cpus": 1, "num_gpus": 0.25, "runtime_env": {}},
                    "request_router_config": {"initial_backoff_s": 0.1},
                    "logging_config": {"log_level": "DEBUG"},
                },
                {"name": "Root", "num_replicas": 2},
            ],
        }
    ],
}


def problems_of(tmp_path: Path, config: Any, build: bool = True) -> list[str]:
    (tmp_path / "serve.yaml").write_text(yaml.safe_dump(config))
    return check(str(tmp_path / "serve.yaml"), build)


def application(config: dict[str, Any]) -> dict[str, Any]:
    return config["applications"][0]


def leaf(config: dict[str, Any]) -> dict[str, Any]:
    return application(config)["deployments"][0]


def test_a_right_file_has_no_problems_and_no_ray_is_started(tmp_path: Path) -> None:
    running = ray.is_initialized()
    assert problems_of(tmp_path, GOOD) == []
    assert ray.is_initialized() == running


IN_LEAF = "applications[app].deployments[Leaf]"
WHERE_KEYS_ARE: list[tuple[Callable[[dict[str, Any]], dict[str, Any]], str]] = [
    (lambda c: c, ""),
    (lambda c: c["http_options"], "http_options."),
    (lambda c: c["grpc_options"], "grpc_options."),
    (lambda c: c["logging_config"], "logging_config."),
    (lambda c: application(c), "applications[app]."),
    (lambda c: application(c)["runtime_env"], "applications[app].runtime_env."),
    (lambda c: application(c)["args"], "applications[app].args."),
    (lambda c: application(c)["args"]["inner"], "applications[app].args.inner."),
    (lambda c: leaf(c), f"{IN_LEAF}."),
    (lambda c: leaf(c)["user_config"], f"{IN_LEAF}.user_config."),
    (lambda c: leaf(c)["autoscaling_config"], f"{IN_LEAF}.autoscaling_config."),
    (lambda c: leaf(c)["autoscaling_config"]["policy"], f"{IN_LEAF}.autoscaling_config.policy."),
    (lambda c: leaf(c)["ray_actor_options"], f"{IN_LEAF}.ray_actor_options."),
    (
        lambda c: leaf(c)["ray_actor_options"]["runtime_env"],
        f"{IN_LEAF}.ray_actor_options.runtime_env.",
    ),
    (lambda c: leaf(c)["request_router_config"], f"{IN_LEAF}.request_router_config."),
    (lambda c: leaf(c)["logging_config"], f"{IN_LEAF}.logging_config."),
]


@pytest.mark.parametrize(("level", "prefix"), WHERE_KEYS_ARE, ids=[p for _, p in WHERE_KEYS_ARE])
def test_an_unknown_key_is_found_at_every_level(
    tmp_path: Path, level: Callable[[dict[str, Any]], dict[str, Any]], prefix: str
) -> None:
    config = copy.deepcopy(GOOD)
    level(config)["no_key"] = 1
    assert problems_of(tmp_path, config) == [f"{prefix}no_key: no such key"]


def test_serve_itself_would_drop_such_keys(tmp_path: Path) -> None:
    """The reason for this check: should it fail one day, Serve has become strict."""
    config = copy.deepcopy(GOOD)
    config["no_key"] = leaf(config)["max_ongoing_request"] = 1
    ServeDeploySchema.model_validate(config)
    assert len(problems_of(tmp_path, config)) == 2


def test_a_near_key_is_suggested(tmp_path: Path) -> None:
    config = copy.deepcopy(GOOD)
    leaf(config)["max_ongoing_request"] = 1
    assert problems_of(tmp_path, config) == [
        f"{IN_LEAF}.max_ongoing_request: no such key, did you mean max_ongoing_requests?"
    ]


@pytest.mark.parametrize(
    ("change", "start", "said"),
    [
        (lambda c: c["http_options"].update(port="80"), "http_options.port: ", "integer"),
        (lambda c: c.update(proxy_location="Everywhere"), "proxy_location: ", "EveryNode"),
        (lambda c: c.update(applications={}), "applications: ", "array"),
        (lambda c: c.pop("applications"), "applications: ", "is needed"),
        (lambda c: c["logging_config"].update(log_level="LOUD"), "logging_config.log", "LOUD"),
        (lambda c: application(c).pop("import_path"), "applications[app].import_path: ", "is need"),
        (
            lambda c: application(c).update(route_prefix="x"),
            "applications[app].route_prefix: ",
            "start with",
        ),
        (
            lambda c: application(c)["runtime_env"].update(env_vars={"A": 1}),
            "applications[app].runtime_env: ",
            "env_vars",
        ),
        (lambda c: leaf(c).pop("name"), "applications[app].deployments[0].name: ", "is needed"),
        (lambda c: leaf(c).update(max_ongoing_requests=True), f"{IN_LEAF}.max_ongoing_req", "int"),
        (
            lambda c: application(c)["deployments"][1].update(num_replicas=0),
            "applications[app].deployments[Root].num_replicas: ",
            "greater than 0",
        ),
        (lambda c: leaf(c).update(num_replicas=2), f"{IN_LEAF}: ", "autoscaling_config"),
        (
            lambda c: leaf(c)["autoscaling_config"].update(min_replicas=-1),
            f"{IN_LEAF}.autoscaling_config.min_replicas: ",
            "greater than or equal to 0",
        ),
        (
            lambda c: leaf(c)["autoscaling_config"].update(min_replicas=5),
            f"{IN_LEAF}.autoscaling_config: ",
            "max_replicas",
        ),
        (
            lambda c: leaf(c)["ray_actor_options"].update(num_gpus="half"),
            f"{IN_LEAF}.ray_actor_options.num_gpus: ",
            "number",
        ),
        (
            lambda c: application(c)["args"].update(shards="many"),
            "applications[app].args.shards: ",
            "integer",
        ),
        (lambda c: application(c)["args"].pop("path"), "applications[app].args.path: ", "is need"),
        (
            lambda c: leaf(c)["user_config"].update(share="all"),
            f"{IN_LEAF}.user_config.share: ",
            "number",
        ),
        (
            lambda c: application(c)["deployments"][1].update(name="Rooot"),
            "applications[app].deployments[Rooot]: ",
            "it has Leaf, Root",
        ),
        (
            lambda c: application(c)["deployments"].append({"name": "Root"}),
            "applications[app].deployments[Root]: ",
            "stands 2 times",
        ),
        (
            lambda c: application(c).update(import_path="nowhere:build"),
            "applications[app].import_path: ",
            "nowhere",
        ),
        (
            lambda c: application(c).update(import_path=f"{HERE}:build_badly"),
            "applications[app]: cannot be built",
            "no such collection",
        ),
        (
            lambda c: application(c).update(import_path=f"{HERE}:build_untyped"),
            "applications[app].args: ",
            "no pydantic model",
        ),
        (
            lambda c: application(c).update(import_path=f"{HERE}:build_late"),
            "applications[app].args: ",
            "no pydantic model",
        ),
        (
            lambda c: application(c).update(import_path=f"{HERE}:built"),
            "applications[app].args: ",
            "takes none",
        ),
    ],
)
def test_a_wrong_value_is_found_where_it_stands(
    tmp_path: Path, change: Callable[[dict[str, Any]], Any], start: str, said: str
) -> None:
    config = copy.deepcopy(GOOD)
    change(config)
    (problem,) = problems_of(tmp_path, config)
    assert problem.startswith(start)
    assert said in problem


def test_a_builder_whose_model_lets_unknown_keys_pass_is_checked_strictly_too(
    tmp_path: Path,
) -> None:
    config = copy.deepcopy(GOOD)
    application(config).update(
        import_path=f"{HERE}:build_leniently", args={"pth": "x"}, deployments=[]
    )
    assert problems_of(tmp_path, config) == [
        "applications[app].args.pth: no such key, did you mean path?"
    ]


@pytest.mark.parametrize(
    ("options", "args", "right"),
    [
        ({"host": "127.0.0.1"}, {}, True),
        ({"host": "0.0.0.0"}, {"host": "0.0.0.0"}, True),
        ({"host": "0.0.0.0"}, {}, False),
        ({}, {}, False),  # Serve then listens at all interfaces
    ],
)
def test_a_gateway_that_is_wrong_about_where_serve_listens_is_found(
    tmp_path: Path, options: dict[str, str], args: dict[str, str], right: bool
) -> None:
    config = copy.deepcopy(GOOD)
    config["http_options"] = options
    application(config).update(import_path=f"{HERE}:build_reachable", args=args, deployments=[])
    problems = problems_of(tmp_path, config)
    assert [problem.split(":")[0] for problem in problems] == (
        [] if right else ["applications[app].args.host"]
    )


@pytest.mark.parametrize(
    ("args", "problem"),
    [
        ({"legacy_keys": True, "model_roots": ["/models", "s3://bucket/models"]}, ""),
        ({"legacy_key": True}, "legacy_key: no such key, did you mean legacy_keys?"),
        ({"legacy_keys": "always"}, "legacy_keys: input should be a valid boolean"),
        ({"model_roots": ["s3://a:pw@bucket/models"]}, "model_roots: one of them has credentials"),
    ],
)
def test_the_gateways_settings_of_keys_and_models_are_checked(
    tmp_path: Path, args: dict[str, Any], problem: str
) -> None:
    config = copy.deepcopy(GOOD)
    application(config).update(import_path="serve.app:gateway", args=args, deployments=[])
    problems = "\n".join(problems_of(tmp_path, config))
    assert problems.startswith(f"applications[app].args.{problem}" if problem else "")
    assert bool(problems) == bool(problem)
    assert "pw" not in problems


def test_all_problems_are_reported_at_once(tmp_path: Path) -> None:
    config = copy.deepcopy(GOOD)
    config["no_key"] = 1
    config["http_options"]["port"] = "80"
    leaf(config)["autoscaling_config"]["min_replicas"] = "few"
    application(config)["args"]["pth"] = 1
    assert len(problems_of(tmp_path, config)) == 4


def test_without_building_only_what_ray_knows_is_checked(tmp_path: Path) -> None:
    config = copy.deepcopy(GOOD)
    application(config)["import_path"] = "nowhere:build"
    assert problems_of(tmp_path, config, build=False) == []


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "keys and values"),
        ("- a", "keys and values"),
        ("{", "not valid YAML"),
        ("applications: []\napplications: []", "occurs twice"),
        ("applications: [x]", "applications[0]: input"),
        ("applications: [{deployments: [x], import_path: 'a:b'}]", "top level"),
        ("applications: []\ntarget_capacity: 2026-01-01", "JSON"),
    ],
)
def test_a_file_of_another_shape_is_a_problem_and_no_traceback(
    tmp_path: Path, text: str, said: str
) -> None:
    (tmp_path / "serve.yaml").write_text(text)
    problems = check(str(tmp_path / "serve.yaml"), build=False)
    assert problems
    assert said in problems[0]


def test_the_command_names_every_problem_and_ends_with_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good, bad = tmp_path / "good.yaml", tmp_path / "bad.yaml"
    good.write_text(yaml.safe_dump(GOOD))
    bad.write_text(yaml.safe_dump({**GOOD, "one": 1, "two": 2}))
    assert main([str(good)]) == 0
    assert json.loads(capsys.readouterr().out) == {"checked": [str(good)]}
    assert main([str(good), str(bad)]) == 2
    printed = capsys.readouterr()
    assert printed.err.splitlines() == [
        f"error: {bad}: one: no such key",
        f"error: {bad}: two: no such key",
    ]
    assert not printed.out
