"""What layers and networks have in common, with the names of `torch.nn.Module`: a tree, and the parameters in it."""
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from cnn_numba.errors import InputError
from cnn_numba.parameter import Parameter, float32_array


class IncompatibleKeys(NamedTuple):
    """What `load_state_dict` found: parameters that are not in the state, and names there that are not parameters."""

    missing_keys: list[str]
    unexpected_keys: list[str]

    def __repr__(self) -> str:
        if not self.missing_keys and not self.unexpected_keys:
            return "<All keys matched successfully>"
        return f"IncompatibleKeys(missing_keys={self.missing_keys}, unexpected_keys={self.unexpected_keys})"


class Module:
    """A layer or a network."""

    training: bool

    def named_children(self) -> Iterator[tuple[str, "Module"]]:
        """(name, layer) of what is directly inside."""
        return iter(())

    def named_tensors(self) -> Iterator[tuple[str, Parameter]]:
        """(name, Parameter) of all parameters and statistics."""
        raise NotImplementedError

    def children(self) -> Iterator["Module"]:
        """What is directly inside."""
        return (child for _, child in self.named_children())

    def named_modules(self, prefix: str = "") -> Iterator[tuple[str, "Module"]]:
        """(name, layer) of this and of everything inside, as `torch.nn.Module.named_modules`."""
        yield prefix, self
        for name, child in self.named_children():
            yield from child.named_modules(f"{prefix}.{name}" if prefix else name)

    def modules(self) -> Iterator["Module"]:
        """This and everything inside."""
        return (module for _, module in self.named_modules())

    def named_parameters(self) -> Iterator[tuple[str, Parameter]]:
        """(name, Parameter) of the parameters, in the order of the layers."""
        return ((name, p) for name, p in self.named_tensors() if not p.statistic)

    def parameters(self) -> list[Parameter]:
        """The parameters, in the order of the layers."""
        return [p for _, p in self.named_parameters()]

    def named_buffers(self) -> Iterator[tuple[str, Parameter]]:
        """(name, Parameter) of the statistics."""
        return ((name, p) for name, p in self.named_tensors() if p.statistic)

    def buffers(self) -> list[Parameter]:
        """The statistics that batch normalisation collects."""
        return [p for _, p in self.named_buffers()]

    def requires_grad_(self, requires_grad: bool = True) -> Any:
        """Freeze (False) or train (True) all parameters; see `Parameter.requires_grad`.  Returns the module."""
        for p in self.parameters():
            p.requires_grad = requires_grad
        return self

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Set all gradients to zero, whatever `set_to_none` says: gradients are arrays that are never missing."""
        for p in self.parameters():
            p.zero_grad()

    def apply(self, function: Callable[["Module"], Any]) -> Any:
        """Call a function with everything inside, the innermost first, and with this.  Returns the module."""
        for child in self.children():
            child.apply(function)
        function(self)
        return self

    def to(self, *args: Any, **kwargs: Any) -> Any:
        """Nothing to do for the CPU and float32; InputError for any other device or type."""
        for value in (*args, *kwargs.values()):
            if str(value).removeprefix("torch.") not in ("cpu", "float32", "True", "False", "<class 'numpy.float32'>"):
                raise InputError(f"networks run on the CPU in float32 only, got {value!r}")
        return self

    def cpu(self) -> Any:
        """Nothing to do."""
        return self

    float = cpu

    def cuda(self, *args: Any) -> Any:
        """InputError: there is no GPU here."""
        return self.to("cuda")

    def double(self) -> Any:
        """InputError: networks compute in float32."""
        return self.to("float64")

    half = double

    def state_dict(self) -> dict[str, np.ndarray]:
        """{name: copy of the value} of parameters and statistics, with PyTorch's names and shapes."""
        return {name: p.value.copy() for name, p in self.named_tensors()}

    def load_state_dict(self, state_dict: dict[str, Any], strict: bool = True) -> IncompatibleKeys:
        """Copy values with the names and shapes of `state_dict`.

        Parameters
        ----------
        state_dict : {name: array}
        strict : bool
            Whether exactly the parameters and statistics must be there; otherwise those of the same name are copied.

        Returns
        -------
        IncompatibleKeys : (missing_keys, unexpected_keys)

        Raises InputError, and changes nothing, when names or shapes differ.
        """
        mine = dict(self.named_tensors())
        if not isinstance(state_dict, dict):
            raise InputError(f"load_state_dict: expected a dict of arrays, got {type(state_dict).__name__}")
        result = IncompatibleKeys([name for name in mine if name not in state_dict],
                                  [name for name in state_dict if name not in mine])
        if strict and (result.missing_keys or result.unexpected_keys):
            odd = sorted([*result.missing_keys, *map(str, result.unexpected_keys)])[0]
            wrong = "missing" if odd in mine else "not a parameter of this model"
            raise InputError(f"load_state_dict: {odd!r} is {wrong}, expected exactly {', '.join(mine)}")
        new = {name: float32_array(f"load_state_dict: {name!r}", value).copy()
               for name, value in state_dict.items() if name in mine}
        for name, value in new.items():
            if value.shape != mine[name].shape:
                raise InputError(f"load_state_dict: {name!r} has shape {value.shape}, expected {mine[name].shape}")
        for name, value in new.items():
            mine[name].clear()
            mine[name].value[...] = value
        return result
