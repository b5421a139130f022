"""The benchmark's instrument: turns, ratios, goals; and its peers compute what they claim to."""

import pytest
import torch

from benchmarks.instrument import Row, Side, as_markdown, chart, compare
from benchmarks.peers import LessonTraining
from jobs.benchmark import Benchmark
from seqvis.errors import ConfigError
from seqvis.seq2seq.model import Seq2Seq
from seqvis.seq2seq.settings import ForcingSettings, ModelSettings, Variant, resolve_variant
from seqvis.seq2seq.state import SourceBatch
from seqvis.text.vocabulary import EOS
from seqvis.translation.batches import Batch


def row() -> Row:
    """A reference of 10, a side that is 2.5 times as fast and one that is 1.5 times."""
    order: list[str] = []

    def side(name: str, rates: list[float], **goals: float | str) -> Side:
        left = iter(rates)

        def run() -> float:
            order.append(name)
            return next(left)

        return Side(name, run, **goals)  # type: ignore[arg-type]

    sides = [
        side("reference", [9, 10, 11]),
        side("quick", [25, 20, 40], at_least=2, limit="limit", of_limit=0.5),
        side("slow", [15, 15, 15], at_least=2, limit="limit", of_limit=0.5),
        side("limit", [50, 50, 40]),
    ]
    compared = compare("stage", "things/s", sides, 3)
    assert order == ["reference", "quick", "slow", "limit"] * 3
    return compared


def test_sides_take_turns_and_are_compared_by_their_medians() -> None:
    compared = row()
    assert compared.times("quick") == 2.5
    assert compared.times("slow") == 1.5
    assert compared.share(compared.sides[1]) == 0.5
    assert compared.spread("quick") == pytest.approx(10 / 25)


def test_what_is_not_reached_is_marked_and_named() -> None:
    compared = row()
    assert compared.missed() == ["slow"]
    lines = as_markdown([compared]).splitlines()
    assert lines[2].startswith("| stage, things/s | reference | 10 |")
    assert "| 2 | 50% | 50% |" in lines[3]
    assert "| 2 ! | 30% | 50% ! |" in lines[4]
    assert compared.as_json()["sides"]["slow"]["times"] == 1.5


def test_the_chart_is_a_picture() -> None:
    assert chart([row()]).startswith(b"\x89PNG")


def test_an_unknown_stage_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match="only"):
        Benchmark.from_command_line(["--only", "cooking"])


@pytest.mark.parametrize("variant", ["plain", "attn"])
def test_the_lessons_loop_has_our_loss_and_our_gradients(variant: Variant) -> None:
    torch.manual_seed(0)
    given = ModelSettings(embedding_size=24, hidden_size=16)
    settings, _ = resolve_variant(variant, given, ForcingSettings())
    ours = Seq2Seq(settings, 40, 30)
    ours.eval()
    lesson = LessonTraining(ours, forced=True)
    lesson.model.eval()
    source, target = torch.randint(4, 40, (6, 7)), torch.randint(4, 30, (6, 5))
    source[:, -1] = target[:, -1] = EOS
    batch = Batch(SourceBatch(source, torch.full((6,), 7)), target, 30, 30)
    forced = torch.ones(5, dtype=torch.bool)
    output = ours(batch.source, batch.target, forced)
    loss = torch.nn.functional.cross_entropy(
        ours.decoder.projection(output.features).flatten(0, 1), target.t().flatten()
    )
    theirs = lesson.loss(batch)
    assert theirs.item() == pytest.approx(loss.item(), rel=1e-5)
    loss.backward()
    theirs.backward()
    for mine, other in (
        (ours.decoder.embedding.weight, lesson.model.emb_dec.weight),
        (ours.encoder.embedding.weight, lesson.model.emb_enc.weight),
        (ours.decoder.layers[0].weight_hh, lesson.model.gru_dec.weight_hh_l0),
    ):
        assert torch.allclose(mine.grad, other.grad, atol=1e-6)  # type: ignore[arg-type]
