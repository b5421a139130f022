"""Steps that are made ahead of the host give what it finds word by word."""

import pytest
import torch

from seqvis.decoding.ahead import Group, decode_ahead
from seqvis.decoding.batch import RunningBatch
from seqvis.decoding.beam import DecodingSettings, Hypothesis, start_decoding
from seqvis.decoding.packed import PackedSeq2Seq
from seqvis.seq2seq import recurrent
from seqvis.seq2seq.settings import Variant
from seqvis.seq2seq.state import SourceBatch
from seqvis.text.vocabulary import EOS
from tests.support.fakecuda import Cudnn, fake_cuda
from tests.support.models import build, sources
from tests.support.recording import record

TEXTS = sources(*(3 + (7 * n) % 11 for n in range(8)), 30, *(4 + n % 5 for n in range(5)))


def model(variant: Variant) -> PackedSeq2Seq:
    """One with which some translations end and others are cut."""
    made = build(variant)
    with torch.no_grad():
        made.decoder.projection.weight.mul_(3)
        made.decoder.projection.bias[EOS] += variant == "all"
    return PackedSeq2Seq(made)


def decode(packed: PackedSeq2Seq, beams: tuple[int, ...], ahead: int) -> list[list[Hypothesis]]:
    """Sentences join two by two."""
    batch = RunningBatch(packed, ahead)
    decodings = []
    for number in range(0, len(TEXTS), 2):
        group = TEXTS[number : number + 2]
        joining = [
            start_decoding(len(ids), DecodingSettings(beam=beam, n_best=beam))
            for ids, beam in zip(group, beams * 2, strict=False)
        ]
        batch.join(joining, packed.encode(SourceBatch.of(group)))
        decodings += joining
        batch.step(ahead)
    while batch.rows:
        batch.step(ahead)
    return [decoding.hypotheses for decoding in decodings]


def assert_same(actual: list[list[Hypothesis]], expected: list[list[Hypothesis]]) -> None:
    for hypotheses, references in zip(actual, expected, strict=True):
        assert [best.ids for best in hypotheses] == [best.ids for best in references]
        for ours, theirs in zip(hypotheses, references, strict=True):
            assert ours.score == pytest.approx(theirs.score, abs=1e-4)
            assert ours.finished == theirs.finished
            torch.testing.assert_close(ours.attention, theirs.attention)


@pytest.mark.parametrize("variant", ["plain", "all"])
@pytest.mark.parametrize("beams", [(1,), (3,), (1, 4)])
def test_sentences_are_translated_the_same_however_far_ahead(
    beams: tuple[int, ...], variant: Variant
) -> None:
    packed = model(variant)
    expected = decode(packed, beams, 1)
    assert True in [best.finished for hypotheses in expected for best in hypotheses]
    for ahead in (2, 8):
        assert_same(decode(packed, beams, ahead), expected)


@pytest.mark.parametrize("beams", [(1,), (3,), (1, 4)])
def test_recorded_steps_give_the_same(beams: tuple[int, ...]) -> None:
    packed = model("all")
    expected = decode(packed, beams, 1)
    packed.graphs, replays = record()
    for _ in range(2):
        assert_same(decode(packed, beams, 8), expected)
    assert replays() > 3 or len(beams) > 1


@pytest.mark.parametrize("beam", [1, 3])
def test_no_step_waits_for_a_gpu(beam: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recurrent, "_gru", Cudnn())
    with fake_cuda(), torch.device("cuda"):
        packed = PackedSeq2Seq(build("all"))
        ids = torch.zeros(12, 8, dtype=torch.long)
        state = packed.encode(SourceBatch(ids, torch.zeros(12)))
        group = Group(slice(9), torch.zeros(9 // beam, beam))
        ahead = decode_ahead(packed, torch.zeros(12, dtype=torch.long), state, [group], 3)
        assert ahead.hidden.is_cuda
        assert [part.shape for part in ahead.best[0]] == [(3, 9 // beam, 1 if beam == 1 else 6)] * 3
