"""The flags that name a network to look at, and that network."""
import argparse
from typing import TYPE_CHECKING

import cnn_numba.kinds as kinds
from cnn_numba.commands.flags import CLASSES, COUNT, IMAGE_SHAPE, NETWORK, SEED, check_exists
from cnn_numba.commands.parser import Parser
from cnn_numba.errors import InputError, naming
from cnn_numba.presets import PRESETS

if TYPE_CHECKING:
    from cnn_numba.inference import Classifier
    from cnn_numba.model import Sequential


def add_network_flags(parser: Parser) -> None:
    group = parser.group("network")
    pair = group.add_mutually_exclusive_group()
    pair.add_argument("--model", type=NETWORK, default="two-conv", metavar="NAME|FILE",
                      help=f"{kinds.NETWORK.listing} (default: %(default)s)")
    pair.add_argument("--load", metavar="FILE", help="trained model: .npz of train --save, ONNX or safetensors "
                                                          "(default: none)")
    group.add_argument("--image-shape", type=IMAGE_SHAPE, metavar="CxHxW",
                       help="channels, rows and columns of an image (default: those of the saved model, or 1x28x28)")
    group.add_argument("--classes", type=CLASSES, metavar="N",
                       help="number of outputs (default: those of the saved model, or 10)")


def chosen_network(args: argparse.Namespace, seed: int = 0) -> "tuple[str, Sequential, tuple[int, ...], int]":
    """(name, model, shape of an image, number of classes) for the flags."""
    from cnn_numba.files.layers_json import check_image_shape
    from cnn_numba.interchange.formats import format_of, load, make_network

    name, shape, classes = args.load or args.model, args.image_shape, args.classes
    if name not in PRESETS:
        check_exists("--load" if args.load else "--model", name)
    if not args.load and (name in PRESETS or format_of(name) == "json"):
        shape, classes = shape or (1, 28, 28), classes or 10
        return name, make_network(name, shape, classes, seed=seed), shape, classes
    model = load(name).train()
    shape = shape or model.input_shape or (1, 28, 28)
    try:
        outputs = check_image_shape(model.layers, shape)
    except InputError as error:
        raise InputError(f"{name}: {error}") from None
    if classes not in (None, outputs):
        raise InputError(f"argument --classes: {name} has {outputs} outputs, got {classes}")
    return name, model, shape, outputs


def trained_network(args: argparse.Namespace) -> "Sequential":
    """The model of --load, with --mean and --std."""
    from cnn_numba.interchange.formats import load

    model = load(args.load)
    add_pixels(model, args)
    return model


def add_pixels(model: "Sequential", args: argparse.Namespace) -> None:
    """Give a model the --mean and --std of its pixels."""
    import numpy as np

    channels = (model.input_shape or (1,))[0]
    for flag in "mean", "std":
        given = getattr(args, flag)
        if given is not None:
            if len(given) not in (1, channels):
                raise InputError(f"argument --{flag}: {args.load} takes images of {channels} channels, got "
                                 f"{len(given)} numbers")
            setattr(model, flag, np.broadcast_to(np.array(given, np.float32), (channels,)))


def trained_classifier(args: argparse.Namespace) -> "Classifier":
    """The classifier of --load; InputError when it lacks what the classification of images needs."""
    from cnn_numba.inference import Classifier

    model = trained_network(args)
    if getattr(args, "precision", None) is None:
        use_precision(model, args.load)
    if model.input_shape is not None and (model.mean is None or model.std is None):
        raise InputError(f"{args.load} does not say how pixels are normalised: give --mean and --std of the pixels as "
                         "they are in files, 0 and 1 for a network that takes them unchanged")
    with naming(args.load):
        return Classifier(model)


def use_precision(model: "Sequential", name: str) -> None:
    """Multiply as in the training of a model, where its file says how."""
    from cnn_numba.execution import set_float32_matmul_precision

    with naming(f"{name}, the precision of its training"):
        set_float32_matmul_precision((model.recipe or {}).get("precision", "highest"))


def add_batch_flags(parser: Parser, batch_size: int) -> None:
    add_network_flags(parser)
    group = parser.group("random images")
    group.add_argument("--batch-size", type=COUNT, default=batch_size, metavar="N",
                       help="images at a time (default: %(default)s)")
    group.add_argument("--seed", type=SEED, default=0, metavar="N",
                       help="seed of everything random (default: %(default)s)")
