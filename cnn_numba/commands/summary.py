"""The `summary` command."""
from cnn_numba.commands.network import add_network_flags, chosen_network


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
