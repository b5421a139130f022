"""The table of times and costs: computed as it says, and the one that the document shows."""

from pathlib import Path

import pytest
import yaml

from benchmarks.cluster_cost import INPUTS, Inputs, as_table, cost_of, main, read_inputs
from seqvis.errors import ConfigError

DOCUMENT = Path(__file__).parents[3] / "docs" / "operate" / "cluster.md"


def inputs(**changes: object) -> Inputs:
    """A head for a dollar an hour, workers with four cores and a GPU for two, one on the spot."""
    head = {"instance": "h", "cores": 2, "gpus": 0, "on_demand": 1, "spot": 1}
    worker = {"instance": "w", "cores": 4, "gpus": 1, "on_demand": 2, "spot": 1}
    stage = {"name": "s", "rate": "r", "amount": 36000, "machine": "worker", "machines": 1}
    return Inputs.model_validate(
        {
            "prices": "made up",
            "machines": {"head": head, "worker": worker},
            "node_start_minutes": 0,
            "efficiency": 0.5,
            "rates": {
                "r": {"unit": "u", "core": 5, "gpu": 10, "origin": "measured", "source": "-"}
            },
            "stages": [stage | changes],
        }
    )


def test_a_machine_is_as_fast_as_its_slower_part() -> None:
    chosen = inputs()
    cost = cost_of(chosen.stages[0], chosen)
    assert cost.per_second == 10, "the GPU, for the cores would do 20"
    assert cost.minutes == 60
    assert (cost.on_demand, cost.spot) == (1 + 2, 1 + 1)


def test_many_machines_reach_a_share_of_their_speed() -> None:
    chosen = inputs(machines=4)
    cost = cost_of(chosen.stages[0], chosen)
    assert cost.per_second == 4 * 10 * 0.5
    assert cost.on_demand == pytest.approx(0.5 * (1 + 4 * 2))


def test_a_job_on_the_head_waits_for_no_machine_and_pays_for_none() -> None:
    chosen = inputs(machines=0, machine="head").model_copy(update={"node_start_minutes": 9.0})
    chosen = chosen.model_copy(
        update={"rates": {"r": chosen.rates["r"].model_copy(update={"gpu": None})}}
    )
    cost = cost_of(chosen.stages[0], chosen)
    assert cost.minutes == 60
    assert cost.on_demand == 1


def test_an_unknown_key_is_an_error(tmp_path: Path) -> None:
    content = yaml.safe_load(INPUTS.read_text(encoding="utf-8")) | {"discount": 0.5}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    with pytest.raises(ConfigError, match=r"mine\.yaml: discount: no such key"):
        read_inputs(tmp_path / "mine.yaml")


def test_the_document_shows_what_the_command_prints(capsys: pytest.CaptureFixture[str]) -> None:
    main([])
    printed = capsys.readouterr().out
    assert printed == as_table(read_inputs(INPUTS))
    assert printed in DOCUMENT.read_text(encoding="utf-8")
    assert "not measured here" in printed
