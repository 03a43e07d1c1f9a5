"""What all experiments share: flags, data, contenders, and how these are made ready and compared."""
from cnn_numba.benchmark import networks
from cnn_numba.benchmark.contender import CHECKED, load
from cnn_numba.benchmark.process import AVX2, NAMES, Entrant, working
from cnn_numba.benchmark.report import number
from cnn_numba.errors import InputError
from cnn_numba.inspection.summary import multiply_adds
from cnn_numba.kernels.program import JIT, max_threads

RANDOM_IMAGES, QUICK_IMAGES = 60_000, 6_000
SAME_LOSS = 1e-3            # how far two contenders may be apart after one step of the same training


class Bench:
    """An experiment's flags and data, and the notes that are printed below its tables."""

    def __init__(self, args):
        if not JIT:
            raise InputError("the benchmark runs kernels compiled and interpreted side by side: "
                             "unset NUMBA_DISABLE_JIT")
        self.args, self.notes, self.batch_size = args, [], args.batch_size
        self.environment = AVX2 if args.avx2 else {}
        self.seconds = 0.1 if args.quick else 1.0               # what a round of a contender may take
        self.rounds = args.rounds or (2 if args.quick else 5)
        self.spread_text = f"median (least - most) of {self.rounds} round{'s' * (self.rounds > 1)}"
        self.threads = args.threads or max_threads()
        if self.threads > max_threads():
            raise InputError(f"--threads must be a whole number from 1 to {max_threads()}, the processors of this "
                             f"machine, got {self.threads}")
        self.shape, self.num_classes = networks.IMAGE_SHAPES.get(args.model, (1, 28, 28)), 10
        self.images = args.train_size or RANDOM_IMAGES
        if args.dataset != "random":
            data = load(args.dataset, args.data_dir, args.train_size, None)
            self.images, *self.shape = data.train_images.shape
            self.num_classes = data.num_classes
        if args.quick:
            self.images = min(self.images, QUICK_IMAGES)
        if self.batch_size > self.images:
            raise InputError(f"--batch-size must be at most {self.images}, the number of images, "
                             f"got {self.batch_size}")
        self.source = {"name": args.dataset, "data_dir": args.data_dir, "images": self.images,
                       "image_shape": self.shape}

    def settings(self):
        """The flags, and what those that were not given came to."""
        flags = {name: value for name, value in vars(self.args).items() if name not in ("run", "parse", "argv")}
        return flags | {"threads": self.threads, "rounds": self.rounds, "images": self.images}

    # ---- contenders ----------------------------------------------------------------------------------------
    def wanted(self, *usual):
        """The libraries that the user chose, or else the usual ones."""
        return self.args.contenders or usual

    def entrants(self, *usual, threads=None, formats=False):
        """A contender of each library that is wanted; `formats`: PyTorch in both memory formats of images."""
        threads, libraries = threads or self.threads, self.wanted(*usual)
        entrants = [Entrant(NAMES[library], library, threads) for library in libraries]
        if formats and "torch" in libraries:
            entrants.append(Entrant("PyTorch, channels last", "torch", threads, options={"channels_last": True}))
        return entrants

    def working(self, entrants):
        """The workers of those that are installed."""
        return working(entrants, self.environment, self.notes)

    def network(self, build=None):
        """(description, multiply-adds of one image in a training step, in the forward pass)"""
        model = (build or networks.NETWORKS[self.args.model])(self.shape, self.num_classes)
        forward, step = multiply_adds(model.layers, self.shape)
        return networks.description(model.layers), step, forward

    def prepare(self, network, batch_size, seconds=None):
        """function(worker) that trains a network for some steps and chooses the images of an epoch: all, or as many as
        take `seconds`; it gives {"compile_seconds", "images", "loss"}."""
        def prepare(worker):
            worker.ask("load", **self.source)
            building = worker.ask("build", network=network, batch_size=batch_size)[1]
            worker.ask("resize", images=batch_size)
            first = worker.ask("epoch")[1]
            loss, _ = worker.ask("loss")
            step = worker.ask("epoch")[1]
            if step < 0.1:
                step = min(worker.ask("epoch")[1] for _ in range(3))
            images = min(self.images, batch_size * max(1, int(seconds / step))) if seconds else self.images
            worker.ask("resize", images=images)
            worker.ask("epoch")                                     # a last short batch is compiled too
            return {"compile_seconds": max(0, building + first - step), "images": images, "loss": loss}
        return prepare

    # ---- what the rows say ---------------------------------------------------------------------------------
    def agree(self, able):
        """Note that all contenders computed the same, or that they did not."""
        losses = {worker.label: facts["loss"] for worker, facts in able}
        low, high = min(losses.values()), max(losses.values())
        if len(losses) == 1:
            return
        if high - low <= SAME_LOSS * max(1, abs(high)):
            self.notes.append("Every contender trains the same network from the same weights: after one step on the "
                              f"first batch, the loss of the first {CHECKED} images is {high:.4f} for each.")
        else:
            self.notes.append("The contenders do NOT compute the same: after one step on the first batch, the loss of "
                              f"the first {CHECKED} images is "
                              + ", ".join(f"{loss:.4f} ({label})" for label, loss in losses.items()) + ".")

    def note_peak(self, samples):
        """(operations, bytes) per second: the most that `with_peak` added to the samples; None without it."""
        peaks = [peak for mine in samples for _, peak in mine if peak]
        if not peaks:
            return None
        operations, traffic = map(max, zip(*peaks, strict=True))
        self.notes.append(f"Peak, the most measured in this run on {threads_text(self.threads)}: "
                          f"{number(operations / 1e9)} GF/s of multiply-adds (two operations each), "
                          f"{number(traffic / 1e9)} GB/s to and from memory.  GF/s count the textbook's operations.")
        return operations, traffic

    def title(self, what):
        return (f"{what}: {self.args.model}, batch size {self.batch_size}, {self.images:,} {self.args.dataset} images "
                f"of {' x '.join(map(str, self.shape))}; {self.spread_text}")


def with_peak(measure):
    """measure(worker), and what the cores and the memory can do at that time if the worker can tell."""
    return lambda worker: (measure(worker), worker.ask("peak", seconds=0.03)[0] if worker.library == "numba" else None)


def compare(row, first, operations, peak):
    """Add how a row's seconds relate to those of the first row and to the peak."""
    row["times_first"] = row["seconds"]["median"] / first["seconds"]["median"]
    row["gflops"] = operations / row["seconds"]["median"] / 1e9
    row["percent_of_peak"] = 100 * row["gflops"] * 1e9 / peak[0] if peak else None


def threads_text(count):
    return f"{count} thread{'s' * (count > 1)}"


def up_to(most):
    """1, 2, 4, ... and the last."""
    return sorted({2**k for k in range(most.bit_length())} | {most})
