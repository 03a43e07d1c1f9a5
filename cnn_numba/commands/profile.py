"""The `profile` command."""
from cnn_numba.commands.flags import COUNT, add_execution_flags, choose_execution
from cnn_numba.commands.network import add_batch_flags, chosen_network


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
