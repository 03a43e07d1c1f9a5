"""Weight initialisation, and the random streams that derive from a seed."""
import math
from typing import Any

import numpy as np

from cnn_numba.errors import InputError, seed_number

WEIGHTS, ORDER, HELD_OUT, FILLED = 0, 1, 2, 3       # purposes of a stream of random numbers


def stream(seed: int, purpose: int, index: int) -> np.random.Generator:
    """A generator that depends on the seed, the purpose and a counter, not on what ran before."""
    return np.random.default_rng([seed, purpose, index])


_manual: list[int] = []                  # [seed, number of seeds that were taken]


def manual_seed(seed: int) -> None:
    """Choose the seed of what is made without one: networks, `random_split` and shuffling, as `torch.manual_seed`.

    The next gets this seed itself, each after that a seed of its own.  Raises InputError for a seed below 0.
    """
    _filled[0] = 0
    _manual[:] = seed_number("manual_seed", seed), 0


def default_seed() -> int:
    """The seed of what is made without one: 0, unless `manual_seed` chose another."""
    if not _manual:
        return 0
    seed, count = _manual
    _manual[1] += 1
    return int(np.random.SeedSequence([seed, count]).generate_state(1, np.uint32)[0]) if count else seed


# shape : (out, in) or (filters, channels of a group, rows, columns); index : number of the parameter in the model.
# fan_in and fan_out are counted as in PyTorch, from the shape of the weight alone, without the number of groups.

def xavier_uniform(shape: tuple[int, ...], seed: int, index: int) -> np.ndarray:
    """Uniform in +-sqrt(6 / (fan_in + fan_out)): Glorot and Bengio, "Understanding the difficulty of training deep
    feedforward neural networks" (2010)."""
    bound = math.sqrt(6 / (_fan_in(shape) + _fan_out(shape)))
    return stream(seed, WEIGHTS, index).uniform(-bound, bound, shape)


def xavier_normal(shape: tuple[int, ...], seed: int, index: int) -> np.ndarray:
    """Normal with variance 2 / (fan_in + fan_out), from the same source."""
    return stream(seed, WEIGHTS, index).normal(0, math.sqrt(2 / (_fan_in(shape) + _fan_out(shape))), shape)


def kaiming_uniform(shape: tuple[int, ...], seed: int, index: int) -> np.ndarray:
    """Uniform in +-sqrt(6 / fan_in), for layers before a ReLU: He et al., "Delving deep into rectifiers" (2015)."""
    bound = math.sqrt(6 / _fan_in(shape))
    return stream(seed, WEIGHTS, index).uniform(-bound, bound, shape)


def kaiming_normal(shape: tuple[int, ...], seed: int, index: int) -> np.ndarray:
    """Normal with variance 2 / fan_in, from the same source."""
    return stream(seed, WEIGHTS, index).normal(0, math.sqrt(2 / _fan_in(shape)), shape)


def pytorch(shape: tuple[int, ...], seed: int, index: int, fan_in: int | None = None) -> np.ndarray:
    """PyTorch's default: weights and biases uniform in +-1 / sqrt(fan_in), the fan_in of the weight."""
    bound = 1 / math.sqrt(fan_in or _fan_in(shape))
    return stream(seed, WEIGHTS, index).uniform(-bound, bound, shape)


def _fan_in(shape):
    return shape[1] * math.prod(shape[2:])


def _fan_out(shape):
    return shape[0] * math.prod(shape[2:])


INITS = {f.__name__: f for f in (xavier_uniform, xavier_normal, kaiming_uniform, kaiming_normal, pytorch)}


def init_name(owner: str, name: str) -> str:
    """The name of an initialisation; InputError unless it is one of INITS."""
    if not isinstance(name, str) or name not in INITS:
        raise InputError(f"{owner}: init must be one of {', '.join(INITS)}, got {name!r}")
    return name


# ---- the functions of torch.nn.init that fill a parameter, with random numbers of `manual_seed` ----------------------
_filled = [0]


def _generator():
    _filled[0] += 1
    return stream(_manual[0] if _manual else 0, FILLED, _filled[0])


def _fill(parameter, name):
    seed = int(_generator().integers(2**31))
    return parameter.copy_(INITS[name](tuple(parameter.shape), seed, 0))


def xavier_uniform_(tensor: Any) -> Any:
    """Fill a weight with `xavier_uniform`; returns it."""
    return _fill(tensor, "xavier_uniform")


def xavier_normal_(tensor: Any) -> Any:
    """Fill a weight with `xavier_normal`; returns it."""
    return _fill(tensor, "xavier_normal")


def kaiming_uniform_(tensor: Any, a: float = 0, mode: str = "fan_in", nonlinearity: str = "leaky_relu") -> Any:
    """Fill a weight with `kaiming_uniform`; returns it.  InputError for other options than those of a ReLU."""
    return _kaiming(tensor, "kaiming_uniform", a, mode, nonlinearity)


def kaiming_normal_(tensor: Any, a: float = 0, mode: str = "fan_in", nonlinearity: str = "leaky_relu") -> Any:
    """Fill a weight with `kaiming_normal`; returns it.  InputError for other options than those of a ReLU."""
    return _kaiming(tensor, "kaiming_normal", a, mode, nonlinearity)


def _kaiming(tensor, name, a, mode, nonlinearity):
    if a or mode != "fan_in" or nonlinearity not in ("relu", "leaky_relu"):
        raise InputError(f"{name}_: expected a=0, mode='fan_in' and nonlinearity='relu', got a={a!r}, mode={mode!r}, "
                         f"nonlinearity={nonlinearity!r}")
    return _fill(tensor, name)


def uniform_(tensor: Any, a: float = 0.0, b: float = 1.0) -> Any:
    """Fill with numbers from a to b; returns the parameter."""
    return tensor.copy_(_generator().uniform(a, b, tensor.shape))


def normal_(tensor: Any, mean: float = 0.0, std: float = 1.0) -> Any:
    """Fill with normal numbers; returns the parameter."""
    return tensor.copy_(_generator().normal(mean, std, tensor.shape))


def constant_(tensor: Any, val: float) -> Any:
    """Fill with one number; returns the parameter."""
    return tensor.fill_(val)


def zeros_(tensor: Any) -> Any:
    """Fill with 0; returns the parameter."""
    return tensor.fill_(0)


def ones_(tensor: Any) -> Any:
    """Fill with 1; returns the parameter."""
    return tensor.fill_(1)
