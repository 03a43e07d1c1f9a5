"""The `export` command."""
import argparse
from collections.abc import Callable

from cnn_numba.commands.flags import COUNT, add_load_flag, check_exists
from cnn_numba.commands.network import trained_network
from cnn_numba.commands.output import put
from cnn_numba.commands.parser import Parser
from cnn_numba.errors import naming


def export(parser: Parser) -> Callable[[argparse.Namespace, float], int]:
    """Write a trained network for another program: as ONNX or safetensors, or as an .npz file."""
    parser.usage = "%(prog)s export --load FILE [flags] OUT"
    parser.group("output").add_argument("out", metavar="OUT", help="file that ends in .onnx, .safetensors or .npz")
    add_load_flag(parser)
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
    model = trained_network(args)
    with naming(f"{args.load} cannot be exported"):
        write(model, args.out, args.opset, args.logits, args.raw)
    takes = ""
    if args.out.lower().endswith(".onnx"):
        from cnn_numba.interchange.onnx_export import describe_graph

        takes = f": {describe_graph(model, args.logits, args.raw)}"
    put(f"Wrote {args.out}{takes}")
    return 0
