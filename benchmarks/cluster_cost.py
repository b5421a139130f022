"""Expected time and cost of each stage on a cluster, from rates and prices in a YAML file.

    python -m benchmarks.cluster_cost --inputs my-prices.yaml

prints the table of docs/operate/cluster.md for `cluster_cost.yaml` or another of its form. Nothing
is measured here. A stage is as fast as its slower part: GPUs wait for cores, or cores for them. A
stage on machines that must first be started pays for that too, and every stage pays for the head.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import Field

from seqvis.config import Settings, read_yaml, settings_from

INPUTS = Path(__file__).with_suffix(".yaml")


class Machine(Settings):
    """A kind of machine; prices in dollars an hour."""

    instance: str
    cores: int = Field(ge=1)
    gpus: int = Field(ge=0)
    on_demand: float = Field(ge=0)
    spot: float = Field(ge=0)


class Rate(Settings):
    """Units of work a second of one core, one GPU, or of both together."""

    unit: str
    core: float | None = Field(None, gt=0)
    gpu: float | None = Field(None, gt=0)
    origin: Literal["measured", "published"]
    source: str

    def on(self, machine: Machine) -> float:
        """Return the units a second of a whole machine."""
        parts = ((self.core, machine.cores), (self.gpu, machine.gpus))
        return min(rate * count for rate, count in parts if rate is not None)


class Stage(Settings):
    """A job on some machines; 0 machines: in its driver on the head."""

    name: str
    rate: str
    amount: float = Field(gt=0)
    machine: str
    machines: int = Field(ge=0)


class Inputs(Settings):
    """The contents of the YAML file."""

    prices: str
    machines: dict[str, Machine]
    node_start_minutes: float = Field(ge=0)
    efficiency: float = Field(gt=0, le=1)
    rates: dict[str, Rate]
    stages: tuple[Stage, ...]


@dataclass(frozen=True)
class Cost:
    """Time and price of a stage; `minutes` include the start of its machines."""

    stage: Stage
    per_second: float
    minutes: float
    on_demand: float
    spot: float


def cost_of(stage: Stage, inputs: Inputs) -> Cost:
    """Compute time and price of a stage, the head's price included."""
    machine, head = inputs.machines[stage.machine], inputs.machines["head"]
    per_second = inputs.rates[stage.rate].on(machine)
    if stage.machines > 1:
        per_second *= stage.machines * inputs.efficiency
    start = inputs.node_start_minutes if stage.machines else 0
    minutes = stage.amount / per_second / 60 + start
    hours = minutes / 60
    on_demand, spot = (
        hours * (head.on_demand + stage.machines * price)
        for price in (machine.on_demand, machine.spot)
    )
    return Cost(stage, per_second, minutes, on_demand, spot)


def as_table(inputs: Inputs) -> str:
    """Write the stages as a Markdown table, and the sources of the rates under it."""
    lines = [
        "| stage | on | speed, units/s | minutes | $ on demand | $ spot |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for cost in (cost_of(stage, inputs) for stage in inputs.stages):
        stage, rate = cost.stage, inputs.rates[cost.stage.rate]
        instance = inputs.machines[stage.machine].instance
        place = f"{stage.machines} × {instance}" if stage.machines else f"the head, {instance}"
        mark = "" if rate.origin == "measured" else " ‡"
        lines.append(
            f"| {stage.name} | {place} | {cost.per_second:,.0f} {rate.unit}{mark} "
            f"| {cost.minutes:,.1f} | {cost.on_demand:.2f} | {cost.spot:.2f} |"
        )
    lines.append("")
    used = {stage.rate for stage in inputs.stages}
    for name, rate in inputs.rates.items():
        if name in used:
            mark = "" if rate.origin == "measured" else " ‡ not measured here"
            lines.append(f"- {name.replace('_', ' ')}: {rate.source}{mark}")
    return "\n".join(lines) + "\n"


def read_inputs(path: Path) -> Inputs:
    """Read and check the YAML file. Raises ConfigError."""
    inputs: Inputs = settings_from(Inputs, read_yaml(str(path)), str(path))
    return inputs


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description="Times and costs of the stages on a cluster.")
    parser.add_argument("--inputs", type=Path, default=INPUTS, help="YAML of rates and prices")
    print(as_table(read_inputs(parser.parse_args(arguments).inputs)), end="")


if __name__ == "__main__":
    main()
