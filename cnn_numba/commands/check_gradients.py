"""The `check-gradients` command."""
from cnn_numba.commands.flags import COUNT_OR_NONE, POSITIVE, add_execution_flags, choose_execution
from cnn_numba.commands.network import add_batch_flags, chosen_network


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
