"""Small translation models with random weights, sentences for them, and copies of translators."""

from pathlib import Path
from typing import Any

import torch

from seqvis import artifacts
from seqvis.seq2seq.model import Seq2Seq
from seqvis.seq2seq.settings import ForcingSettings, ModelSettings, Variant, resolve_variant
from seqvis.seq2seq.state import NEVER_GENERATED, SourceBatch
from seqvis.translation.translator import Translator

TIE = 1e-4  # nats; float32 rounds sums of some hundred products to about this


def build(variant: Variant, **options: Any) -> Seq2Seq:
    torch.manual_seed(0)
    settings = ModelSettings(embedding_size=12, hidden_size=10, **options)
    model = Seq2Seq(resolve_variant(variant, settings, ForcingSettings())[0], 40, 30)
    with torch.no_grad():
        model.decoder.projection.bias.normal_()
    return model.eval()


def log_probability(model: Seq2Seq, source: list[int], ids: list[int]) -> float:
    """Of one target, each word given those before it, by the forced forward pass."""
    forced = torch.ones(len(ids), dtype=torch.bool)
    with torch.no_grad():
        output = model(SourceBatch.of([source]), torch.tensor([ids]), forced)
        scores = model.decoder.projection(output.features[:, 0])
        scores[:, NEVER_GENERATED] = -torch.inf
    logs = torch.log_softmax(scores, -1)
    return float(logs.gather(1, torch.tensor(ids)[:, None]).sum())


def is_tie(
    model: Seq2Seq, source: list[int], first: list[int], second: list[int], nats: float
) -> bool:
    """Whether two targets part at two words that are equally likely, up to so many nats."""
    pairs = enumerate(zip(first, second, strict=False))
    parting = next((place for place, (one, other) in pairs if one != other), None)
    if parting is None:
        return False
    scores = [log_probability(model, source, ids[: parting + 1]) for ids in (first, second)]
    return abs(scores[0] - scores[1]) < nats


def sources(*lengths: int) -> list[list[int]]:
    generator = torch.Generator().manual_seed(1)
    return [[*torch.randint(4, 40, (n - 1,), generator=generator).tolist(), 2] for n in lengths]


def copied(translator: Translator, folder: Path, without: str = "", **config: Any) -> str:
    """A copy of the translator's artifact without one of its files, or with other settings."""
    old = translator.artifact
    with artifacts.create(str(folder), "translator", {**old.config, **config}) as writer:
        writer.metrics.update(old.metrics)
        for name in old.files:
            if name != without:
                writer.path(name).write_bytes(old.file(name).read_bytes())
    return str(folder)
