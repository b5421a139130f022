"""Scores of translations, and validation losses.

BLEU and chrF are sacreBLEU's, either on readable text or as the papers of JoeyNMT and nmtpytorch
score (Moses-normalised, tokenised, lowercased). The signature says which, and how the text was
split into words.
"""

import operator
import re
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from typing import Any, Literal

import torch
from sacrebleu.metrics import BLEU, CHRF
from torch import Tensor
from torch.nn import functional

from seqvis.seq2seq.losses import SequenceLoss
from seqvis.seq2seq.model import Seq2Seq, argmax_words
from seqvis.text.characters import clean_text
from seqvis.text.vocabulary import BOS, PAD
from seqvis.translation.batches import Batch

Scoring = Literal["text", "moses"]

# sacreBLEU's default tokenizer splits at spaces: in these languages a whole sentence would be one
# word. The first tokenizer that can be loaded is used.
_UNSPACED = (
    (("zh",), "zh zho chi cmn yue wuu hsn hak gan nan cdo lzh"),
    (("ja-mecab", "char"), "ja jpn"),
    (("ko-mecab", "char"), "ko kor"),
    (("char",), "th tha nod tts kxm lo lao km khm"),  # Thai and its relatives, Lao, Khmer
    (("char",), "my mya bur rki shn mnw khb"),  # Burmese, Rakhine, Shan, Mon, Tai Lü
    (("char",), "bo bod tib adx khg dz dzo sip lbj"),  # Tibetan languages, Dzongkha
)


@dataclass(frozen=True)
class TextScores:
    bleu: float  # 0 to 100
    chrf: float  # 0 to 100
    signature: str


def score_texts(
    translations: Sequence[str],
    references: Sequence[str],
    scoring: Scoring,
    language: str,
    lowercase: bool = False,
) -> TextScores:
    """Compute BLEU and chrF of translations against one reference each.

    Args:
        scoring: text: sacreBLEU's tokenizer for the language on the texts as they are; moses: both
            sides are Moses-normalised, tokenised and lowercased first, then split at spaces, or by
            sacreBLEU's tokenizer if the language is written without them.
        language: code of the texts' language, such as fr, zh-CN or jpn.
        lowercase: compare without case; moses always does.

    Both sides are composed and freed of invisible characters first (`clean_text`).
    """
    translations, references = ([*map(clean_text, side)] for side in (translations, references))
    if scoring == "moses":
        translations = moses_tokenized(translations, language)
        references = moses_tokenized(references, language)
        bleu = _bleu(language, default="none", force=True)
    else:
        bleu = _bleu(language, default="13a", lowercase=lowercase)
    chrf = CHRF(lowercase=lowercase and scoring == "text")
    bleu_score = bleu.corpus_score(list(translations), [list(references)])
    chrf_score = chrf.corpus_score(list(translations), [list(references)])
    prefix = f"moses({language}) | " if scoring == "moses" else ""
    signature = f"{prefix}BLEU {bleu.get_signature()} | chrF {chrf.get_signature()}"
    return TextScores(bleu_score.score, chrf_score.score, signature)


def _bleu(language: str, default: str, **options: Any) -> BLEU:
    """Return BLEU with the tokenizer for `language`, or `default` where spaces separate words."""
    *preferred, last = _tokenizers(language) or (default,)
    for name in preferred:
        try:
            return BLEU(tokenize=name, **options)
        except (RuntimeError, AssertionError):  # its dictionary is missing, or another edition
            continue
    return BLEU(tokenize=last, **options)


def _tokenizers(language: str) -> tuple[str, ...]:
    """Return sacreBLEU's tokenizers for a language without spaces, best first.

    `language` is an ISO 639 code of two or three letters; regions and scripts are ignored.
    """
    code = re.split("[-_]", language.strip().lower())[0]
    return next((names for names, codes in _UNSPACED if code in codes.split()), ())


def moses_tokenized(texts: Sequence[str], language: str) -> list[str]:
    """Normalise punctuation, tokenise as Moses without escaping, and lowercase."""
    from sacremoses import MosesPunctNormalizer, MosesTokenizer  # takes most of a second to load

    normalizer = MosesPunctNormalizer(language)
    tokenizer = MosesTokenizer(language)
    return [
        " ".join(tokenizer.tokenize(normalizer.normalize(text.lower().strip()), escape=False))
        for text in texts
    ]


EVEN = 0.95  # share of the greatest entropy from which attention counts as even


@dataclass(frozen=True)
class LossSums:
    """Sums over batches of validation sentences."""

    loss: float = 0.0  # over real target words, in nats
    loss_with_padding: float = 0.0  # over all positions of the padded target
    correct: int = 0  # real target words that had the highest score
    words: int = 0
    positions: int = 0
    forced: float = 0.0  # as loss, each word given the right ones before it
    entropy: float = 0.0  # of their attention, as a share of that of even attention
    attended: int = 0  # words that attention was paid for: all or none

    def __add__(self, other: "LossSums") -> "LossSums":
        return LossSums(*map(operator.add, astuple(self), astuple(other)))

    def means(self) -> dict[str, float]:
        words = max(1, self.words)
        means = {
            "loss": self.loss / words,
            "loss_with_padding": self.loss_with_padding / max(1, self.positions),
            "accuracy": self.correct / words,
            "forced_loss": self.forced / words,
        }
        if self.attended:
            means["attention_entropy"] = self.entropy / self.attended
        return means

    def warnings(self) -> list[str]:
        """Say that attention treats all words of the source alike, if it does."""
        if self.entropy <= EVEN * self.attended:
            return []
        return [
            f"attention is even: its entropy is {self.entropy / self.attended:.2f} of the greatest "
            f"there is, so the model does not choose among the source's words"
        ]


@torch.no_grad()
def validation_losses(model: Seq2Seq, batch: Batch) -> LossSums:
    """Compute the lesson's validation loss of a batch, and the teacher-forced one.

    For the lesson's, the decoder is fed the word that had the highest score. As in the lesson it
    goes on after `_eos_`, and stops where every sentence of the batch predicts `_pad_`; all words
    then score zero at the positions that are left, which costs log(vocabulary) each.
    """
    losses, predicted = (part.cpu() for part in _own_steps(model, batch))
    target = batch.target.cpu()
    ended = (predicted == PAD).all(1).nonzero()
    if len(ended):
        rest = slice(int(ended[0]) + 1, None)
        losses[rest] = torch.log(torch.tensor(float(model.decoder.projection.out_features)))
        predicted[rest] = BOS  # the arg-max of equal scores
    losses, predicted = losses.t(), predicted.t()
    real = target != PAD
    forced, entropy = _forced_sums(model, batch).tolist()
    words = int(real.sum())
    return LossSums(
        float(losses[real].double().sum()),
        float(losses.double().sum()),
        int(((predicted == target) & real).sum()),
        words,
        target.numel(),
        forced,
        entropy,
        words if model.decoder.attention is not None else 0,
    )


def _own_steps(model: Seq2Seq, batch: Batch, whole: bool | None = None) -> tuple[Tensor, Tensor]:
    """Return losses and predicted words (steps, rows) of a decoder that is fed its own words.

    They are left out after the step where all are `_pad_`, unless the `whole` target is wanted: by
    default on a GPU, for which the host would wait in each step.
    """
    whole = batch.target.is_cuda if whole is None else whole
    state = model.encode(batch.source)
    words = torch.full_like(batch.target[:, 0], BOS)
    target = batch.target.t()
    losses = torch.zeros(target.shape, device=words.device)
    predicted = torch.full_like(target, PAD)
    for step, right in enumerate(target):
        output, state = model.decoder.run(words.unsqueeze(0), state)
        scores = model.decoder.projection(output.features[0]).float()
        losses[step] = functional.cross_entropy(scores, right, reduction="none")
        words = predicted[step] = argmax_words(scores)
        if not whole and bool((words == PAD).all()):
            break
    return losses, predicted


def _forced_sums(model: Seq2Seq, batch: Batch) -> Tensor:
    """Sum over the real words, each given the right ones before it: the negative log-likelihood,
    and the entropy of attention as a share of the greatest, which even weights have (0 without
    attention)."""
    by_step = batch.target.t()
    real = by_step != PAD
    output = model(batch.source, batch.target, torch.ones(len(by_step), dtype=torch.bool))
    projection = model.decoder.projection
    losses = SequenceLoss(projection.weight, projection.bias, by_step, real)
    loss = losses.of(output.features)[1]
    entropy = torch.zeros_like(loss)
    if output.attention is not None:
        of_words = torch.special.entr(output.attention.float()).sum(-1)  # (steps, rows)
        greatest = batch.source.counted.clamp(min=2).log()
        entropy += (of_words / greatest).masked_fill(~real, 0.0).sum()
    return torch.stack([loss, entropy])
