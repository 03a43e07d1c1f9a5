"""The `export` command."""
import argparse
from collections.abc import Callable
from typing import TYPE_CHECKING

import cnn_numba.kinds as kinds
from cnn_numba.commands.flags import CLASSES, COUNT, IMAGE_SHAPE, NETWORK, add_load_flag, check_exists
from cnn_numba.commands.network import add_pixels, trained_network
from cnn_numba.commands.output import put, warning
from cnn_numba.commands.parser import Parser
from cnn_numba.errors import naming
from cnn_numba.presets import PRESETS

if TYPE_CHECKING:
    from cnn_numba.model import Sequential


def export(parser: Parser) -> Callable[[argparse.Namespace, float], int]:
    """Write a trained network for another program: as ONNX or safetensors, or as an .npz file."""
    parser.usage = "%(prog)s export --load FILE [flags] OUT"
    parser.group("output").add_argument("out", metavar="OUT", help="file that ends in .onnx, .safetensors or .npz")
    add_load_flag(parser)
    group = parser.group("network, for a file that holds weights only")
    group.add_argument("--model", type=NETWORK, metavar="NAME|FILE", help=f"{kinds.NETWORK.listing} (default: none)")
    group.add_argument("--image-shape", type=IMAGE_SHAPE, default=(1, 28, 28), metavar="CxHxW",
                       help="channels, rows and columns of an image (default: 1x28x28)")
    group.add_argument("--classes", type=CLASSES, default=10, metavar="N", help="number of outputs (default: 10)")
    group = parser.group("ONNX")
    group.add_argument("--opset", type=COUNT, metavar="N",
                       help="version of the operators, from 15 to 21 (default: 17, of June 2022)")
    group.add_argument("--logits", action="store_true",
                       help="the output is logits (default: the probabilities of the classes)")
    group.add_argument("--raw", action="store_true",
                       help="the input is normalised numbers (default: pixels as in the files of the training)")
    return run_export


def run_export(args: argparse.Namespace, _started: float) -> int:
    check_exists("--load", args.load)
    from cnn_numba.files.atomic import check_writable
    from cnn_numba.interchange.formats import export as write
    from cnn_numba.interchange.formats import writer

    with naming("argument OUT"):
        writer(args.out)
        check_writable(args.out)
    model = filled_network(args) if args.model else trained_network(args)
    with naming(f"{args.load} cannot be exported"):
        write(model, args.out, args.opset, args.logits, args.raw)
    takes = ""
    if args.out.lower().endswith(".onnx"):
        from cnn_numba.interchange.onnx_export import describe_graph

        takes = f": {describe_graph(model, args.logits, args.raw)}"
    put(f"Wrote {args.out}{takes}")
    return 0


def filled_network(args: argparse.Namespace) -> "Sequential":
    """The network of --model with the weights of --load."""
    from cnn_numba.interchange.formats import load_weights, make_network

    if args.model not in PRESETS:
        check_exists("--model", args.model)
    model = make_network(args.model, args.image_shape, args.classes)
    load_weights(model, args.load, warning)
    model.input_shape = args.image_shape
    add_pixels(model, args)
    return model.eval()
