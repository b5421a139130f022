"""The training loss: cross-entropy over the vocabulary, projected and differentiated in one pass.

The scores of all words for all tokens of a batch are its largest tensor by far (1,700 tokens and
6,000 words: 40 MB in float32). They are never kept: a few hundred tokens at a time are projected,
scored and turned into gradients while they are in the cache. The same scores give the next words of
a decoder that is fed its own.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from seqvis.native import library
from seqvis.seq2seq.model import argmax_words
from seqvis.seq2seq.native import multiply, native_precision, product_type
from seqvis.seq2seq.settings import DropoutSettings
from seqvis.text.vocabulary import PAD

_TOKENS_AT_ONCE = 256
# On a GPU scores need not fit into a cache: so many tokens, or numbers if that is less.
_TOKENS_AT_ONCE_GPU, _NUMBERS_AT_ONCE_GPU = 4096, 1 << 27
# Gradients of scores are kept for so many tokens, or so many numbers if that is less, before they
# are added to the weight's gradient, since each such product reads and writes all of it.
_TOKENS_KEPT, _NUMBERS_KEPT = 1024, 10_000_000
_NEGLIGIBLE = 1e-14  # probability whose gradient float32 sums would not show
_ROWS = 8  # oneDNN makes a kernel for each number of rows: only multiples of 8 are used


class ProjectedCrossEntropy:
    """Sums the cross-entropy of `softmax(outputs @ weight.T + bias)` over tokens.

    Add tokens a few at a time with `add`; `of` then returns the sum with its gradients.

    Args:
        weight: (words, size). bias: (words,).
        smoothing: label smoothing (Szegedy et al. 2016), as in `torch.nn.functional`.
    """

    def __init__(self, weight: Tensor, bias: Tensor, smoothing: float = 0.0):
        self._parameters = (weight, bias)
        self._weight = weight.detach().to(product_type(weight))
        self._bias = bias.detach().float()
        self._smoothing = smoothing
        self._differentiates = torch.is_grad_enabled()
        self._plain = self._bias.new_zeros(())
        self._smooth = self._bias.new_zeros(())
        self._of_outputs: list[Tensor] = []
        words, size = weight.shape
        self._at_once = _TOKENS_AT_ONCE
        if weight.is_cuda:
            fitting = min(_TOKENS_AT_ONCE_GPU, _NUMBERS_AT_ONCE_GPU // words)
            self._at_once = max(_TOKENS_AT_ONCE, fitting)
        self._of_weight = self._bias.new_zeros(size, words)  # transposed
        self._of_bias = torch.zeros_like(self._bias)
        kept = max(2 * self._at_once, min(_TOKENS_KEPT, _NUMBERS_KEPT // words))
        self._outputs = self._weight.new_empty(kept, size)
        self._gradients = self._weight.new_empty(kept, words)
        self._kept = 0

    @torch.no_grad()
    def add(self, outputs: Tensor, targets: Tensor, counted: Tensor | None = None) -> Tensor:
        """Add outputs (tokens, size) with targets (tokens,), or those that are `counted`
        (tokens,); return the words with the highest scores (tokens,)."""
        words = []
        for begin in range(0, len(outputs), self._at_once):
            part = slice(begin, begin + self._at_once)
            chosen = None if counted is None else counted[part].unsqueeze(1)
            words.append(self._add(outputs[part], targets[part].unsqueeze(1), chosen))
        return torch.cat(words) if words else targets

    def _add(self, outputs: Tensor, right: Tensor, counted: Tensor | None) -> Tensor:
        rows = len(outputs)
        if self._kept + self._at_once > len(self._outputs):
            self._differentiate_weight()
        part = slice(self._kept, self._kept + rows + -rows % _ROWS)
        padded = self._outputs[part]
        padded[:rows] = outputs
        padded[rows:] = 0
        scores = multiply(padded, self._weight.t())[:rows]
        if counted is None and native_precision(scores):
            return self._add_natively(scores, right.squeeze(1), part)
        scores = scores.float().add_(self._bias)
        best = argmax_words(scores).unsqueeze(1)
        probabilities = torch.softmax(scores, -1)
        normaliser = scores.gather(1, best) - probabilities.gather(1, best).log()
        self._plain += _only(normaliser - scores.gather(1, right), counted).sum()
        if self._smoothing:
            mean = scores.mean(-1, keepdim=True)
            self._smooth += _only(normaliser - mean, counted).sum()
        if self._differentiates:
            self._differentiate(probabilities, right, counted, part)
        return best.squeeze(1)

    def _add_natively(self, scores: Tensor, right: Tensor, part: slice) -> Tensor:
        kept = self._gradients[part][: len(scores) if self._differentiates else 0]
        best, losses, means = library.cross_entropy(
            scores, self._bias, right.contiguous(), self._smoothing, kept, self._of_bias
        )
        self._plain += losses.sum()
        self._smooth += means.sum()
        if self._differentiates:
            self._differentiate_outputs(part, len(scores))
        return best

    def _differentiate(
        self, probabilities: Tensor, right: Tensor, counted: Tensor | None, part: slice
    ) -> None:
        gradient = probabilities
        if self._weight.dtype == torch.float32:
            # Products with numbers below float32's normal range are many times slower.
            functional.threshold(gradient, _NEGLIGIBLE, 0.0, inplace=True)
        if self._smoothing:
            gradient -= self._smoothing / len(self._weight)
        less = torch.full_like(right, self._smoothing - 1, dtype=torch.float32)
        gradient.scatter_add_(1, right, less)
        gradient = _only(gradient, counted)
        self._of_bias += gradient.sum(0)
        self._gradients[part][: len(gradient)] = gradient
        self._differentiate_outputs(part, len(gradient))

    def _differentiate_outputs(self, part: slice, rows: int) -> None:
        """Use the gradients of so many scores, which stand in `part`."""
        kept = self._gradients[part]
        kept[rows:] = 0
        self._of_outputs.append(multiply(kept, self._weight)[:rows])
        self._kept = part.stop

    def _differentiate_weight(self) -> None:
        outputs, gradients = self._outputs[: self._kept], self._gradients[: self._kept]
        self._of_weight += multiply(outputs.t(), gradients)
        self._kept = 0

    def of(self, outputs: Tensor) -> tuple[Tensor, Tensor]:
        """Return the smoothed sum, with gradients, and the plain sum (negative log-likelihood in
        nats) without; `outputs` (tokens, size) are those that were added, in the same order."""
        if self._kept:
            self._differentiate_weight()
        loss = (1 - self._smoothing) * self._plain + self._smoothing * self._smooth
        if not self._differentiates:
            return loss, self._plain
        of_outputs = torch.cat(self._of_outputs) if self._of_outputs else torch.zeros_like(outputs)
        known = (of_outputs, self._of_weight, self._of_bias)
        return _KnownGradients.apply(loss, *known, outputs, *self._parameters), self._plain


class _KnownGradients(torch.autograd.Function):
    """A loss whose gradients are already computed."""

    @staticmethod
    def forward(
        ctx: Any,
        loss: Tensor,
        of_outputs: Tensor,
        of_weight: Tensor,  # transposed
        of_bias: Tensor,
        outputs: Tensor,
        weight: Tensor,
        bias: Tensor,
    ) -> Tensor:
        ctx.save_for_backward(of_outputs, of_weight, of_bias)
        ctx.types = (outputs.dtype, weight.dtype, bias.dtype)
        return loss.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        of_outputs, of_weight, of_bias = ctx.saved_tensors
        scale = gradients[0]
        scaled = torch.empty(of_weight.t().shape, dtype=torch.float32, device=of_weight.device)
        torch.mul(of_weight.t(), scale, out=scaled)
        by_input = zip((of_outputs * scale, scaled, of_bias * scale), ctx.types, strict=True)
        return None, None, None, None, *(gradient.to(kind) for gradient, kind in by_input)


def _only(values: Tensor, counted: Tensor | None) -> Tensor:
    """Return values (tokens, …) with zeros where they are not counted (tokens, 1)."""
    return values if counted is None else values.masked_fill_(~counted, 0.0)


def sample_words(targets: Tensor, vocabulary: int, count: int) -> tuple[Tensor, Tensor]:
    """Draw the words that a batch is scored against: those of its targets, and others at random.

    For vocabularies whose scores take too long (after Jean et al. 2015, arXiv 1412.2007). The
    others stand for all that were not drawn: the correction makes the expected sum of their
    exponentials that of all.

    Args:
        targets: ids of the right words, of any shape.
        count: words to draw; at least as many as there are targets, so that all have room.

    Returns:
        The ids in ascending order, and what is added to their scores, float32.
    """
    count = min(max(count, targets.numel()), vocabulary)
    present = torch.zeros(vocabulary, dtype=torch.bool, device=targets.device)
    present.index_fill_(0, targets.flatten(), True)
    order = torch.rand(vocabulary, device=targets.device).masked_fill_(present, -1.0)
    words = order.topk(count, largest=False).indices.sort().values
    own = present.sum()
    factor = ((vocabulary - own) / (count - own)).log()  # not a number if there are no others
    return words, torch.where(present[words], 0.0, factor)


class SequenceLoss:
    """The loss of a batch of sentences, step by step where the decoder is fed its own words.

    Args:
        weight: (words, size) and bias: (words,) of the projection from outputs to scores of words.
        targets: (steps, batch) ids of the right words.
        counted: (steps, batch) bool: where the loss is taken, in each sentence up to some step.
        mask: dropout of the outputs, (steps or 1, batch, size).
        smoothing: label smoothing.
        sampled: how many words to score, those of the batch among them; 0: all (`sample_words`).
        pack: leave out at once where no loss is taken. By default on a CPU: a GPU is quick, but the
            host would have to wait until it knows how many tokens are left.
    """

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor,
        targets: Tensor,
        counted: Tensor,
        mask: Tensor | None = None,
        smoothing: float = 0.0,
        sampled: int = 0,
        pack: bool | None = None,
    ):
        self._words: Tensor | None = None
        if 0 < sampled < len(weight):
            self._words, correction = sample_words(targets, len(weight), sampled)
            weight, bias = weight[self._words], bias[self._words] + correction
            targets = torch.searchsorted(self._words, targets.contiguous())
        self._sum = ProjectedCrossEntropy(weight, bias, smoothing)
        self._targets, self._counted, self._mask = targets, counted, mask
        self._pack = not targets.is_cuda if pack is None else pack
        self._step = 0

    def choose(self, outputs: Tensor) -> Tensor:
        """Add the outputs of the next steps (steps, batch, size); return the next words (batch,).

        These are `_pad_` for sentences whose loss is not taken there: what they are fed does not
        matter.
        """
        begin = self._step
        self._step += len(outputs)
        return self._add(self._dropped(outputs, begin), begin)[-1]

    def of(self, outputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the loss with gradients, the plain sum without, and the outputs after dropout.

        `outputs` (steps, batch, size) are those of all steps, including what `choose` added.
        """
        dropped = self._dropped(outputs, 0)
        self._add(dropped.detach()[self._step :], self._step)
        added = dropped[self._counted] if self._pack else dropped.flatten(0, 1)
        return *self._sum.of(added), dropped

    def _add(self, dropped: Tensor, begin: int) -> Tensor:
        """Add the outputs from a step on; return the likeliest words (steps, batch)."""
        steps = slice(begin, begin + len(dropped))
        targets, counted = self._targets[steps], self._counted[steps]
        if not self._pack:
            flat = self._sum.add(dropped.flatten(0, 1), targets.flatten(), counted.flatten())
            return self._ids(flat).view(targets.shape).masked_fill(~counted, PAD)
        words = torch.full_like(targets, PAD)
        words[counted] = self._ids(self._sum.add(dropped[counted], targets[counted]))
        return words

    def _ids(self, words: Tensor) -> Tensor:
        return words if self._words is None else self._words[words]

    def _dropped(self, outputs: Tensor, begin: int) -> Tensor:
        if self._mask is None:
            return outputs
        mask = self._mask
        return outputs * (mask if len(mask) == 1 else mask[begin : begin + len(outputs)])


def activation_penalty(
    dropped: Tensor, states: Tensor, real: Tensor, rates: DropoutSettings
) -> Tensor | float:
    """Return AR and TAR (Merity et al. 2017, section 4.6), over real positions only."""
    penalty: Tensor | float = 0.0
    if rates.activation:
        penalty = penalty + rates.activation * mean_square(dropped, real)
    if rates.temporal_activation and len(states) > 1:
        change = mean_square(states[1:] - states[:-1], real[1:])
        penalty = penalty + rates.temporal_activation * change
    return penalty


def mean_square(values: Tensor, real: Tensor, pack: bool | None = None) -> Tensor:
    """Return the mean square of values (steps, batch, size) where they are real (steps, batch).

    `pack`: as in SequenceLoss.
    """
    if not values.is_cuda if pack is None else pack:
        return values[real].float().pow(2).mean()
    squares = values.float().pow(2).masked_fill(~real.unsqueeze(2), 0.0)
    return squares.sum() / (real.sum() * values.shape[2])
