"""Small translation models with random weights, and sentences for them."""

from typing import Any

import torch

from seqvis.seq2seq.model import Seq2Seq
from seqvis.seq2seq.settings import ForcingSettings, ModelSettings, Variant, resolve_variant


def build(variant: Variant, **options: Any) -> Seq2Seq:
    torch.manual_seed(0)
    settings = ModelSettings(embedding_size=12, hidden_size=10, **options)
    model = Seq2Seq(resolve_variant(variant, settings, ForcingSettings())[0], 40, 30)
    with torch.no_grad():
        model.decoder.projection.bias.normal_()
    return model.eval()


def sources(*lengths: int) -> list[list[int]]:
    generator = torch.Generator().manual_seed(1)
    return [[*torch.randint(4, 40, (n - 1,), generator=generator).tolist(), 2] for n in lengths]
