"""One convolution from the plain loops to the kernel in use, one change at a time, each with its speed.

    python scripts/kernel_steps.py [--quick]

LeNet's second convolution: 6 -> 16 channels, 5x5, on 14x14 pixels, 64 images, one thread.  Every version computes

    y[f, i, j] = bias[f] + sum of weight[f, c, p, q] x[c, i + p, j + q] over c, p, q

and is compared with the first, `conv2d_plain` at the top of kernels/conv.py: read that one first, then the kernels
below from top to bottom.  The letters are those of kernels/__init__.py.
"""
import argparse
import statistics
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numba import njit

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from cnn_numba import Conv2d, Sequential, describe, set_execution  # noqa: E402
from cnn_numba.inspection.peak import measure_peak  # noqa: E402
from cnn_numba.inspection.timing import per_call  # noqa: E402
from cnn_numba.kernels.compiled import JIT, KERNEL  # noqa: E402
from cnn_numba.kernels.conv import conv2d_forward, conv2d_plain  # noqa: E402
from cnn_numba.kernels.lanes import (  # noqa: E402
    LANES,
    REGISTERS,
    Tile,
    aligned,
    fma,
    load,
    outer,
    scalars,
    splat,
    spread,
    store,
    store_tile,
    vectors,
)
from cnn_numba.kernels.program import Call, Program, in_order  # noqa: E402
from cnn_numba.table import Table, number  # noqa: E402

IMAGES, BLOCKS = 64, 64 // LANES
C, F, K, SIZE = 6, 16, 5, 14                            # channels, filters, taps each way, rows and columns of x
OUT = SIZE - K + 1
OPERATIONS = 2 * IMAGES * F * OUT * OUT * C * K * K     # a multiply-add is two
TOLERANCE = 1e-5                                        # of the largest y: Cook-Toom products round to 3.5e-6 of it


# ---- one image at a time: x (N, C, H, W) ----------------------------------------------------------------------------
compiled_plain = njit(error_model="numpy")(conv2d_plain)


# ---- LANES images at a time: x (N, C, H, W, LANES) ------------------------------------------------------------------
@njit(error_model="numpy")
def loop_over_lanes(y, x, weight, bias):
    """Every number becomes LANES numbers side by side.  LLVM does not make vectors of them: it unrolls so short a loop
    first, and y might overlap x."""
    N, F, OH, OW, _ = y.shape
    _, C, KH, KW = weight.shape
    for n in range(N):
        for f in range(F):
            for i in range(OH):
                for j in range(OW):
                    for l in range(LANES):
                        y[n, f, i, j, l] = bias[f]
                    for c in range(C):
                        for p in range(KH):
                            for q in range(KW):
                                for l in range(LANES):
                                    y[n, f, i, j, l] += weight[f, c, p, q] * x[n, c, i + p, j + q, l]


@njit(error_model="numpy")
def loop_over_row(y, x, weight, bias):
    """The lanes of a row as one long loop, x (N, C, H, W * LANES).  Now LLVM makes vectors.  But every multiply-add
    loads its sum from memory and stores it again."""
    N, F, OH, _ = y.shape
    _, C, KH, KW = weight.shape
    for n in range(N):
        for f in range(F):
            for i in range(OH):
                acc = y[n, f, i]
                acc[:] = bias[f]
                for c in range(C):
                    for p in range(KH):
                        for q in range(KW):
                            w, pixels = weight[f, c, p, q], x[n, c, i + p, q * LANES:]
                            for k in range(len(acc)):
                                acc[k] += w * pixels[k]


@njit(**KERNEL)
def one_sum(n, y, x, weight, bias):
    """The vector as a type: the sum stays in a register.  But each addition waits for the one before."""
    F, C, KH, KW = weight.shape
    for f in range(F):
        for i in range(y.shape[2]):
            for j in range(y.shape[3]):
                acc = splat(bias[f])
                for c in range(C):
                    for p in range(KH):
                        for q in range(KW):
                            acc = fma(splat(weight[f, c, p, q]), load(x, (n, c, i + p, j + q)), acc)
                store(y, (n, f, i, j), acc)


@njit(**KERNEL)
def row_of_sums(n, y, x, weight, bias, T):
    """T.cols sums of a row at once, which do not wait for each other.  But every multiply-add loads its own pixel."""
    F, C, KH, KW = weight.shape
    for f in range(F):
        for i in range(y.shape[2]):
            for j in range(0, y.shape[3], T.cols):
                acc = spread(bias, f, 1, T.cols)
                for c in range(C):
                    for p in range(KH):
                        for q in range(KW):
                            acc = outer(acc, scalars(weight, (f, c, p, q), 1, 0),
                                        vectors(x, (n, c, i + p, j + q), T.cols, 3, 1))
                store_tile(y, (n, f, i, j), 1, 3, 1, acc)


# ---- the comparison -------------------------------------------------------------------------------------------------
@dataclass
class Version:
    """One way to compute the convolution.

    run : function to time
    images : how many images a call computes
    result : function that returns y of the last call, (images, F, OH, OW)
    """

    name: str
    run: Callable[[], object]
    images: int
    result: Callable[[], np.ndarray]


class Comparison:
    """All versions on the same random images.

    versions : list of Version
    outputs : the arrays that they write, with the filters on axis 1
    """

    def __init__(self):
        layer = Sequential(Conv2d(C, F, K), seed=0)
        weight, bias = (parameter.value for parameter in layer.parameters())
        plan = layer.plan((C, SIZE, SIZE), BLOCKS, backward=False)
        conv2d, _ = plan.programs()
        rng = np.random.default_rng(0)
        images = rng.normal(size=(IMAGES, C, SIZE, SIZE)).astype(np.float32)
        bias[:] = rng.normal(size=F)
        plan.x.put(images)
        plain_y = np.empty((IMAGES, F, OUT, OUT), np.float32)
        x, y = aligned((BLOCKS, C, SIZE, SIZE, LANES)), aligned((BLOCKS, F, OUT, OUT, LANES))
        x[...] = plan.x.inner
        x_rows, y_rows = x.reshape(BLOCKS, C, SIZE, -1), y.reshape(BLOCKS, F, OUT, -1)

        def program(kernel, **options):
            """A kernel for all blocks, with its arguments by the names in its signature."""
            return Program(in_order([Call(kernel, BLOCKS, y=y, x=x, weight=weight, bias=bias, **options)]))

        def plain(name, run, images=IMAGES):
            return Version(name, run, images, lambda: plain_y)

        def lanes(name, run):
            return Version(name, run, IMAGES, lambda: np.moveaxis(y, -1, 1).reshape(plain_y.shape))

        wide = REGISTERS > 8
        row, tile = Tile(1, 10 if wide else 5), Tile(8, 2) if wide else Tile(4, 1)
        self.outputs = y, plain_y, plan.z.inner
        self.versions = [
            plain("plain loops, interpreted", lambda: conv2d_plain(plain_y[:1], images[:1], weight, bias), 1),
            plain("the same, compiled", lambda: compiled_plain(plain_y, images, weight, bias)),
            lanes(f"{LANES} images side by side, innermost loop over them",
                  lambda: loop_over_lanes(y, x, weight, bias)),
            lanes("innermost loop over a row of them", lambda: loop_over_row(y_rows, x_rows, weight, bias)),
            lanes(f"vectors of {LANES} images, one sum in a register", program(one_sum)),
            lanes(f"a row of {row.cols} sums", program(row_of_sums, T=row)),
            lanes(f"a tile of {tile.rows} filters x {tile.cols} columns (conv2d_forward)",
                  program(conv2d_forward, stride=1, dilation_h=1, dilation_w=1, groups=1, relu=0, T=tile)),
            Version("Cook-Toom products (what Conv2d runs here)", conv2d, IMAGES, lambda: plan.z.get(IMAGES)),
        ]

    def check(self):
        """Run every version once, which also compiles it; SystemExit names one that computes something else."""
        def output(version):
            for array in self.outputs:
                array[...] = np.nan                     # what a version leaves out stays NaN
            version.run()
            return version.result()[:version.images].copy()

        truth = output(self.versions[1])                # the plain loops, of all images
        for version in self.versions:
            y = output(version)
            error = abs(y - truth[:len(y)]).max() / abs(truth).max()
            if not error <= TOLERANCE:
                raise SystemExit(f"{version.name}: differs by {error:.1e} of the largest output, "
                                 f"expected at most {TOLERANCE:.0e}")

    def measure(self, rounds, seconds):
        """([median seconds of each version for IMAGES images], median operations per second of multiply-adds alone).

        All take turns: a slow moment of the machine affects each of them.
        """
        times, peaks = [[] for _ in self.versions], []
        for _ in range(rounds):
            if peak := measure_peak(1, seconds):        # on one thread, other programs do not hide it
                peaks.append(peak[0])
            for version, mine in zip(self.versions, times, strict=True):
                mine.append(per_call(version.run, seconds) * IMAGES / version.images)
        return [statistics.median(mine) for mine in times], statistics.median(peaks)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one short round, for a first impression")
    args = parser.parse_args()
    if not JIT:
        raise SystemExit("the comparison needs Numba's compiler: unset NUMBA_DISABLE_JIT")
    set_execution("serial")
    comparison = Comparison()
    comparison.check()
    times, peak = comparison.measure(*((1, 0.02) if args.quick else (7, 0.1)))
    rows = [{"name": version.name, "seconds": t, "before": before}
            for version, t, before in zip(comparison.versions, times, times[:1] + times, strict=False)]
    print(describe())
    print(f"Peak of one thread: {peak / 1e9:.0f} GF/s of multiply-adds.  GF/s and % of peak count the operations of\n"
          "the plain loops; Cook-Toom products need less than half of them.\n")
    print(Table([("version", lambda row: row["name"]),
                 ("us", lambda row: number(row["seconds"] * 1e6)),
                 ("GF/s", lambda row: number(OPERATIONS / row["seconds"] / 1e9)),
                 ("% of peak", lambda row: number(100 * OPERATIONS / row["seconds"] / peak)),
                 ("x version before", lambda row: number(row["before"] / row["seconds"])),
                 ("x first", lambda row: number(times[0] / row["seconds"]))], rows,
                f"Convolution {C} -> {F} channels, {K}x{K}, on {SIZE}x{SIZE} pixels, {IMAGES} images, one thread"))


if __name__ == "__main__":
    main()
