"""What the gateway asks of a translator; light, so that the gateway need not load torch."""

from dataclasses import dataclass

from seqvis.translation.cost import Cost


@dataclass(frozen=True)
class Work:
    """How the texts of a request are to be translated, and what is to be told of it."""

    beam: int = 1
    n_best: int = 1
    length_penalty: float = 1.0
    attention: bool = False
    partial: bool = False
    most: Cost | None = None  # what all the texts may cost, as the model reads them
