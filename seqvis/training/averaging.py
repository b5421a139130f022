"""Averages of a model's weights: over its steps while it trains, and over its last epochs.

Either often validates better than the weights of any single step (Polyak and Juditsky 1992; the
transformer of Vaswani et al. 2017 is the mean of its last checkpoints).
"""

from collections.abc import Iterable, Mapping

from torch import Tensor, nn
from torch.optim.swa_utils import PARAM_LIST, AveragedModel, get_ema_multi_avg_fn

from seqvis.training.checkpoints import Snapshot


def moving_average(model: nn.Module, decay: float) -> AveragedModel | None:
    """Return a copy of the model that is to follow its weights and buffers; None if decay is 0.

    After n steps the decay is at most (1 + n) / (10 + n), as in TensorFlow's
    ExponentialMovingAverage: with 0.999 from the start, a third of the random weights would still
    be there after 1,000 steps. `n_averaged` is to be n before each update.
    """
    if not decay:
        return None
    average = AveragedModel(model, use_buffers=True)

    def blend(averages: PARAM_LIST, weights: PARAM_LIST, steps: Tensor | int) -> None:
        done = int(average.n_averaged)  # `steps` is the same number, on the model's device
        get_ema_multi_avg_fn(min(decay, (1 + done) / (10 + done)))(averages, weights, steps)

    average.multi_avg_fn = blend
    return average


def trained_weights(snapshot: Snapshot) -> dict[str, Tensor]:
    """Return what a run is to produce: the moving average of the weights if there is one."""
    kinds = {name.split(".", 1)[0] for name in snapshot.tensors}
    prefix = "average." if "average" in kinds else "model."
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in snapshot.tensors.items()
        if name.startswith(prefix)
    }


def mean_of(weights: Iterable[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Return the mean of each tensor; of whole numbers, such as counters, the last one."""
    total: dict[str, Tensor] = {}
    count = 0
    for tensors in weights:
        count += 1
        for name, tensor in tensors.items():
            if name in total and tensor.is_floating_point():
                total[name] += tensor
            else:
                total[name] = tensor.clone()
    return {
        name: tensor / count if tensor.is_floating_point() else tensor
        for name, tensor in total.items()
    }
