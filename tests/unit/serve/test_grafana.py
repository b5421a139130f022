"""The dashboard and the alarms name metrics that exist, and use them as what they are."""

import ast
import json
import re
from pathlib import Path
from typing import Any

import pytest
import ray
import yaml
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard

PROJECT = Path(__file__).parents[3]
RAY = Path(ray.__file__).parent
ADDED_BY_RAY = {"application", "deployment", "replica", "instance", "le"}
SUFFIXES = ("_bucket", "_count", "_sum")

# from serve's contract with its operators: a metric that is renamed breaks their alarms
CONTRACT = {
    "counter": {"requests_total", "rejects_total", "tokens_total", "cancelled_total",
                "model_switches_total"},
    "histogram": {"request_seconds", "first_token_seconds", "translation_seconds",
                  "encode_seconds", "search_seconds"},
    "gauge": {"batch_rows", "batch_occupancy", "queue_length", "index_items", "index_tail",
              "recall_sample"},
}  # fmt: skip
KINDS = {f"ray_seqvis_{name}": kind for kind, names in CONTRACT.items() for name in names}


@pytest.fixture(scope="module")
def board() -> dict[str, Any]:
    text = (PROJECT / "serve/grafana.json").read_text(encoding="utf-8")
    parsed: dict[str, Any] = json.loads(text)
    return parsed


@pytest.fixture(scope="module")
def rules() -> list[dict[str, Any]]:
    groups = yaml.safe_load((PROJECT / "serve/alerts.yaml").read_text(encoding="utf-8"))["groups"]
    return [rule for group in groups for rule in group["rules"]]


@pytest.fixture(scope="module")
def expressions(board: dict[str, Any], rules: list[dict[str, Any]]) -> list[str]:
    panels = [target["expr"] for panel in board["panels"] for target in panel.get("targets", [])]
    variables = [
        variable["query"]["query"]
        for variable in board["templating"]["list"]
        if variable["type"] == "query"
    ]
    return panels + variables + [rule["expr"] for rule in rules]


def difference(ours: Any, theirs: Any, path: str = "") -> list[str]:
    """Where `theirs`, which may have more fields, does not hold what `ours` does."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        return [
            line
            for name, value in ours.items()
            for line in difference(value, theirs.get(name), f"{path}/{name}")
        ]
    if isinstance(ours, list) and isinstance(theirs, list) and len(ours) == len(theirs):
        pairs = enumerate(zip(ours, theirs, strict=True))
        return [line for at, (a, b) in pairs for line in difference(a, b, f"{path}/{at}")]
    return [] if ours == theirs else [f"{path}: {ours!r}, read as {theirs!r}"]


def test_grafanas_own_types_know_every_field(board: dict[str, Any]) -> None:
    """Grafana's SDK drops fields that its schema lacks, and keeps all others."""
    register_default_plugins()
    read = json.loads(JSONEncoder().encode(Dashboard.from_json(board)))
    assert difference(board, read) == []
    misspelt = json.loads(json.dumps(board).replace('"gridPos"', '"gridpos"'))
    read = json.loads(JSONEncoder().encode(Dashboard.from_json(misspelt)))
    assert difference(misspelt, read)


def metrics_in(expression: str) -> set[str]:
    return set(re.findall(r"\bray_[a-z0-9_]+", expression))


def base_of(metric: str) -> str:
    """The name of a histogram's series without what Prometheus puts behind it."""
    for suffix in SUFFIXES:
        if metric.removesuffix(suffix) in KINDS or metric.endswith(f"_ms{suffix}"):
            return metric.removesuffix(suffix)
    return metric


@pytest.fixture(scope="module")
def names_in_ray() -> set[str]:
    """Every string in Ray's Python source that could be a metric's name."""
    sources = [*(RAY / "serve").rglob("*.py"), *(RAY / "dashboard/modules/reporter").glob("*.py")]
    strings: set[str] = set()
    for source in sources:
        text = source.read_text(encoding="utf-8").replace("{protocol_name}", "http")
        strings.update(re.findall(r"\"((?:serve|node)_[a-z0-9_]+)\"", text))
    return strings


def test_every_metric_exists(expressions: list[str], names_in_ray: set[str]) -> None:
    missing = set()
    for metric in set().union(*map(metrics_in, expressions)):
        name = base_of(metric).removeprefix("ray_")
        exists = base_of(metric) in KINDS or name in names_in_ray
        if not exists and name.removesuffix("_total") not in names_in_ray:
            missing.add(metric)
    assert not missing


def test_a_name_that_ray_does_not_have_would_be_noticed(names_in_ray: set[str]) -> None:
    assert len(names_in_ray) > 50
    assert "serve_deployment_replica_healty" not in names_in_ray


def test_every_metric_of_the_project_is_shown(board: dict[str, Any]) -> None:
    shown = {
        base_of(metric)
        for panel in board["panels"]
        for target in panel.get("targets", [])
        for metric in metrics_in(target["expr"])
    }
    assert not set(KINDS) - shown


APPEARED = re.compile(r"\((ray_\w+\{[^}]*\})\s+unless \1 offset \w+\)")


def test_metrics_are_used_as_what_they_are(expressions: list[str]) -> None:
    for whole in expressions:
        expression = APPEARED.sub("()", whole)  # the other way to ask whether a counter grew
        for metric in metrics_in(expression):
            kind = KINDS.get(base_of(metric))
            measured = metric.startswith("ray_node_")  # gauges, ray_node_mem_total among them
            accumulates = metric.endswith((*SUFFIXES, "_total")) and not measured
            growing = re.findall(rf"(?:rate|increase)\({metric}\b", expression)
            uses = re.findall(rf"\b{metric}\b", expression)
            assert len(growing) == (len(uses) if accumulates else 0), expression
            assert kind != "histogram" or metric.endswith(SUFFIXES), expression
            assert kind is None or metric.endswith("_total") == (kind == "counter"), expression
            if metric.endswith("_bucket"):
                assert re.search(r"histogram_quantile\(0\.\d+, sum by \(le\b", expression)


def declared_labels() -> dict[str, set[str]]:
    """The tags of the project's metrics, read from the source of `serve.common.metrics`."""
    tree = ast.parse((PROJECT / "serve/common/metrics.py").read_text(encoding="utf-8"))
    labels: dict[str, set[str]] = {}
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
        first = call.args[0] if call.args else None
        name = first.value if isinstance(first, ast.Constant) else None
        if isinstance(name, str) and name.startswith("seqvis_"):
            tags = next(
                (keyword.value for keyword in call.keywords if keyword.arg == "tag_keys"), None
            )
            given = set(ast.literal_eval(tags)) if tags is not None else set()
            labels.setdefault(f"ray_{name}", set()).update(given)
    return labels


def test_the_project_declares_the_metrics_of_the_contract() -> None:
    assert set(declared_labels()) == set(KINDS)


def test_labels_exist(expressions: list[str]) -> None:
    labels = declared_labels()
    for expression in expressions:
        metrics = {base_of(metric) for metric in metrics_in(expression)}
        if not metrics or not metrics <= set(KINDS):
            continue
        known = ADDED_BY_RAY.union(*(labels[metric] for metric in metrics))
        grouped = re.findall(r"\bby \(([^)]*)\)", expression)
        used = {label.strip() for group in grouped for label in group.split(",")}
        used |= set(re.findall(r"[{,]\s*([a-z_]+)\s*(?:=~|!=|!~|=)", expression))
        assert used <= known, expression


def test_every_panel_says_what_it_shows(board: dict[str, Any]) -> None:
    for panel in board["panels"]:
        assert panel["title"]
        if panel["type"] != "row":
            assert panel["description"].endswith("."), panel["title"]
            assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
            assert panel["targets"], panel["title"]


def test_rows_ids_and_places_are_in_order(board: dict[str, Any]) -> None:
    panels = board["panels"]
    rows = [panel["title"] for panel in panels if panel["type"] == "row"]
    assert rows == ["Translation", "Search", "Gateway", "Replicas"]
    identities = [panel["id"] for panel in panels]
    assert len(set(identities)) == len(identities)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= 24
        cells = {
            (column, line)
            for column in range(at["x"], at["x"] + at["w"])
            for line in range(at["y"], at["y"] + at["h"])
        }
        assert not cells & taken, panel["title"]
        taken |= cells


def test_the_data_source_is_chosen_on_the_page(board: dict[str, Any]) -> None:
    names = {variable["name"]: variable["type"] for variable in board["templating"]["list"]}
    assert names == {"datasource": "datasource", "application": "query", "deployment": "query"}
    for panel in board["panels"]:
        for part in [panel, *panel.get("targets", [])] if panel["type"] != "row" else []:
            assert part["datasource"] == {"type": "prometheus", "uid": "${datasource}"}


def test_every_alarm_can_be_understood_and_is_explained(rules: list[dict[str, Any]]) -> None:
    names = [rule["alert"] for rule in rules]
    assert len(set(names)) == len(names)
    manual = (PROJECT / "docs/operate/monitoring.md").read_text(encoding="utf-8")
    for rule in rules:
        assert set(rule) <= {"alert", "expr", "for", "labels", "annotations"}
        assert re.fullmatch(r"\d+[smh]", rule.get("for", "1m"))
        assert rule["labels"]["severity"] in ("page", "ticket")
        assert set(rule["annotations"]) == {"summary", "description"}
        assert f"`{rule['alert']}`" in manual, "docs/operate/monitoring.md explains every alarm"
