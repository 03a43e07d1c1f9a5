"""PyTorch, with the data set as one float tensor, and one index_select for each batch."""
import copy

import torch
from torch import nn
from torch.nn import functional

from cnn_numba.benchmark import contender
from cnn_numba.errors import InputError
from cnn_numba.inspection.timing import median_call, per_call


class Contender(contender.Contender):
    """channels_last : the memory format of images and weights
    bf16 : whether convolutions and dense layers run in bf16, by autocast
    compiled : whether torch.compile makes one function of the network and its loss
    """

    def __init__(self, threads, channels_last=False, bf16=False, compiled=False):
        super().__init__(threads)
        if bf16 and not (torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()):
            raise InputError("this CPU has no instructions for bf16")
        if compiled:
            check_compiler()
        torch.set_num_threads(threads)
        self.dtype = torch.bfloat16 if bf16 else torch.float32
        self.format = torch.channels_last if channels_last else torch.contiguous_format
        self.bf16, self.compile = bf16, torch.compile if compiled else lambda function, **_: function

    def load(self, **source):
        data = contender.load(**source)
        self.x = torch.from_numpy(contender.standardised(data)).contiguous(memory_format=self.format)
        self.y = torch.from_numpy(data.train_labels)

    def build(self, network, batch_size):
        self.batch_size = batch_size
        self.net = nn.Sequential(*make(network)).to(memory_format=self.format)
        parameters, norms = list(self.net.parameters()), (nn.BatchNorm1d, nn.BatchNorm2d)
        own = {id(p) for module in self.net.modules() if isinstance(module, norms) for p in module.parameters()}
        with torch.no_grad():
            weights = contender.initial([tuple(p.shape) for p in parameters])
            for parameter, value in zip(parameters, weights, strict=True):
                if id(parameter) not in own:            # norms start as 1 and 0
                    parameter.copy_(torch.from_numpy(value))
        self.optimizer = torch.optim.SGD(parameters, **contender.HYPER)
        self.cost, self.classes = self.compile(self.mean_loss), self.compile(self.most_likely)
        self.answer = None

    def mean_loss(self, x, y):
        return functional.cross_entropy(self.outputs(x), y)

    def most_likely(self, x):
        return self.outputs(x).argmax(1)

    def outputs(self, x):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=self.bf16):
            return self.net(x).float()

    def epoch(self):
        order = torch.randperm(self.images)
        for first in range(0, self.images, self.batch_size):
            chosen = order[first:first + self.batch_size]
            self.optimizer.zero_grad(set_to_none=True)
            self.cost(self.x.index_select(0, chosen), self.y.index_select(0, chosen)).backward()
            self.optimizer.step()

    def loss(self):
        first = slice(contender.CHECKED)
        with torch.inference_mode():
            return functional.cross_entropy(self.net(self.x[first]), self.y[first]).item()

    def predict(self, batch_size):
        with torch.inference_mode():
            for first in range(0, len(self.x), batch_size):
                self.classes(self.x[first:first + batch_size])

    def latency(self, images, seconds):
        if self.answer is None:
            self.net.eval()
            net = copy.deepcopy(self.net).to(self.dtype)            # converted once, which autocast does in each call
            self.answer = self.compile(lambda x: net(x.to(self.dtype)).float(), dynamic=False)
        with torch.inference_mode():
            x = self.x[:images].contiguous(memory_format=self.format)
            return {"": median_call(lambda: self.answer(x), seconds)}

    def layer(self, network, shape, batch_size, seconds):
        """Seconds of the passes of one layer: what autograd does for the input alone, and for the weights alone."""
        net = nn.Sequential(*make(network)).to(self.dtype, memory_format=self.format)
        x = torch.randn(batch_size, *shape, dtype=self.dtype)
        if len(shape) == 3:
            x = x.contiguous(memory_format=self.format)
        with torch.inference_mode():
            dy = net(x)
            times = {"forward": per_call(lambda: net(x), seconds)}
        for name, wanted in ("to input", [x]), ("to weights", list(net.parameters())):
            x.requires_grad_(name == "to input")
            net.requires_grad_(name == "to weights")
            if wanted:
                y, dy = net(x), dy.clone()
                times[name] = per_call(
                    lambda y=y, dy=dy, wanted=wanted: torch.autograd.grad(y, wanted, dy, retain_graph=True), seconds)
        return times

    def optimizer_step(self, size, seconds):
        """Seconds of one update of size x size parameters."""
        parameter = nn.Parameter(torch.randn(size, size))
        parameter.grad = torch.randn(size, size)
        return {"update": per_call(torch.optim.SGD([parameter], **contender.HYPER).step, seconds)}


def check_compiler():
    """InputError where torch.compile does not find a C++ compiler that works."""
    try:
        torch.compile(lambda x: x * 2 + 1)(torch.ones(3))
    except Exception as error:
        raise InputError(f"torch.compile does not work here ({type(error).__name__})") from None


class Residual(nn.Module):
    def __init__(self, body, shortcut):
        super().__init__()
        self.body = nn.Sequential(*make(body))
        self.shortcut = nn.Sequential(*make(shortcut)) if shortcut else nn.Identity()

    def forward(self, x):
        return self.body(x) + self.shortcut(x)


def make(network):
    """The modules of a description; see `networks.description`."""
    return [Residual(**arguments) if name == "Residual" else
            getattr(nn, name)(**{key: tuple(value) if isinstance(value, list) else value
                                 for key, value in arguments.items()}) for name, arguments in network]
