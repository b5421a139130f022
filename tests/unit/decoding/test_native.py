"""The extension finds what PyTorch finds; where it may differ is said here."""

import math
import threading
import time
from typing import Any

import numpy as np
import pytest
import torch

from seqvis.decoding.batch import RunningBatch
from seqvis.decoding.beam import DecodingSettings, Hypothesis, start_decoding
from seqvis.decoding.linear import Precision
from seqvis.decoding.native import NativeBatch, NativeSeq2Seq, has_native, pack_models, start_batch
from seqvis.decoding.packed import PackedSeq2Seq
from seqvis.decoding.search import search
from seqvis.native import library
from seqvis.seq2seq.model import Seq2Seq
from seqvis.seq2seq.state import SourceBatch
from seqvis.text.vocabulary import EOS
from tests.support.models import TIE, build, is_tie, log_probability, sources

pytestmark = pytest.mark.skipif(
    not has_native("float32"), reason="seqvis/native was not built, or is switched off: make native"
)
NEEDS_BFLOAT16, NEEDS_INT8 = (
    pytest.mark.skipif(not has_native(name), reason=f"this processor has no {name} products")
    for name in ("bfloat16", "int8")
)
PRECISIONS = [
    "float32",
    pytest.param("bfloat16", marks=NEEDS_BFLOAT16),
    pytest.param("int8", marks=NEEDS_INT8),
]
SOURCE = SourceBatch.of(sources(4, 9, 1, 9, 17))
SHORT = SourceBatch.of(sources(1))


def likelihood(model: Seq2Seq, source: list[int], found: Hypothesis, exponent: float) -> float:
    """Return the score of the words of a hypothesis by the model in float32."""
    words = [*found.ids, EOS] if found.finished else found.ids
    return log_probability(model, source, words) / ((5 + len(words)) / 6) ** exponent


@pytest.mark.parametrize(
    ("variant", "options", "precision"),
    [
        ("plain", {}, "float32"),
        ("bidir", {"readout": "context"}, "float32"),
        ("force", {"decoder_size": 14}, "float32"),
        ("attn", {"attention_activation": "relu", "tie_output": False}, "float32"),
        ("all", {"readout": "context", "decoder_size": 14, "attention_size": 9}, "float32"),
        ("all", {"bidirectional": "first", "layers": 3, "decoder_layers": 2}, "float32"),
        pytest.param("plain", {}, "bfloat16", marks=NEEDS_BFLOAT16),
        pytest.param("all", {"readout": "context"}, "bfloat16", marks=NEEDS_BFLOAT16),
        pytest.param("all", {"readout": "context"}, "int8", marks=NEEDS_INT8),
    ],
)
def test_it_finds_what_pytorch_finds(
    variant: Any, options: dict[str, Any], precision: Precision
) -> None:
    """All hypotheses, with their scores and attention; but of two that are equally likely up to
    rounding, either. PyTorch's bfloat16 rounds the results of its products, which the extension
    does not: this is compared with float32, and finds the same but for what bfloat16 rounds."""
    model = build(variant, **options)
    reduced = precision == "bfloat16"
    plain = PackedSeq2Seq(model, "float32" if reduced else precision)
    native = NativeSeq2Seq(model, precision)
    tie = {"float32": TIE, "bfloat16": 0.01, "int8": 0.0}[precision]
    for source, settings in (
        (SOURCE, DecodingSettings()),
        (SOURCE, DecodingSettings(beam=3, n_best=2)),
        (SHORT, DecodingSettings(beam=20, n_best=20, length_penalty=0.0)),  # 30 words in all
    ):
        actual, expected = search(native, source, settings), search(plain, source, settings)
        for ids, ours, theirs in zip(source.ids.tolist(), actual, expected, strict=True):
            words = ids[: ids.index(EOS) + 1]
            for hypothesis, reference in zip(ours, theirs, strict=True):
                if hypothesis.ids != reference.ids:
                    first, second = (
                        likelihood(model, words, found, settings.length_penalty)
                        for found in (hypothesis, reference)
                    )
                    ends = [*hypothesis.ids, EOS], [*reference.ids, EOS]
                    assert abs(first - second) < tie or (
                        settings.beam == 1 and is_tie(model, words, *ends, tie)
                    )
                    continue
                nats = (0.02 if reduced else 1e-5) * (len(hypothesis.ids) + 1)
                assert hypothesis.score == pytest.approx(reference.score, abs=nats)
                assert hypothesis.finished == reference.finished
                torch.testing.assert_close(
                    hypothesis.attention,
                    reference.attention,
                    atol=1e-2 if reduced else 1e-3,
                    rtol=0,
                )


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_sentence_is_the_same_to_the_last_bit_in_whatever_company(precision: Precision) -> None:
    """Alone, or among others that join and leave, greedily and with beams of several widths."""
    model = NativeSeq2Seq(build("all"), precision)
    texts = sources(4, 9, 1, 9, 6, 17, 30, *range(2, 30))
    kinds = [DecodingSettings(beam=beam, n_best=beam) for beam in (1, 4, 2)]
    chosen = [kinds[number % 3] for number in range(len(texts))]
    alone = [
        search(model, SourceBatch.of([text]), settings)[0]
        for text, settings in zip(texts, chosen, strict=True)
    ]
    batch = start_batch(model)
    decodings = [
        start_decoding(len(text), settings) for text, settings in zip(texts, chosen, strict=True)
    ]
    for begin in range(0, len(texts), 15):
        group = slice(begin, begin + 15)
        batch.join(decodings[group], model.encode(SourceBatch.of(texts[group])))
        batch.step(3)
    while batch.rows:
        batch.step()
    for decoding, expected in zip(decodings, alone, strict=True):
        for hypothesis, reference in zip(decoding.hypotheses, expected, strict=True):
            assert (hypothesis.ids, hypothesis.score) == (reference.ids, reference.score)
            assert (
                hypothesis.attention is None
                or reference.attention is None
                or torch.equal(hypothesis.attention, reference.attention)
            )


def test_dropped_sentences_leave_and_the_others_go_on() -> None:
    model = NativeSeq2Seq(build("all"))
    settings = DecodingSettings(beam=2)
    expected = search(model, SOURCE, settings)
    batch = start_batch(model)
    decodings = [start_decoding(length, settings) for length in SOURCE.lengths.tolist()]
    batch.join(decodings, model.encode(SOURCE))
    batch.step()
    assert batch.rows == 10
    batch.drop({decodings[0], decodings[3]})
    assert batch.rows == 6
    while batch.rows:
        batch.step()
    for place, decoding in enumerate(decodings):
        assert [hypothesis.ids for hypothesis in decoding.hypotheses] == (
            [] if place in (0, 3) else [expected[place][0].ids]
        )


def test_step_by_step_the_best_words_so_far_are_told() -> None:
    model = build("all")
    settings = DecodingSettings(beam=3)
    by_model = []
    for packed in (PackedSeq2Seq(model), NativeSeq2Seq(model)):
        batch = start_batch(packed)
        decoding = start_decoding(9, settings)
        batch.join([decoding], packed.encode(SourceBatch.of(sources(9))))
        words = []
        while batch.rows:
            batch.step()
            words.append(list(decoding.ids))
        assert batch.steps == len(words)
        assert batch.extended == 3 * len(words)
        by_model.append(words[:-1])
    assert by_model[0] == by_model[1]


def test_it_holds_no_lock_and_can_be_interrupted() -> None:
    """A sentence that would take minutes is stopped by another thread."""
    model = NativeSeq2Seq(build("all"))
    batch = start_batch(model)
    settings = DecodingSettings(max_length_factor=1e8)
    decoding = start_decoding(9, settings)
    with torch.no_grad():
        batch.join([decoding], model.encode(SourceBatch.of(sources(9))))
    thread = threading.Thread(target=batch.step, args=(1 << 30,))
    thread.start()
    time.sleep(0.05)
    assert thread.is_alive()
    batch.interrupt()
    thread.join(10)
    assert not thread.is_alive()
    assert batch.rows == 1
    assert batch.steps > 1


@pytest.mark.parametrize("beam", [1, 3])
def test_scores_that_are_not_numbers_give_as_many_words_as_in_pytorch(beam: int) -> None:
    model = build("all")
    with torch.no_grad():
        model.encoder.embedding.weight.fill_(torch.nan)
    settings = DecodingSettings(beam=beam)
    actual, expected = (
        search(packed, SHORT, settings)[0][0]
        for packed in (NativeSeq2Seq(model), PackedSeq2Seq(model))
    )
    assert len(actual.ids) == len(expected.ids) > 1
    assert math.isnan(actual.score)
    assert not actual.finished


def test_weights_of_another_type_are_refused() -> None:
    """It would read a copy that is gone."""
    weights = {"encoder.table": np.zeros((2, 2))}
    with pytest.raises(TypeError, match="incompatible"):
        library.Network(weights, library.Precision.float32, False, False)


def test_a_switch_turns_it_off(monkeypatch: pytest.MonkeyPatch) -> None:
    model = build("all")
    assert isinstance(pack_models([model]), NativeSeq2Seq)
    assert isinstance(start_batch(pack_models([model])), NativeBatch)
    assert isinstance(pack_models([model], "float16"), PackedSeq2Seq)  # it has no such products
    assert isinstance(pack_models([build("all", cell="lstm")]), PackedSeq2Seq)  # nor LSTMs
    monkeypatch.setenv("SEQVIS_NATIVE", "0")
    assert isinstance(pack_models([model]), PackedSeq2Seq)
    assert isinstance(start_batch(pack_models([model])), RunningBatch)
