"""JoeyNMT 2.3 (Kreutzer et al. 2019, arXiv 1907.12484), in a process of its own, as users run it.

It has a GRU encoder in both directions and a GRU decoder with Bahdanau attention and input feeding;
`make bench` installs it. It gets a model of our sizes and the same sentences.

    python -m benchmarks.joeynmt PIPE

is the process that `joeynmt_process` starts.
"""

import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.instrument import rate_over
from benchmarks.material import forever
from seqvis.seq2seq.state import pad_ids
from seqvis.text.vocabulary import SPECIALS
from seqvis.translation.task import TranslationTask

_UNK, _PAD, _BOS, _EOS = range(4)
_OF_SEQVIS = np.array([_BOS, _PAD, _EOS, _UNK])  # of BOS, PAD, EOS, UNK
_CLIP = 1.0


@contextmanager
def joeynmt_process(task: TranslationTask) -> Iterator[Callable[..., Any]]:
    """Run JoeyNMT in a process of its own, on as many threads as this one has.

    Yields a function that calls a method of `JoeyNMT` by its name. A process that multiprocessing
    starts would import the job, which keeps freed memory. JoeyNMT has one advantage of ours, from
    the environment: with anything else on the machine, threads that spin would slow it tenfold.
    """
    here, there = Pipe()
    command = [sys.executable, "-m", "benchmarks.joeynmt", str(there.fileno())]
    with subprocess.Popen(command, pass_fds=[there.fileno()]), here:
        there.close()
        here.send((task.settings, torch.get_num_threads()))

        def call(name: str, *arguments: Any, **named: Any) -> Any:
            here.send((name, arguments, named))
            return here.recv()

        yield call


class JoeyNMT:
    """JoeyNMT's model and optimiser, as the benchmark trains them and translates with them."""

    def __init__(self, task: TranslationTask):
        from joeynmt.model import build_model
        from joeynmt.vocabulary import Vocabulary as JoeyVocabulary

        special = SimpleNamespace(
            unk_token="<unk>", pad_token="<pad>", bos_token="<s>", eos_token="</s>",
            sep_token=None, lang_tags=[], unk_id=_UNK, pad_id=_PAD, bos_id=_BOS, eos_id=_EOS,
        )  # fmt: skip
        settings, languages = task.settings.model, task.languages
        sides = []
        for vocabulary in (languages.source_vocabulary, languages.target_vocabulary):
            side = JoeyVocabulary([], special)
            # Its own way to add words compares each with all before it.
            side._itos += list(vocabulary.words[len(SPECIALS) :])
            side._stoi = {word: number for number, word in enumerate(side._itos)}
            sides.append(side)
        rates = settings.dropout
        embeddings = {"embedding_dim": settings.embedding_size}
        read = {"dropout": rates.input, **embeddings}
        config = {
            "encoder": {
                "type": "recurrent", "rnn_type": "gru", "embeddings": read,
                "hidden_size": settings.hidden_size, "num_layers": settings.layers,
                "bidirectional": True, "dropout": rates.encoder,
            },
            "decoder": {
                "type": "recurrent", "rnn_type": "gru", "embeddings": embeddings,
                "hidden_size": settings.decoder_size or settings.embedding_size,
                "num_layers": settings.decoder_layers or settings.layers, "dropout": rates.decoder,
                "hidden_dropout": rates.output, "attention": "bahdanau", "init_hidden": "bridge",
                "input_feeding": True,
            },
        }  # fmt: skip
        self.model: nn.Module = build_model(config, *sides)
        self.model.loss_function = ("crossentropy", task.settings.loss.label_smoothing)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=1e-3)
        self.batches = forever(task)

    def train(self, seconds: float) -> float:
        """Train for some seconds; return the target words a second."""
        return rate_over(seconds, self._step)

    def _step(self) -> float:
        batch = next(self.batches)
        self.model.train()
        theirs = _batch(batch.source.ids, batch.source.lengths, batch.target)
        total = self.model(return_type="loss", **vars(theirs))[0]
        theirs.normalize(total, "tokens").backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), _CLIP)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return batch.target_words

    def translate(
        self, sentences: Sequence[Sequence[int]], batch: int, beam: int, lengths: Sequence[int]
    ) -> list[list[int]]:
        """Translate word ids of seqvis, with EOS, into word ids without special words.

        The model is not trained, so `lengths` says how many words each translation has. A greedy
        batch runs until its longest sentence has ended, as JoeyNMT does; a batch of beams, from
        which JoeyNMT takes ended sentences, as long as their mean.
        """
        from joeynmt.search import search

        self.model.eval()
        order = sorted(range(len(sentences)), key=lambda row: -len(sentences[row]))
        translations: list[list[int]] = [[] for _ in sentences]
        for begin in range(0, len(order), batch):
            rows = order[begin : begin + batch]
            source, source_lengths = pad_ids([list(sentences[row]) for row in rows])
            given = _batch(source, source_lengths, None)
            written = [lengths[row] for row in rows]
            steps = max(written) if beam == 1 else round(sum(written) / len(written))
            ids, *_ = search(
                self.model, given, steps, beam, 1.0, generate_unk=False, min_output_length=steps
            )
            for row, words in zip(rows, ids.tolist(), strict=True):
                end = words.index(_EOS) if _EOS in words else len(words)
                translations[row] = [word for word in words[:end] if word >= len(SPECIALS)]
        return translations


def _batch(source: Tensor, lengths: Tensor, target: Tensor | None) -> Any:
    """Return a batch of JoeyNMT's."""
    from joeynmt.batch import Batch

    order = torch.argsort(lengths, descending=True, stable=True)
    given = None
    if target is not None:
        begin = torch.full((len(target), 1), _BOS)
        given = torch.cat([begin, _translated(target[order])], 1)
    return Batch(
        src=_translated(source[order]), src_length=lengths[order], src_prompt_mask=None,
        trg=given, trg_prompt_mask=None, indices=torch.arange(len(source)),
        device=torch.device("cpu"), pad_index=_PAD, eos_index=_EOS, is_train=target is not None,
    )  # fmt: skip


def _translated(ids: Tensor) -> Tensor:
    """Replace the ids of special words by JoeyNMT's; all others are the same."""
    table = torch.from_numpy(_OF_SEQVIS)
    return torch.where(ids < len(table), table[ids.clamp(max=len(table) - 1)], ids)


def main() -> None:
    """Do what the process asks for that started this one, until it closes the pipe."""
    pipe: Connection[Any, Any] = Connection(int(sys.argv[1]))
    settings, threads = pipe.recv()
    torch.set_num_threads(threads)
    joeynmt = JoeyNMT(TranslationTask(settings))
    with suppress(EOFError):
        while True:
            name, arguments, named = pipe.recv()
            pipe.send(getattr(joeynmt, name)(*arguments, **named))


if __name__ == "__main__":
    main()
