"""Translations that join the running batch and leave it: the same text as offline, nobody waits."""

import queue
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import pytest

from seqvis.decoding.beam import DecodingSettings
from seqvis.decoding.cost import Cost
from seqvis.errors import BusyError, DataError
from seqvis.samples.questions import generate_pairs
from seqvis.seq2seq.state import SourceBatch
from seqvis.translation.inflight import InflightSettings, InflightTranslator
from seqvis.translation.requests import Listener, Timing
from seqvis.translation.results import Translation
from seqvis.translation.translator import Translator

GREEDY = DecodingSettings()
TEXTS = [pair[0] for pair in generate_pairs(120, seed=21)]


class Heard(Listener):
    """Keeps what it is told, in the order of telling."""

    def __init__(self) -> None:
        self.translations: dict[int, Translation] = {}
        self.timings: list[Timing] = []
        self.partial: list[str] = []
        self.errors: list[BaseException] = []
        self.changed: queue.Queue[None] = queue.Queue()

    def translated(self, index: int, translation: Translation, timing: Timing) -> None:
        self.translations[index] = translation
        self.timings.append(timing)
        self.changed.put(None)

    def on_partial(self, index: int, text: str) -> None:
        self.partial.append(text)

    def on_error(self, error: BaseException) -> None:
        self.errors.append(error)
        self.changed.put(None)

    def wait(self, count: int) -> None:
        for _ in range(count):
            self.changed.get(timeout=60)


@pytest.fixture
def translator(either_translator: Translator) -> Translator:
    return either_translator


@pytest.fixture
def inflight(translator: Translator) -> Iterator[InflightTranslator]:
    with closing(
        InflightTranslator(translator, InflightSettings(max_rows=12, joining=3))
    ) as opened:
        yield opened


def test_sentences_that_come_at_any_time_have_the_offline_translations(
    inflight: InflightTranslator, translator: Translator
) -> None:
    """Greedy and beam searches of many lengths, in one batch whose members change all the time."""
    kinds = [
        GREEDY,
        DecodingSettings(beam=4, n_best=2),
        DecodingSettings(beam=2, length_penalty=0.5),
    ]
    heard = []
    texts = TEXTS[:60]
    for number, text in enumerate(texts):
        listener = Heard()
        inflight.submit([text], kinds[number % 3], listener)
        heard.append(listener)
        if number % 10 == 0:
            time.sleep(0.01)
    for listener in heard:
        listener.wait(1)
    same = 0
    for number, (text, listener) in enumerate(zip(texts, heard, strict=True)):
        expected = translator.translate([text], kinds[number % 3])[0]
        translation = listener.translations[0]
        assert translation.alternatives[0].score == pytest.approx(
            expected.alternatives[0].score, abs=1e-3
        )
        assert len(translation.alternatives) == len(expected.alternatives)
        same += translation.text == expected.text
    assert same >= len(texts) - 2  # float32 may break a tie of two words otherwise


def test_a_short_sentence_does_not_wait_for_a_long_list(inflight: InflightTranslator) -> None:
    many, single = Heard(), Heard()
    inflight.submit(TEXTS * 3, GREEDY, many)
    many.wait(1)
    inflight.submit([TEXTS[0]], GREEDY, single)
    single.wait(1)
    assert len(many.translations) < len(TEXTS), "the list was nearly done: nothing was shown"
    many.wait(3 * len(TEXTS) - 1)
    assert sorted(many.translations) == list(range(3 * len(TEXTS)))


def test_what_is_written_grows_to_the_translation(inflight: InflightTranslator) -> None:
    listener = Heard()
    inflight.submit([TEXTS[0]], GREEDY, listener, partial=True)
    listener.wait(1)
    final = listener.translations[0]
    assert len(listener.partial) >= len(final.alternatives[0].tokens)
    assert listener.partial[-1] == final.text
    assert 0 < listener.timings[0].first_word <= listener.timings[0].total


def test_who_gives_up_leaves_the_batch(inflight: InflightTranslator) -> None:
    given_up, other = Heard(), Heard()
    request = inflight.submit(TEXTS * 5, GREEDY, given_up)
    given_up.wait(1)
    inflight.cancel(request)
    heard = len(given_up.translations)
    inflight.submit(TEXTS[:2], GREEDY, other)
    other.wait(2)
    assert len(given_up.translations) <= heard + 12  # those that ended in the step under way
    deadline = time.monotonic() + 30
    while inflight._rows or inflight.load().waiting:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert inflight.load().cancelled >= 5 * len(TEXTS) - heard - 12
    assert inflight.load().rows == 0


def test_beyond_the_queue_a_request_is_refused_at_once(translator: Translator) -> None:
    settings = InflightSettings(max_rows=2, max_waiting=4)
    with closing(InflightTranslator(translator, settings)) as inflight:
        first = Heard()
        inflight.submit(TEXTS[:40], GREEDY, first)  # longer than the queue: half of it
        second = Heard()
        inflight.submit(TEXTS[:5], GREEDY, second)
        began = time.monotonic()
        with pytest.raises(BusyError) as refused:
            inflight.submit(TEXTS[:5], GREEDY, Heard())
        assert time.monotonic() - began < 1
        assert refused.value.retry_after >= 1
        first.wait(40)
        second.wait(5)
        again = Heard()
        inflight.submit(TEXTS[:5], GREEDY, again)
        again.wait(5)


def test_empty_sentences_are_answered_without_the_decoder(inflight: InflightTranslator) -> None:
    listener = Heard()
    inflight.submit(["", TEXTS[0], "   "], GREEDY, listener)
    listener.wait(3)
    assert listener.translations[0].text == listener.translations[2].text == ""
    assert listener.translations[1].text


def test_a_decoder_that_breaks_tells_everyone(
    translator: Translator, monkeypatch: pytest.MonkeyPatch
) -> None:
    with closing(InflightTranslator(translator, InflightSettings(max_rows=1))) as inflight:
        monkeypatch.setattr(inflight._batch, "step", lambda most: 1 / 0)
        listener = Heard()
        request = inflight.submit(TEXTS[:3], GREEDY, listener)
        listener.wait(1)
        assert isinstance(listener.errors[0], ZeroDivisionError)
        assert not inflight.healthy
        inflight.cancel(request)  # as whoever asked does; two of its sentences still waited
        assert inflight.load().waiting == 0
        with pytest.raises(BusyError):
            inflight.submit(TEXTS[:1], GREEDY, Heard())


@pytest.mark.parametrize("running", [12, 0])
def test_sentences_are_read_together_while_many_run_and_at_once_while_few_do(
    translator: Translator, monkeypatch: pytest.MonkeyPatch, running: int
) -> None:
    """Steps are taken for a second long, so waiting for company would last eight."""
    readings: list[int] = []

    read = translator.packed.encode

    def encode(source: SourceBatch) -> Any:
        readings.append(len(source.lengths))
        return read(source)

    def wait_until(condition: Callable[[], bool], seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline
            time.sleep(0.01)

    monkeypatch.setattr(translator.packed, "encode", encode)
    with closing(InflightTranslator(translator)) as inflight:
        step = inflight._batch.step
        monkeypatch.setattr(inflight._batch, "step", lambda most: time.sleep(0.2) or step())
        if running:
            inflight.submit(TEXTS[:running], GREEDY, Heard())
            wait_until(lambda: inflight.load().rows == running, 30)
        inflight._step_seconds = 1.0
        readings.clear()
        heard = [Heard() for _ in range(8)]
        for number, listener in enumerate(heard):
            inflight.submit([TEXTS[50 + number]], GREEDY, listener)
            if not running and number == 0:
                wait_until(lambda: readings == [1], 2)
            time.sleep(0.02)
        for listener in heard:
            listener.wait(1)
    assert sum(readings) == 8
    if running:
        assert readings == [8]


def test_many_threads_may_submit(inflight: InflightTranslator) -> None:
    heard = [Heard() for _ in range(16)]

    def ask(number: int) -> None:
        inflight.submit(TEXTS[number : number + 4], GREEDY, heard[number])

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for listener in heard:
        listener.wait(4)
    for thread in threads:
        thread.join()
    assert all(sorted(listener.translations) == [0, 1, 2, 3] for listener in heard)


def test_one_that_gives_up_leaves_at_the_next_step_and_is_counted(
    inflight: InflightTranslator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both what runs and what waits; what has ended is not counted."""
    steps: list[int] = []
    step = inflight._batch.step
    monkeypatch.setattr(
        inflight._batch, "step", lambda most: steps.append(1) or time.sleep(0.02) or step()
    )
    listener = Heard()
    request = inflight.submit(TEXTS[:40], GREEDY, listener)
    listener.wait(1)
    given_up = inflight.cancel(request)
    at, ended = len(steps), len(listener.translations)
    while inflight._rows or inflight.load().waiting:
        time.sleep(0.001)
    assert len(steps) - at <= 2
    assert given_up == pytest.approx(40 - ended, abs=12)  # those of one step may end meanwhile
    assert inflight.cancel(request) == 0
    assert inflight.load().cancelled == given_up


def test_a_text_is_not_tokenised_before_its_turn(
    translator: Translator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So a list of thousands keeps nobody waiting, and costs nothing once it is given up."""
    read = translator.read
    seen: list[str] = []

    def slowly(texts: Any) -> Any:
        seen.extend(texts)
        time.sleep(0.03)
        return read(texts)

    monkeypatch.setattr(translator, "read", slowly)
    with closing(InflightTranslator(translator, InflightSettings(max_rows=12))) as inflight:
        many, single = Heard(), Heard()
        began = time.monotonic()
        request = inflight.submit(TEXTS * 10, GREEDY, many)
        inflight.submit([TEXTS[0]], GREEDY, single)
        assert time.monotonic() - began < 0.03
        single.wait(1)
        assert len(seen) < 100
        inflight.cancel(request)
    assert len(seen) < 110


def test_a_request_that_costs_too_much_is_refused_and_the_others_go_on(
    inflight: InflightTranslator,
) -> None:
    refused, long, good = Heard(), Heard(), Heard()
    inflight.submit(TEXTS, DecodingSettings(beam=4), refused, most=Cost(100_000, 10**9))
    inflight.submit(["l'" * 1000, *TEXTS[:20]], GREEDY, long)
    inflight.submit(TEXTS[:20], GREEDY, good)
    good.wait(20)
    for listener in (refused, long):
        while not listener.errors:
            listener.wait(1)
        assert isinstance(listener.errors[0], DataError)
    assert len(refused.translations) < len(TEXTS)
    assert inflight.healthy
    assert inflight.load().waiting == 0
    assert inflight.load().cancelled == 0


def test_a_text_that_cannot_be_read_fails_its_own_request_alone(
    translator: Translator, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = translator.read
    monkeypatch.setattr(
        translator, "read", lambda texts: 1 / 0 if texts == ["bad"] else read(texts)
    )
    with closing(InflightTranslator(translator)) as inflight:
        bad, good = Heard(), Heard()
        inflight.submit(["bad", *TEXTS[:5]], GREEDY, bad)
        inflight.submit(TEXTS[:5], GREEDY, good)
        good.wait(5)
        while not bad.errors:
            bad.wait(1)
        assert isinstance(bad.errors[0], ZeroDivisionError)
        assert inflight.healthy


def test_of_a_long_translation_not_every_word_is_told(inflight: InflightTranslator) -> None:
    """It would be the square of its length: here nearly two megabytes."""
    listener = Heard()
    inflight.submit(["l'" * 190], GREEDY, listener, partial=True)
    listener.wait(1)
    words = len(listener.translations[0].alternatives[0].tokens)
    assert len(listener.partial) <= 200
    assert words < 64 or len(listener.partial) < words
