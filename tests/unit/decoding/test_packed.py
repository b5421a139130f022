"""A model laid out for translating computes what the plain model does, whatever stands beside."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.nn import functional

from seqvis.decoding import linear
from seqvis.decoding import packed as packing
from seqvis.decoding.batch import RunningBatch
from seqvis.decoding.beam import DecodingSettings, start_decoding
from seqvis.decoding.linear import Precision, computes, pack_linear
from seqvis.decoding.packed import PackedSeq2Seq
from seqvis.decoding.search import search
from seqvis.errors import ConfigError
from seqvis.samples.questions import generate_pairs
from seqvis.seq2seq.settings import Variant
from seqvis.seq2seq.state import NEVER_GENERATED, SourceBatch
from seqvis.text.vocabulary import BOS, PAD
from seqvis.translation.translator import Translator
from tests.support.models import build, sources

ROWS = (2, 3, 5, 16, 33)
NEEDS_BFLOAT16, NEEDS_FLOAT16, NEEDS_INT8 = (
    pytest.mark.skipif(not computes(name), reason=f"this processor has no {name} products")
    for name in ("bfloat16", "float16", "int8")
)


@pytest.mark.parametrize(
    ("variant", "options"),
    [
        ("plain", {}),
        ("bidir", {"readout": "context"}),
        ("force", {"decoder_size": 14}),
        ("attn", {"attention_activation": "relu", "tie_output": False}),
        ("all", {}),
        ("all", {"readout": "context", "decoder_size": 14, "attention_size": 9}),
        ("all", {"bidirectional": "first", "layers": 3, "decoder_layers": 2}),
        ("plain", {"cell": "lstm", "decoder_size": 14}),
        ("all", {"cell": "lstm", "bidirectional": "first", "readout": "context"}),
    ],
)
@pytest.mark.parametrize("words", [(4, 9, 1, 9, 6), (7,), (1,)], ids=["some", "one", "empty"])
@pytest.mark.parametrize("on_cpu", [True, False], ids=["as on a CPU", "as on a GPU"])
def test_it_computes_what_the_plain_model_does(
    variant: Variant,
    options: dict[str, Any],
    words: tuple[int, ...],
    on_cpu: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = build(variant, **options)
    if not on_cpu:
        monkeypatch.setattr(packing, "PackedEncoder", lambda encoder, precision: encoder)
        monkeypatch.setattr(linear, "_packed", linear._plain)
    packed = PackedSeq2Seq(model)
    source = SourceBatch.of(sources(*words))
    with torch.no_grad():
        state, expected = packed.encode(source), model.encode(source)
        torch.testing.assert_close(state.hidden, expected.hidden)
        for last in torch.tensor([[BOS] * 5, [4, 5, 6, 7, 8], [9, 9, 3, 29, 11]])[:, : len(words)]:
            output, reference = packed.step(last, state), model.step(last, expected)
            state, expected = output.state, reference.state
            torch.testing.assert_close(output.scores, reference.scores)
            assert (output.scores[:, NEVER_GENERATED] == -torch.inf).all()
            torch.testing.assert_close(state.hidden, expected.hidden)
            assert (output.attention is None) == (reference.attention is None)
            if output.attention is not None and reference.attention is not None:
                torch.testing.assert_close(output.attention, reference.attention)
                assert (output.attention[source.ids == PAD] == 0).all()


@pytest.mark.parametrize("readout", ["state", "context"])
def test_without_a_memory_an_attending_decoder_leaves_the_context_out(readout: str) -> None:
    model = build("all", readout=readout)
    packed, words = PackedSeq2Seq(model), torch.tensor([5, 6, 7])
    state = replace(model.encode(SourceBatch.of(sources(4, 9, 6))), memory=None)
    with torch.no_grad():
        output, reference = packed.step(words, state), model.step(words, state)
        torch.testing.assert_close(output.scores, reference.scores)
        assert output.attention is None
        inputs = model.decoder.mix_embedding(model.decoder.embedding(words))
        first, last = model.decoder.recurrent_layers()
        hidden = torch.gru_cell(inputs, state.hidden[0], *first.parameters())
        hidden = torch.gru_cell(hidden, state.hidden[1], *last.parameters())
    torch.testing.assert_close(reference.state.hidden[-1], hidden)


@pytest.mark.parametrize("beam", [1, 3])
def test_search_takes_any_step_model(beam: int) -> None:
    model = build("all")
    source, settings = SourceBatch.of(sources(4, 9, 6, 3)), DecodingSettings(beam=beam)
    with torch.no_grad():
        expected = search(model, source, settings)
    for ours, theirs in zip(search(PackedSeq2Seq(model), source, settings), expected, strict=True):
        assert ours[0].ids == theirs[0].ids
        assert ours[0].score == pytest.approx(theirs[0].score, abs=1e-4)


@pytest.mark.parametrize(
    "precision",
    [
        "float32",
        pytest.param("bfloat16", marks=NEEDS_BFLOAT16),
        pytest.param("int8", marks=NEEDS_INT8),
    ],
)
def test_a_row_is_the_same_to_the_last_bit_in_whatever_company(
    precision: Precision,
) -> None:
    torch.manual_seed(2)
    inputs = torch.randn(max(ROWS), 48)
    product = pack_linear(torch.randn(300, 48), torch.randn(300), precision)
    together = product(inputs)
    for rows in ROWS:
        assert torch.equal(product(inputs[:rows]), together[:rows])
        assert torch.equal(product(inputs[-rows:]), together[-rows:])
    torch.testing.assert_close(product(inputs[5:6]), together[5:6])  # alone, nearly


@NEEDS_FLOAT16
def test_float16_is_nearly_the_same_in_whatever_company() -> None:
    torch.manual_seed(2)
    inputs = torch.randn(max(ROWS), 48)
    product = pack_linear(torch.randn(300, 48), torch.randn(300), "float16")
    together = product(inputs)
    for rows in (1, *ROWS):
        torch.testing.assert_close(product(inputs[:rows]), together[:rows])


@pytest.mark.parametrize(
    ("precision", "error"),
    [
        ("float32", 1e-6),
        pytest.param("bfloat16", 8e-3, marks=NEEDS_BFLOAT16),
        pytest.param("float16", 5e-4, marks=NEEDS_FLOAT16),
        pytest.param("int8", 2e-2, marks=NEEDS_INT8),
    ],
)
def test_products_are_as_exact_as_their_precision(precision: Precision, error: float) -> None:
    """Twice bfloat16's rounding of 2^-8, once float16's of 2^-11; for int8, steps of a 127th of a
    row's largest number."""
    torch.manual_seed(3)
    inputs, weight, bias = torch.randn(20, 64), torch.randn(50, 64), torch.randn(50)
    exact = functional.linear(inputs.double(), weight.double(), bias.double())
    products = pack_linear(weight, bias, precision)(inputs)
    assert products.dtype == torch.float32
    assert float((products - exact).norm() / exact.norm()) < error
    assert torch.isfinite(pack_linear(weight * 0, None, precision)(inputs * 0)).all()


@pytest.mark.parametrize("precision", ["float16", "int8"])
def test_some_precisions_are_for_processors(precision: Precision) -> None:
    class OnGPU(torch.Tensor):
        is_cuda = True

    with pytest.raises(ConfigError, match=f"{precision} is for CPUs"):
        pack_linear(torch.zeros(2, 2).as_subclass(OnGPU), None, precision)


@pytest.mark.parametrize("precision", ["bfloat16", "float16", "int8"])
def test_a_precision_that_the_processor_lacks_is_refused(
    monkeypatch: pytest.MonkeyPatch, precision: Precision
) -> None:
    monkeypatch.setattr("seqvis.decoding.linear.computes", lambda name: False)
    with pytest.raises(ConfigError, match=f"{precision} needs a processor"):
        pack_linear(torch.zeros(2, 2), None, precision)


def test_autocast_around_it_changes_nothing() -> None:
    source = SourceBatch.of(sources(4, 9))
    plain = PackedSeq2Seq(build("all")).encode(source)
    with torch.autocast("cpu", torch.bfloat16):
        cast = PackedSeq2Seq(build("all")).encode(source)
    assert torch.equal(plain.hidden, cast.hidden)


def test_it_draws_no_random_numbers() -> None:
    """Training goes on alike whether or not a validation came between."""
    model = build("all")
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    PackedSeq2Seq(model)
    assert torch.equal(torch.rand(1), expected)


@pytest.mark.parametrize(
    "precision",
    [pytest.param("float16", marks=NEEDS_FLOAT16), pytest.param("int8", marks=NEEDS_INT8)],
)
def test_rounded_weights_translate_nearly_all_as_float32_does(
    translator: Translator, precision: Precision
) -> None:
    texts = [pair[0] for pair in generate_pairs(150, seed=12)]
    rounded = Translator(translator.models, translator.languages, precision)
    exact, approximate = translator.translate(texts), rounded.translate(texts)
    same = sum(
        reference.text == translation.text
        for reference, translation in zip(exact, approximate, strict=True)
    )
    assert same >= 0.9 * len(texts)


@pytest.mark.parametrize("beams", [(1,), (3,), (1, 4, 2)])
def test_sentences_that_come_and_go_are_translated_as_alone(beams: tuple[int, ...]) -> None:
    """With one long sentence, whose room is given back when it has left."""
    packed = PackedSeq2Seq(build("all"))
    texts = sources(*(3 + (7 * n) % 11 for n in range(18)), 60, *(4 + n % 5 for n in range(12)))
    settings = [DecodingSettings(beam=beams[n % len(beams)], n_best=1) for n in range(len(texts))]
    alone = [
        search(packed, SourceBatch.of([ids]), chosen)[0][0]
        for ids, chosen in zip(texts, settings, strict=True)
    ]
    batch = RunningBatch(packed)
    decodings = [
        start_decoding(len(ids), chosen) for ids, chosen in zip(texts, settings, strict=True)
    ]
    for number in range(0, len(texts), 2):
        group = slice(number, number + 2)
        batch.join(decodings[group], packed.encode(SourceBatch.of(texts[group])))
        for _ in range(3):
            if batch.rows:
                batch.step()
    while batch.rows:
        batch.step()
    for decoding, expected in zip(decodings, alone, strict=True):
        (hypothesis,) = decoding.hypotheses
        assert hypothesis.ids == expected.ids
        assert hypothesis.score == pytest.approx(expected.score, abs=1e-4)
        torch.testing.assert_close(hypothesis.attention, expected.attention)
