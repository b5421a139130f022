"""Check a YAML file for Ray Serve strictly.

Serve itself silently drops unknown keys. The check follows Ray's own models, so it knows what the
installed Ray knows. It is stricter than Serve: numbers in quotation marks, `yes` for a number, and
keys that occur twice are problems. No Ray is started. A deployment's `user_config` is checked if
its class has a model `UserConfig`.
"""

import inspect
import json
import typing
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_settings import CliPositionalArg

from seqvis.checks import require_extra
from seqvis.cli.job import JobSettings, leave, run_job
from seqvis.config import load_yaml, message_of, suggestion
from seqvis.errors import ConfigError
from seqvis.ray_internals import check_route, deployments_of, import_builder
from serve import NEEDS


def check(path: str, build: bool = True) -> list[str]:
    """Return the problems of a Serve YAML, each with the path of its key.

    `build`: import the applications, to check deployment names, `args` and `user_config` too.
    """
    from ray.serve.schema import ServeDeploySchema

    try:
        config = load_yaml(path)
    except ConfigError as error:
        return str(error).removeprefix(f"{path}: ").splitlines()
    if not isinstance(config, dict):
        return ["needs keys and values at its top level"]
    try:
        json.dumps(config)
    except (TypeError, ValueError) as error:
        return [f"holds what JSON cannot: {error}"]
    problems = _walk(ServeDeploySchema, config, "") + _validate(ServeDeploySchema, config, "")
    for number, application in enumerate(_items(config, "applications")):
        where = _join("applications", number, application)
        problems += _repeated_names(application, where) + _check_route(application, where)
        if build and isinstance(application.get("import_path"), str):
            problems += _check_application(application, where, _listens_at(config))
    return list(dict.fromkeys(problems))


def _walk(model: type[BaseModel], value: Mapping[Any, Any], where: str) -> list[str]:
    """Return keys that no field of `model` reads, here and in the models inside it.

    Some of Ray's fields take any dict in place of a model (autoscaling_config), which Ray checks
    only when the application is deployed, so such values are validated here as well.
    """
    fields = {field.alias or name: field for name, field in model.model_fields.items()}
    problems = []
    for key, inner in value.items():
        path = f"{where}.{key}" if where else str(key)
        if key not in fields:
            problems.append(_no_such_key(path, key, fields))
            continue
        if key == "runtime_env" and isinstance(inner, dict):
            problems += _check_runtime_env(inner, path)
        annotation = fields[key].annotation
        loose = dict in _types_in(annotation)
        models = [kind for kind in _types_in(annotation) if issubclass(kind, BaseModel)]
        for place, mapping in _mappings(inner, path) if models else ():
            by_model: list[list[str]] = [
                _walk(nested, mapping, place) + (_validate(nested, mapping, place) if loose else [])
                for nested in models
            ]
            problems += sorted(by_model, key=len)[0]  # of several models, the one that fits best
    return problems


def _no_such_key(path: str, key: Any, known: Mapping[str, Any]) -> str:
    return f"{path}: no such key{suggestion(str(key), list(known))}"


def _types_in(annotation: Any) -> list[type]:
    """Return the classes in a type: dict and AutoscalingConfig of Dict | AutoscalingConfig."""
    inside = [kind for part in typing.get_args(annotation) for kind in _types_in(part)]
    outer = typing.get_origin(annotation) or annotation
    return [outer, *inside] if inspect.isclass(outer) else inside


def _mappings(value: Any, path: str) -> Iterator[tuple[str, Mapping[Any, Any]]]:
    """Yield a mapping itself, or those of a list, each with its path."""
    if isinstance(value, dict):
        yield path, value
    elif isinstance(value, list):
        for number, item in enumerate(value):
            if isinstance(item, dict):
                yield _join(path, number, item), item


def _join(path: str, number: int, item: Any) -> str:
    """Return the path of a list's item, which is called by its name if it has one."""
    name = item.get("name") if isinstance(item, dict) else None
    return f"{path}[{number if name is None else name}]"


def _items(value: Mapping[str, Any], key: str) -> list[dict[str, Any]]:
    items = value.get(key)
    return [item for item in items if isinstance(item, dict)] if isinstance(items, list) else []


def _check_runtime_env(value: dict[str, Any], path: str) -> list[str]:
    from ray.runtime_env import RuntimeEnv

    known = {name: None for name in RuntimeEnv.known_fields if not name.startswith("_")}
    problems = [_no_such_key(f"{path}.{key}", key, known) for key in value if key not in known]
    try:
        RuntimeEnv(**{key: inner for key, inner in value.items() if key in known})
    except (TypeError, ValueError, OSError) as error:
        problems.append(f"{path}: {error}")
    return problems


def _validate(model: type[BaseModel], value: Any, where: str, strict: bool = True) -> list[str]:
    """Return a line for each place with a wrong type or value; `_walk` finds unknown keys."""
    problems: dict[str, str] = {}
    try:
        if strict:  # of JSON: no number in quotation marks, but a name for an enumeration's member
            model.model_validate_json(json.dumps(value), strict=True)
        else:
            model.model_validate(value)
    except ValidationError as error:
        for detail in error.errors():
            if detail["type"] != "extra_forbidden":
                # Of a value that may have several types, the first message is enough.
                message = "is needed" if detail["type"] == "missing" else message_of(detail)
                problems.setdefault(_place(detail, value, where), message)
    except Exception as error:  # Ray's own validators raise several kinds for odd values
        problems[where] = str(error)
    return [f"{place or 'top level'}: {message}" for place, message in problems.items()]


def _place(detail: Any, value: Any, where: str) -> str:
    """Return where a problem is. Names of types, in which pydantic's path may end, are left out."""
    for part in detail["loc"]:
        inside = isinstance(value, dict) and part in value
        inside = inside or (isinstance(value, list) and isinstance(part, int))
        missing = detail["type"] == "missing" and part == detail["loc"][-1]
        if not inside and not missing:
            break
        value = value[part] if inside else None
        if isinstance(part, int):
            where = _join(where, part, value)
        else:
            where = f"{where}.{part}" if where else part
    return where


def _repeated_names(application: Mapping[str, Any], where: str) -> list[str]:
    names = [item.get("name") for item in _items(application, "deployments")]
    return [
        f"{where}.deployments[{name}]: stands {names.count(name)} times"
        for name in dict.fromkeys(names)
        if names.count(name) > 1
    ]


def _check_route(application: Mapping[str, Any], where: str) -> list[str]:
    """Check a route as the controller does, since Serve's schema accepts any text."""
    route = application.get("route_prefix")
    try:
        check_route(route if isinstance(route, str) else None)
    except ValueError as error:
        return [f"{where}.route_prefix: {error}"]
    return []


def _listens_at(config: Mapping[str, Any]) -> str:
    """Return the host of http_options; without one Serve listens on all interfaces."""
    from ray.serve.schema import HTTPOptionsSchema

    options = config.get("http_options")
    default = HTTPOptionsSchema.model_fields["host"].default
    return str(options.get("host", default) if isinstance(options, dict) else default)


def _check_application(application: Mapping[str, Any], where: str, host: str) -> list[str]:
    """Check what only the application knows: its `args`, its deployments, their user_config."""
    try:
        # Import and build the application, as the controller would, to learn its deployments.
        builder = import_builder(application["import_path"])
    except Exception as error:  # whatever the application's module raises at import
        return [f"{where}.import_path: cannot be imported ({type(error).__name__}: {error})"]
    args = application.get("args") or {}
    problems = _check_args(builder, args, f"{where}.args", host) if isinstance(args, dict) else []
    if problems:
        return problems
    try:
        built = deployments_of(builder, args, str(application.get("name", "default")))
    except Exception as error:  # whatever the builder raises
        return [f"{where}: cannot be built ({type(error).__name__}: {error})"]
    deployments = {deployment.name: deployment for deployment in built}
    for position, settings in enumerate(_items(application, "deployments")):
        place = _join(f"{where}.deployments", position, settings)
        deployment = deployments.get(str(settings.get("name")))
        if deployment is None and "name" in settings:
            names = ", ".join(deployments)
            problems.append(f"{place}: the application has no such deployment; it has {names}")
        model = getattr(deployment and deployment.func_or_class, "UserConfig", None)
        if model and isinstance(settings.get("user_config"), dict):
            problems += _check_model(model, settings["user_config"], f"{place}.user_config")
    return problems


def _check_args(builder: Any, args: dict[str, Any], where: str, host: str) -> list[str]:
    if not inspect.isfunction(builder):
        return [f"{where}: the application is not a function, so it takes none"] if args else []
    parameters = inspect.signature(builder).parameters.values()
    annotation = next((parameter.annotation for parameter in parameters), None)
    if not (inspect.isclass(annotation) and issubclass(annotation, BaseModel)):
        return [f"{where}: the builder {builder.__name__} annotates no pydantic model to check by"]
    problems = _check_model(annotation, args, where)
    declared = annotation.model_fields.get("host")
    if declared is not None and args.get("host", declared.default) != host:
        # This decides whether keys are needed, so it must be where Serve really listens.
        problems.append(f"{where}.host: must be http_options.host, which is {host}")
    return problems


def _check_model(model: type[BaseModel], given: dict[str, Any], where: str) -> list[str]:
    """Check values as one of the project's own models, and that it knows every key."""
    return _walk(model, given, where) + _validate(model, given, where, strict=False)


class CheckConfig(JobSettings):
    """Checks Serve YAML files strictly. Exit code 2 if there is a problem."""

    files: CliPositionalArg[tuple[str, ...]]
    """Files for `serve deploy`."""
    build: bool = True
    """Import the applications and build them, to check args and the names of deployments."""


def run(settings: CheckConfig) -> dict[str, Any]:
    """Raise ConfigError with a line for every problem."""
    require_extra("serve", *NEEDS)
    problems = [
        f"{path}: {problem}" for path in settings.files for problem in check(path, settings.build)
    ]
    if problems:
        raise ConfigError("\n".join(problems))
    return {"checked": list(settings.files)}


main = partial(run_job, CheckConfig, run)

if __name__ == "__main__":
    leave(main())
