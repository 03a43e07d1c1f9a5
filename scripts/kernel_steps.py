"""One convolution from the textbook loop to the kernel in use, one step at a time, each with its speed.

    python scripts/kernel_steps.py [--quick]

LeNet's second convolution: 6 -> 16 channels, 5x5, on 14x14 pixels, 64 images, one thread.  Every step computes

    y[f, i, j] = bias[f] + sum of weight[f, c, p, q] x[c, i + p, j + q] over c, p, q

and is compared with the first; the letters are those of `kernels`.
"""
import argparse
import statistics
import sys
from pathlib import Path

import numpy as np
from numba import njit

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from cnn_numba import Conv2d, Sequential, describe, set_execution  # noqa: E402
from cnn_numba.benchmark.contender import per_call  # noqa: E402
from cnn_numba.benchmark.report import Table, number  # noqa: E402
from cnn_numba.inspection.peak import measure_peak  # noqa: E402
from cnn_numba.kernels.conv import conv2d_forward  # noqa: E402
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
from cnn_numba.kernels.program import JIT, KERNEL, Call, Program, in_order  # noqa: E402

IMAGES, BLOCKS = 64, 64 // LANES
C, F, K, SIZE = 6, 16, 5, 14                            # channels, filters, taps each way, rows and columns of x
OUT = SIZE - K + 1
OPERATIONS = 2 * IMAGES * F * OUT * OUT * C * K * K     # a multiply-add is two
TOLERANCE = 1e-5                                        # of the largest y: Cook-Toom products round to 3.5e-6 of it


# ---- images one at a time: x (N, C, H, W) ---------------------------------------------------------------------------
@njit(error_model="numpy")
def textbook(y, x, weight, bias):
    N, F, OH, OW = y.shape
    _, C, KH, KW = weight.shape
    for n in range(N):
        for f in range(F):
            for i in range(OH):
                for j in range(OW):
                    acc = bias[f]
                    for c in range(C):
                        for p in range(KH):
                            for q in range(KW):
                                acc += weight[f, c, p, q] * x[n, c, i + p, j + q]
                    y[n, f, i, j] = acc


# ---- LANES images at a time: x (N, C, H, W, LANES) ------------------------------------------------------------------
@njit(error_model="numpy")
def loop_over_lanes(y, x, weight, bias):
    """Every number becomes LANES numbers side by side.  LLVM could make a vector of them, but takes so short a loop
    apart first, and cannot put it together again because y might overlap x."""
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
    """The lanes of a whole row as one long loop, x (N, C, H, W * LANES): now there are vectors, but every multiply-add
    loads and stores its sum."""
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
    """The vector as a type: the sum stays in a register, where each addition waits for the one before."""
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
    """T.cols sums of a row at once, which do not wait for each other; each pixel is loaded for one multiply-add."""
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


class Steps:
    """The steps on the same random images: `all` is a list of (name, function to time, images per call, y of the call
    as (images, F, OH, OW))."""

    def __init__(self):
        layer = Sequential(Conv2d(C, F, K), seed=0)
        weight, bias = (parameter.value for parameter in layer.parameters())
        plan = layer.plan((C, SIZE, SIZE), BLOCKS, backward=False)
        prepare_and_forward, _ = plan.programs()
        rng = np.random.default_rng(0)
        images = rng.normal(size=(IMAGES, C, SIZE, SIZE)).astype(np.float32)
        bias[:] = rng.normal(size=F)
        plan.x.put(images)
        x, y = aligned((BLOCKS, C, SIZE, SIZE, LANES)), aligned((BLOCKS, F, OUT, OUT, LANES))
        x[...] = plan.x.inner
        x_rows, y_rows = x.reshape(BLOCKS, C, SIZE, -1), y.reshape(BLOCKS, F, OUT, -1)
        outputs = np.empty((IMAGES, F, OUT, OUT), np.float32)

        def program(kernel, *options):
            return Program(in_order([Call(kernel, BLOCKS, y, x, weight, bias, *options)]))

        def from_lanes():
            return np.moveaxis(y, -1, 1).reshape(outputs.shape)

        wide = REGISTERS > 8
        row, tile = Tile(1, 10 if wide else 5), Tile(8, 2) if wide else Tile(4, 1)
        direct = 1, 1, 1, 1, 0                          # stride, dilation of rows and of columns, groups, no ReLU
        self.written = y, outputs, plan.z.inner
        self.all = [
            ("textbook loop, interpreted", lambda: textbook.py_func(outputs[:1], images[:1], weight, bias),
             1, lambda: outputs),
            ("the same, compiled", lambda: textbook(outputs, images, weight, bias), IMAGES, lambda: outputs),
            (f"{LANES} images side by side, innermost loop over them",
             lambda: loop_over_lanes(y, x, weight, bias), IMAGES, from_lanes),
            ("innermost loop over a row of them", lambda: loop_over_row(y_rows, x_rows, weight, bias),
             IMAGES, from_lanes),
            (f"vectors of {LANES} images, one sum in a register", program(one_sum), IMAGES, from_lanes),
            (f"a row of {row.cols} sums", program(row_of_sums, row), IMAGES, from_lanes),
            (f"a tile of {tile.rows} filters x {tile.cols} columns (conv2d_forward)",
             program(conv2d_forward, *direct, tile), IMAGES, from_lanes),
            ("Cook-Toom products (what Conv2d runs here)", prepare_and_forward, IMAGES, lambda: plan.z.get(IMAGES)),
        ]

    def check(self):
        """Run every step once, which also compiles it; SystemExit names the step that computes something else."""
        def run(step):
            _, run, images, result = step
            for array in self.written:
                array[...] = np.nan                     # what a step leaves out stays one
            run()
            return result()[:images].copy()

        truth = run(self.all[1])                        # the textbook, of all images
        for step in self.all:
            y = run(step)
            error = abs(y - truth[:len(y)]).max() / abs(truth).max()
            if not error <= TOLERANCE:
                raise SystemExit(f"{step[0]}: differs by {error:.1e} of the largest output, expected {TOLERANCE:.0e}")

    def measure(self, rounds, seconds):
        """([median seconds per IMAGES images of each step], operations per second of multiply-adds alone), all of
        them in turns."""
        times, peaks = [[] for _ in self.all], []
        for _ in range(rounds):
            peaks.append(measure_peak(1, seconds)[0])
            for (_, run, images, _), mine in zip(self.all, times, strict=True):
                mine.append(per_call(run, seconds) * IMAGES / images)
        return [statistics.median(mine) for mine in times], statistics.median(peaks)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one short round, for a first impression")
    args = parser.parse_args()
    if not JIT:
        raise SystemExit("NUMBA_DISABLE_JIT is set: there is nothing to compare without the compiler")
    set_execution("serial")
    steps = Steps()
    steps.check()
    times, peak = steps.measure(*((1, 0.02) if args.quick else (7, 0.1)))
    rows = [{"step": name, "seconds": t, "before": before / t, "first": times[0] / t}
            for (name, *_), t, before in zip(steps.all, times, times[:1] + times, strict=False)]
    print(describe())
    print(f"Peak of one thread: {peak / 1e9:.0f} GF/s of multiply-adds.  Nominal GF/s and per cent count the\n"
          "textbook's operations, of which Cook-Toom products leave out more than half.\n")
    print(Table(
        f"Convolution {C} -> {F} channels, {K}x{K}, on {SIZE}x{SIZE} pixels, {IMAGES} images, one thread", rows,
        [("step", lambda row: row["step"]),
         ("us", lambda row: number(row["seconds"] * 1e6)),
         ("nominal GF/s", lambda row: number(OPERATIONS / row["seconds"] / 1e9)),
         ("% of peak", lambda row: number(100 * OPERATIONS / row["seconds"] / peak)),
         ("x step before", lambda row: number(row["before"])),
         ("x first", lambda row: number(row["first"]))], chart=None))


if __name__ == "__main__":
    main()
