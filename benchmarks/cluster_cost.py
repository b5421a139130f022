"""Expected time and cost of each stage on a cluster, from rates and prices that are written down.

In: `cluster_cost.yaml` beside this file, or another of its form. Out: the table of docs/cluster.md.
A stage's speed is that of its slowest part: with a rate for cores and one for GPUs, the GPUs wait
for the cores or the cores for them. Nothing is measured here. What would surprise a reader: a stage
on machines that must first be started pays for that too, and every stage pays for the head.

    python -m benchmarks.cluster_cost --inputs my-prices.yaml
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
        """Units a second of a whole machine."""
        parts = [
            rate * count
            for rate, count in ((self.core, machine.cores), (self.gpu, machine.gpus))
            if rate is not None
        ]
        return min(parts)


class Stage(Settings):
    """A job on some machines; 0 machines: in its driver, on the head."""

    name: str
    rate: str
    amount: float = Field(gt=0)
    machine: str
    machines: int = Field(ge=0)


class Inputs(Settings):
    """Everything that the table is computed from."""

    prices: str
    machines: dict[str, Machine]
    node_start_minutes: float = Field(ge=0)
    efficiency: float = Field(gt=0, le=1)
    rates: dict[str, Rate]
    stages: tuple[Stage, ...]


@dataclass(frozen=True)
class Cost:
    """What one stage takes."""

    stage: Stage
    per_second: float
    minutes: float  # with the start of its machines
    on_demand: float
    spot: float


def cost_of(stage: Stage, inputs: Inputs) -> Cost:
    """Time and price of a stage, the head's price included."""
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
    """The stages as a Markdown table, and the sources of the rates under it."""
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
    """Raises ConfigError for a file that cannot be read, an unknown key or a bad value."""
    inputs: Inputs = settings_from(Inputs, read_yaml(str(path)), str(path))
    return inputs


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Times and costs of the stages on a cluster.")
    parser.add_argument("--inputs", type=Path, default=INPUTS, help="YAML of rates and prices")
    print(as_table(read_inputs(parser.parse_args(arguments).inputs)), end="")


if __name__ == "__main__":
    main()
