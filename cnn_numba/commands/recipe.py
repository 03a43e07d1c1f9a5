"""How a network is trained: the flags of loss, optimizer, schedule and augmentation, and what they stand for.

What a flag's default is, and whether it means anything, can depend on the choice of optimizer, schedule or loss; a flag
that the choice does not use is refused.
"""
import math

from cnn_numba.commands.flags import BELOW_ONE, COUNT, FROM_ZERO, POSITIVE, bounded
from cnn_numba.errors import InputError

# {choice: {flag: default}}
OPTIMIZERS = {
    "sgd": {"lr": 0.03, "momentum": 0.9, "weight_decay": 1e-4, "nesterov": False},
    "rmsprop": {"lr": 1e-3, "momentum": 0.0, "weight_decay": 0.0, "alpha": 0.99, "eps": 1e-8},
    "adam": {"lr": 1e-3, "weight_decay": 0.0, "betas": "0.9,0.999", "eps": 1e-8},
    "adamw": {"lr": 1e-3, "weight_decay": 0.01, "betas": "0.9,0.999", "eps": 1e-8},
}
ONE_CYCLE = {"momentum": 0.95, "betas": "0.95,0.999"}           # of optimizers that have a momentum by default
MOMENTUM_RANGE = 0.1                                            # how far the momentum falls in that schedule
SCHEDULES = {
    "linear": {},
    "constant": {},
    "step": {"step_size": 6, "gamma": 0.3},
    "exponential": {"gamma": 0.9},
    "plateau": {"patience": 4, "gamma": 0.5},
    "cosine": {},
    "one-cycle": {"warm_up": 0.3},
}
OPEN_END = {"constant", "step", "exponential", "plateau"}       # whose rates do not depend on the number of epochs
INITS = "xavier_uniform", "xavier_normal", "kaiming_uniform", "kaiming_normal"
NORMALIZE = "standard", "unit", "none"
LOSSES = {"cross-entropy": {"label_smoothing": 0.0, "class_weights": None}, "mse": {}}


def class_weights(text):
    """The text, if it is "balanced" or numbers of at least 0, not all 0."""
    if text != "balanced":
        numbers = [float(word) for word in text.split(",")]
        if not all(0 <= x < math.inf for x in numbers) or not any(numbers):
            raise ValueError
    return text


def betas(text):
    """The text, if it is two numbers of at least 0 and below 1."""
    first, second = map(float, text.split(","))
    if not (0 <= first < 1 and 0 <= second < 1):
        raise ValueError
    return text


def add_flags(parser):
    """Add the flags to the parser of a command."""
    def default(choices, flag):
        values = {name: flags[flag] for name, flags in choices.items() if flag in flags}
        if len(set(values.values())) == 1:
            return f"(default: {next(iter(values.values()))}; {', '.join(values)})"
        return f"(default: {', '.join(f'{value} for {name}' for name, value in values.items())})"

    group = parser.add_argument_group("loss")
    group.add_argument("--loss", choices=tuple(LOSSES), default="cross-entropy",
                       help="cross-entropy of the softmax, or mean squared error on one-hot targets "
                            "(default: %(default)s)")
    group.add_argument("--label-smoothing", type=BELOW_ONE, metavar="X",
                       help="share of the target that is spread over all classes (default: 0; cross-entropy)")
    group.add_argument("--class-weights", type=bounded(class_weights, bool, "balanced, or numbers such as 1,1,2.5"),
                       metavar="W,W,...",
                       help="how much the images of each class count, or balanced: the rarer the more "
                            "(default: all the same; cross-entropy)")
    group = parser.add_argument_group("optimizer")
    group.add_argument("--optimizer", choices=tuple(OPTIMIZERS), default="sgd",
                       help="rule of the update (default: %(default)s)")
    group.add_argument("--lr", type=POSITIVE, metavar="X",
                       help="learning rate of the first epoch, the highest one of one-cycle "
                            + default(OPTIMIZERS, "lr"))
    group.add_argument("--momentum", type=BELOW_ONE, metavar="X",
                       help="share of the last step that a step repeats " + default(OPTIMIZERS, "momentum"))
    group.add_argument("--nesterov", action="store_true", default=None, help="Nesterov's momentum (default: no; sgd)")
    group.add_argument("--alpha", type=BELOW_ONE, metavar="X",
                       help="share of the old squared gradient " + default(OPTIMIZERS, "alpha"))
    group.add_argument("--betas", metavar="B,B",
                       type=bounded(betas, bool, "two numbers of at least 0 and below 1, such as 0.9,0.999"),
                       help="shares of the old gradient and squared gradient " + default(OPTIMIZERS, "betas"))
    group.add_argument("--eps", type=POSITIVE, metavar="X",
                       help="added to the root of the squared gradient " + default(OPTIMIZERS, "eps"))
    group.add_argument("--weight-decay", type=FROM_ZERO, metavar="X",
                       help="L2 penalty, for adamw apart from the gradient " + default(OPTIMIZERS, "weight_decay"))
    group.add_argument("--spare-biases", action="store_true",
                       help="no weight decay for biases and batch normalisation (default: for all parameters)")
    group.add_argument("--clip-norm", type=POSITIVE, metavar="X",
                       help="scale gradients down that are longer (default: no)")
    group = parser.add_argument_group("schedule of the learning rate")
    group.add_argument("--schedule", choices=tuple(SCHEDULES), default="linear",
                       help="linear: in equal steps to 0 after the last epoch; step, exponential: times --gamma every "
                            "--step-size epochs, every epoch; plateau: times --gamma when the loss, on "
                            "the validation images if there are any, has not fallen for more than --patience epochs; "
                            "cosine: along a cosine to 0; one-cycle: up, and down to almost 0, changed at every step, "
                            f"while the momentum (first beta) falls by {MOMENTUM_RANGE} and rises again, from 0.95 "
                            "unless given (default: %(default)s)")
    group.add_argument("--step-size", type=COUNT, metavar="N", help="epochs from one fall to the next "
                       + default(SCHEDULES, "step_size"))
    group.add_argument("--gamma", type=bounded(float, lambda x: 0 < x < 1, "a number between 0 and 1"), metavar="X",
                       help="what the rate is multiplied by " + default(SCHEDULES, "gamma"))
    group.add_argument("--patience", type=COUNT, metavar="N", help="epochs without a smaller loss "
                       + default(SCHEDULES, "patience"))
    group.add_argument("--warm-up", type=bounded(float, lambda x: 0 < x < 1, "a number between 0 and 1"), metavar="X",
                       help="share of the training in which the rate rises " + default(SCHEDULES, "warm_up"))
    group = parser.add_argument_group("augmentation")
    group.add_argument("--augment", metavar="LIST",
                       help="change training images at random, such as shift=2,rotate=10,scale=0.1,flip: up to 2 "
                            "pixels, 10 degrees, a tenth, and half of them mirrored (default: no)")


def complete(args):
    """Put the defaults in place that depend on the choices; InputError for a flag that they do not use."""
    for kind, choices in ("optimizer", OPTIMIZERS), ("schedule", SCHEDULES), ("loss", LOSSES):
        chosen = getattr(args, kind)
        for flag in dict.fromkeys(flag for flags in choices.values() for flag in flags):
            given = getattr(args, flag)
            if flag in choices[chosen]:
                usual = choices[chosen][flag]
                if usual and args.schedule == "one-cycle":
                    usual = ONE_CYCLE.get(flag, usual)
                setattr(args, flag, usual if given is None else given)
            elif given is not None:
                raise InputError(f"argument --{flag.replace('_', '-')}: --{kind} {chosen} has none, expected one of "
                                 f"{', '.join(name for name, flags in choices.items() if flag in flags)}")
    if args.nesterov and not args.momentum:
        raise InputError(f"argument --nesterov: needs a --momentum above 0, got {args.momentum:g}")
    if args.early_stopping and not args.validation:
        raise InputError("argument --early-stopping: needs --validation, on which epochs are judged")


def make_optimizer(args, model):
    from cnn_numba import optim

    kind = {"sgd": optim.SGD, "rmsprop": optim.RMSprop, "adam": optim.Adam, "adamw": optim.AdamW}[args.optimizer]
    options = {flag: getattr(args, flag) for flag in OPTIMIZERS[args.optimizer]}
    if "betas" in options:
        options["betas"] = tuple(map(float, args.betas.split(",")))
    return kind(model, decay_weights_only=args.spare_biases, **options)


def make_scheduler(args, optimizer, steps):
    """The schedule for epochs of so many steps; None when the rate is constant."""
    from cnn_numba import lr_scheduler as known

    def one_cycle():
        top = optimizer.betas[0] if "betas" in OPTIMIZERS[args.optimizer] else optimizer.momentum
        return known.OneCycleLR(
            optimizer, args.lr, epochs=args.epochs, steps_per_epoch=steps, pct_start=args.warm_up,
            cycle_momentum=top > 0, max_momentum=top, base_momentum=max(0.0, top - MOMENTUM_RANGE))

    return {
        "linear": lambda: known.LinearLR(optimizer, 1.0, 0.0, args.epochs),
        "constant": lambda: None,
        "step": lambda: known.StepLR(optimizer, args.step_size, args.gamma),
        "exponential": lambda: known.ExponentialLR(optimizer, args.gamma),
        "plateau": lambda: known.ReduceLROnPlateau(optimizer, factor=args.gamma, patience=args.patience),
        "cosine": lambda: known.CosineAnnealingLR(optimizer, args.epochs),
        "one-cycle": one_cycle,
    }[args.schedule]()


def make_loss(args, data):
    """The loss; InputError when there is not one weight for each class."""
    import numpy as np

    from cnn_numba.losses import CrossEntropyLoss, MSELoss

    if args.loss == "mse":
        return MSELoss()
    weights = args.class_weights
    if weights == "balanced":
        counts = np.bincount(data.train_labels, minlength=data.num_classes)
        weights = len(data.train_labels) / (data.num_classes * np.maximum(counts, 1))
    elif weights is not None:
        weights = [float(word) for word in weights.split(",")]
        if len(weights) != data.num_classes:
            raise InputError(f"argument --class-weights: expected {data.num_classes} numbers, one for each class of "
                             f"{data.name}, got {len(weights)}")
    return CrossEntropyLoss(weight=weights, label_smoothing=args.label_smoothing)


def make_augment(args):
    """The augmentation of training images, or None; InputError for one that does not exist."""
    if not args.augment:
        return None
    from cnn_numba.augment import Augment

    try:
        return Augment.parse(args.augment)
    except InputError as error:
        raise InputError(f"argument --{error}") from None
