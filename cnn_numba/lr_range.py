"""A range test of the learning rate: how the loss falls while the rate rises from step to step."""
from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from cnn_numba.errors import InputError, number, whole_number
from cnn_numba.init import ORDER, stream

if TYPE_CHECKING:
    from cnn_numba.data import Dataset
    from cnn_numba.losses import ClassLoss
    from cnn_numba.model import Sequential
    from cnn_numba.optim import Optimizer

__all__ = ["RateRange", "lr_range_test"]

MEMORY = 0.9            # of the smoothed loss
BLOWN = 4.0             # times the lowest smoothed loss: the test ends
FEW = 10                # steps whose slopes do not count


@dataclass(frozen=True)
class RateRange:
    """What a range test measured.

    rates, losses, smoothed : of each step: the rate, the loss of its batch before the step, and the running mean
    suggestion : the rate at which the smoothed loss falls fastest, over the logarithm of the rate
    """

    rates: list[float]
    losses: list[float]
    smoothed: list[float]
    suggestion: float

    def smoothed_at(self, rate: float) -> float:
        """The smoothed loss at one of the rates."""
        return self.smoothed[self.rates.index(rate)]


def lr_range_test(model: Sequential, data: Dataset, optimizer: Optimizer, loss: ClassLoss, batch_size: int = 64,
                  seed: int = 0, lowest: float = 1e-5, highest: float = 10.0, steps: int = 100) -> RateRange:
    """Train for some steps while the learning rate rises geometrically, and find where the loss falls fastest.

    The test ends early when the smoothed loss is four times as high as it has been, or is not finite.  It works on
    copies: the model and the optimizer stay as they are.

    Source: L. N. Smith, Cyclical Learning Rates for Training Neural Networks (2017), section 3.3; smoothing, the end
    and the suggestion as in fast.ai's `lr_find`.

    Parameters
    ----------
    model, optimizer : Sequential and an Optimizer of it, in any state
    data : Dataset, whose training images are used in the order of the first epoch, again from the start if they are few
    loss : CrossEntropyLoss or another loss of classes
    lowest, highest : the rates of the first and the last step
    steps : how many

    Raises InputError when a number is out of range, or the loss rises from the first steps on.
    """
    steps = whole_number("lr_range_test", "steps", steps, 2 * FEW)
    lowest = number("lr_range_test", "lowest", lowest, 1e-30)
    if not lowest < number("lr_range_test", "highest", highest, 1e-30):
        raise InputError(f"lr_range_test: highest must be above lowest, {lowest:g}, got {highest:g}")
    model, optimizer = copy.deepcopy((model, optimizer))
    model.train()
    order = stream(seed, ORDER, 0).permutation(len(data.train_labels))
    order = np.resize(order, steps * min(batch_size, len(order))).reshape(steps, -1)
    channel = (-1, 1, 1)
    mean, scale = data.mean.reshape(channel), (1 / np.where(data.std > 0, data.std, 1)).reshape(channel)
    rates, losses, smoothed, average = list[float](), list[float](), list[float](), 0.0
    for step, batch in enumerate(order):
        optimizer.lr = lowest * (highest / lowest)**(step / (steps - 1))
        images = np.asarray(data.train_images[batch], np.float32)
        logits = model(((images - mean) * scale).astype(np.float32))
        found = loss(logits, data.train_labels[batch])
        average = MEMORY * average + (1 - MEMORY) * float(found)
        mean_loss = average / (1 - MEMORY**(step + 1))
        if not math.isfinite(mean_loss) or smoothed and mean_loss > BLOWN * min(smoothed):
            break
        rates.append(optimizer.lr)
        losses.append(float(found))
        smoothed.append(mean_loss)
        optimizer.zero_grad()
        found.backward()
        optimizer.step()
    return RateRange(rates, losses, smoothed, _steepest(rates, smoothed))


def _steepest(rates: list[float], smoothed: list[float]) -> float:
    """The rate before the lowest smoothed loss at which its slope over log(rate) is most negative."""
    if len(rates) <= FEW:
        raise InputError(f"the loss is no longer finite, or four times as high, after {len(rates)} steps: begin with "
                         f"a lower rate than {rates[0] if rates else 0:g}")
    slopes = np.gradient(smoothed, np.log(rates))
    slopes[:FEW] = 0                                # the mean of few batches is noise
    end = max(int(np.argmin(smoothed)), FEW) + 1
    if slopes[:end].min() >= 0:
        raise InputError(f"the loss does not fall at any rate from {rates[0]:.2g} to {rates[-1]:.2g}")
    return rates[int(np.argmin(slopes[:end]))]
