"""The flags that name a network to look at, and that network."""
import argparse
from typing import TYPE_CHECKING

from cnn_numba.commands.flags import CLASSES, COUNT, IMAGE_SHAPE, NETWORK, SEED, check_exists
from cnn_numba.commands.parser import Parser
from cnn_numba.errors import InputError
from cnn_numba.presets import PRESETS

if TYPE_CHECKING:
    from cnn_numba.model import Sequential


def add_network_flags(parser: Parser) -> None:
    group = parser.group("network")
    pair = group.add_mutually_exclusive_group()
    pair.add_argument("--model", type=NETWORK, default="two-conv", metavar="NAME|FILE",
                      help=f"{', '.join(PRESETS)}, a .json file of layers, or a saved model (default: %(default)s)")
    pair.add_argument("--load", metavar="FILE", help="model that train --save wrote (default: none)")
    group.add_argument("--image-shape", type=IMAGE_SHAPE, metavar="CxHxW",
                       help="channels, rows and columns of an image (default: those of the saved model, or 1x28x28)")
    group.add_argument("--classes", type=CLASSES, metavar="N",
                       help="number of outputs (default: those of the saved model, or 10)")


def chosen_network(args: argparse.Namespace, seed: int = 0) -> "tuple[str, Sequential, tuple[int, ...], int]":
    """(name, model, shape of an image, number of classes) for the flags."""
    from cnn_numba.files.layers_json import check_image_shape
    from cnn_numba.files.model_file import load
    from cnn_numba.files.network_json import build_network

    name, shape, classes = args.load or args.model, args.image_shape, args.classes
    if name not in PRESETS:
        check_exists("--load" if args.load else "--model", name)
    if not args.load and not name.lower().endswith(".npz"):
        shape, classes = shape or (1, 28, 28), classes or 10
        return name, build_network(name, shape, classes, seed=seed), shape, classes
    model = load(name).train()
    shape = shape or model.input_shape or (1, 28, 28)
    try:
        outputs = check_image_shape(model.layers, shape)
    except InputError as error:
        raise InputError(f"{name}: {error}") from None
    if classes not in (None, outputs):
        raise InputError(f"argument --classes: {name} has {outputs} outputs, got {classes}")
    return name, model, shape, outputs


def add_batch_flags(parser: Parser, batch_size: int) -> None:
    add_network_flags(parser)
    group = parser.group("random images")
    group.add_argument("--batch-size", type=COUNT, default=batch_size, metavar="N",
                       help="images at a time (default: %(default)s)")
    group.add_argument("--seed", type=SEED, default=0, metavar="N",
                       help="seed of everything random (default: %(default)s)")
