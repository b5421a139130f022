"""Language models of an encoder's and a decoder's form: no direction sees what it predicts."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from seqvis.seq2seq.language_model import DecoderLanguageModel, EncoderLanguageModel
from seqvis.seq2seq.settings import ForcingSettings, ModelSettings, Variant, resolve_variant
from seqvis.seq2seq.state import SourceBatch

WORDS = 20
SENTENCES = [[5, 6, 7, 8, 9, 2], [5, 9, 2], [4, 2]]


def settings(variant: Variant, **options: object) -> ModelSettings:
    sizes = {"embedding_size": 12, "hidden_size": 10, **options}
    return resolve_variant(variant, ModelSettings.model_validate(sizes), ForcingSettings())[0]


def gradients_by_place(model: EncoderLanguageModel, number: int) -> Tensor:
    """Return whether the state after a word (rows) depends on a word (columns), of one reading."""
    layers = model._directions()[number]
    ids = torch.tensor([[5, 6, 7, 8, 9]])
    depends = torch.zeros(5, 5, dtype=torch.bool)
    table = model.encoder.embedding.weight
    for place in range(5):
        states = model._run(ids.t(), layers, number, torch.tensor([5]))
        model.zero_grad()
        states[place].sum().backward()  # type: ignore[no-untyped-call]
        assert table.grad is not None
        depends[place] = table.grad[ids[0]].abs().sum(1) > 0
    return depends


@pytest.mark.parametrize(
    ("bidirectional", "cell"),
    [("none", "gru"), ("first", "gru"), ("all", "gru"), ("all", "lstm")],
)
def test_a_state_knows_the_words_up_to_its_own_alone(bidirectional: str, cell: str) -> None:
    chosen = settings("all", bidirectional=bidirectional, cell=cell)
    model = EncoderLanguageModel(chosen, WORDS).eval()
    assert len(model._directions()) == (1 if bidirectional == "none" else 2)
    for number in range(len(model._directions())):
        assert torch.equal(gradients_by_place(model, number), torch.ones(5, 5).tril().bool())


@pytest.mark.parametrize("variant", ["plain", "all"])
def test_the_encoders_loss_is_the_mean_of_its_directions(variant: Variant) -> None:
    model = EncoderLanguageModel(settings(variant), WORDS).eval()
    loss, plain = model(SourceBatch.of(SENTENCES))
    total = torch.zeros(())
    for number, layers in enumerate(model._directions()):
        for sentence in SENTENCES:
            read = torch.tensor(sentence if number == 0 else sentence[::-1])
            lengths = torch.tensor([len(read) - 1])
            states = model._run(read[:-1, None], layers, number, lengths)[:, 0]
            scores = (
                model.readouts[number](states) @ model.encoder.embedding.weight.t() + model.bias
            )
            total = total + functional.cross_entropy(scores, read[1:], reduction="sum")
    torch.testing.assert_close(loss, total / len(model.readouts))
    torch.testing.assert_close(plain, loss)
    loss.backward()
    without = {name for name, tensor in model.named_parameters() if tensor.grad is None}
    assert without == set()


@pytest.mark.parametrize(
    ("readout", "cell"), [("state", "gru"), ("context", "gru"), ("state", "lstm")]
)
def test_the_decoders_loss_is_that_of_the_decoder_without_a_source(readout: str, cell: str) -> None:
    model = DecoderLanguageModel(settings("all", readout=readout, cell=cell), WORDS).eval()
    loss, plain = model(SourceBatch.of(SENTENCES))
    alone = [model(SourceBatch.of([sentence])) for sentence in SENTENCES]
    torch.testing.assert_close(loss, sum(result[0] for result in alone))
    torch.testing.assert_close(plain, loss)
    changed = [[5, 6, 7, 8, 4, 2], *SENTENCES[1:]]
    assert model(SourceBatch.of(changed))[0] != loss
    loss.backward()
    without = {
        name
        for name, tensor in model.named_parameters()
        if tensor.requires_grad and tensor.grad is None
    }
    assert without == set()
