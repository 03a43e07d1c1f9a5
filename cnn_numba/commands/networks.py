"""The commands that look at a network: `summary`, `check-gradients` and `profile`."""
from cnn_numba.commands.flags import (
    CLASSES,
    COUNT,
    COUNT_OR_NONE,
    IMAGE_SHAPE,
    NETWORK,
    POSITIVE,
    SEED,
    add_execution_flags,
    choose_execution,
)
from cnn_numba.errors import InputError
from cnn_numba.presets import PRESETS


def add_network_flags(parser):
    group = parser.add_argument_group("network")
    pair = group.add_mutually_exclusive_group()
    pair.add_argument("--model", type=NETWORK, default="two-conv", metavar="NAME|FILE",
                      help=f"{', '.join(PRESETS)}, a JSON file of layers, or a saved model (default: %(default)s)")
    pair.add_argument("--load", metavar="FILE", help="model that train --save wrote (default: none)")
    group.add_argument("--image-shape", type=IMAGE_SHAPE, metavar="CxHxW",
                       help="channels, rows and columns of an image (default: those of the saved model, or 1x28x28)")
    group.add_argument("--classes", type=CLASSES, metavar="N",
                       help="number of outputs (default: those of the saved model, or 10)")


def chosen_network(args, seed=0):
    """(name, Sequential, image shape, number of classes) for the flags."""
    from cnn_numba.files.layers_json import check_image_shape
    from cnn_numba.files.model_file import load
    from cnn_numba.files.network_json import build_network

    name, shape, classes = args.load or args.model, args.image_shape, args.classes
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


def summary(parser):
    """Print the layers of a network with their shapes, parameters, multiply-adds and bytes."""
    add_network_flags(parser)
    return run_summary


def run_summary(args, _started):
    from cnn_numba.inspection.summary import table
    from cnn_numba.layers import shape_text

    name, model, shape, classes = chosen_network(args)
    print(f"{name} for images of {shape_text(shape)} and {classes} classes\n")
    for line in table(model.layers, shape):
        print(line)
    return 0


def add_batch_flags(parser, batch_size):
    add_network_flags(parser)
    group = parser.add_argument_group("random images")
    group.add_argument("--batch-size", type=COUNT, default=batch_size, metavar="N",
                       help="images at a time (default: %(default)s)")
    group.add_argument("--seed", type=SEED, default=0, metavar="N",
                       help="seed of everything random (default: %(default)s)")


def check_gradients(parser):
    """Compare the gradients of every layer and parameter of a network with central differences in float64."""
    add_batch_flags(parser, batch_size=4)
    group = parser.add_argument_group("comparison")
    group.add_argument("--samples", type=COUNT_OR_NONE, default=20, metavar="N",
                       help="elements of each gradient, the largest among them; 0 for all (default: %(default)s)")
    group.add_argument("--tolerance", type=POSITIVE, default=1e-3, metavar="X",
                       help="largest error, relative to the largest element (default: %(default)s)")
    add_execution_flags(parser)
    return run_check_gradients


def run_check_gradients(args, _started):
    choose_execution(args)
    from cnn_numba.execution import describe
    from cnn_numba.inspection.gradients import run

    _, model, shape, classes = chosen_network(args, args.seed)
    print(describe(), flush=True)
    return run(model, shape, classes, args.batch_size, args.seed, args.samples, args.tolerance)


def profile(parser):
    """Measure where the time of a training step goes: the forward and backward pass of each layer."""
    add_batch_flags(parser, batch_size=64)
    parser.add_argument("--iterations", type=COUNT, default=100, metavar="N",
                        help="how often each part runs (default: %(default)s)")
    add_execution_flags(parser)
    return run_profile


def run_profile(args, _started):
    choose_execution(args)
    from cnn_numba.execution import describe
    from cnn_numba.inspection.profile import run

    _, model, shape, classes = chosen_network(args, args.seed)
    print(describe(), flush=True)
    return run(model, shape, classes, args.batch_size, args.seed, args.iterations)
