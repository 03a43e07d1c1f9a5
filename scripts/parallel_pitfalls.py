"""Why `parallel=True` makes many networks slower: every cause on its own, with its number.

    python scripts/parallel_pitfalls.py [--quick]

A process chooses its threading layer and its thread pools once, so each measurement runs in a process of its own.  The
network is LeNet, in plain loops, and classifies 8 images.  All measurements but (e) need an idle machine.
"""
import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import textwrap
import time
from contextlib import contextmanager

import numba
import numpy as np
from numba import config, njit, prange

THREADS = config.NUMBA_NUM_THREADS
IMAGES = 8
STEPS, LOOPS = 938, 30      # training steps of a LeNet epoch (60,000 images, 64 at a time); parallel loops in a step

# Numba's cache takes parallel=True and parallel=False for the same: each function is compiled in one way only.
SERIAL, PARALLEL = dict(cache=True), dict(cache=True, parallel=True)


# ---- a network in plain loops, one image ----------------------------------------------------------------------------
@njit(**SERIAL)
def conv(y, x, weight, bias):
    """y = max(0, a convolution of x), both (channels, rows, columns)"""
    F, C, KH, KW = weight.shape
    for f in range(F):
        for i in range(y.shape[1]):
            for j in range(y.shape[2]):
                acc = bias[f]
                for c in range(C):
                    for p in range(KH):
                        for q in range(KW):
                            acc += weight[f, c, p, q] * x[c, i + p, j + q]
                y[f, i, j] = max(acc, np.float32(0))


@njit(**SERIAL)
def pool(y, x):
    """y = the maximum of x over 2x2 pixels"""
    for c in range(y.shape[0]):
        for i in range(y.shape[1]):
            for j in range(y.shape[2]):
                y[c, i, j] = max(max(x[c, 2 * i, 2 * j], x[c, 2 * i, 2 * j + 1]),
                                 max(x[c, 2 * i + 1, 2 * j], x[c, 2 * i + 1, 2 * j + 1]))


@njit(**SERIAL)
def dense(y, x, weight, bias):
    """y = weight x + bias"""
    for o in range(len(y)):
        acc = bias[o]
        for k in range(len(x)):
            acc += weight[o, k] * x[k]
        y[o] = acc


@njit(**SERIAL)
def relu(x):
    for k in range(len(x)):
        x[k] = max(x[k], np.float32(0))


@njit(**SERIAL)
def lenet(y, x, parameters):
    w1, b1, w2, b2, w3, b3, w4, b4, w5, b5 = parameters
    h1, h2 = np.zeros((6, 28, 28), np.float32), np.zeros((6, 14, 14), np.float32)
    h3, h4 = np.zeros((16, 10, 10), np.float32), np.zeros((16, 5, 5), np.float32)
    h5, h6 = np.zeros(120, np.float32), np.zeros(84, np.float32)
    conv(h1, x, w1, b1)
    pool(h2, h1)
    conv(h3, h2, w2, b2)
    pool(h4, h3)
    dense(h5, h4.reshape(400), w3, b3)
    relu(h5)
    dense(h6, h5, w4, b4)
    relu(h6)
    dense(y, h6, w5, b5)


# ---- all images: in one thread, in one parallel loop, in a parallel loop per layer ----------------------------------
@njit(**SERIAL)
def serial(x, parameters):
    y = np.zeros((len(x), 10), np.float32)
    for n in range(len(x)):
        lenet(y[n], x[n], parameters)
    return y


@njit(**PARALLEL)
def one_loop(x, parameters):
    y = np.empty((len(x), 10), np.float32)
    for n in prange(len(x)):
        lenet(y[n], x[n], parameters)
    return y


@njit(**PARALLEL)
def conv_layer(x, weight, bias):
    N, _, H, W = x.shape
    F, _, KH, KW = weight.shape
    y = np.zeros((N, F, H - KH + 1, W - KW + 1), np.float32)        # with parallel=True, this is a parallel loop too
    for n in prange(N):
        conv(y[n], x[n], weight, bias)
    return y


@njit(**PARALLEL)
def pool_layer(x):
    N, C, H, W = x.shape
    y = np.zeros((N, C, H // 2, W // 2), np.float32)
    for n in prange(N):
        pool(y[n], x[n])
    return y


@njit(**PARALLEL)
def dense_layer(x, weight, bias):
    y = np.zeros((len(x), len(bias)), np.float32)
    for n in prange(len(x)):
        dense(y[n], x[n], weight, bias)
    return y


@njit(**PARALLEL)
def relu_layer(x):
    return np.maximum(x, np.float32(0))


def layer_by_layer(x, parameters):
    w1, b1, w2, b2, w3, b3, w4, b4, w5, b5 = parameters
    h = pool_layer(conv_layer(pool_layer(conv_layer(x, w1, b1)), w2, b2)).reshape(len(x), -1)
    h = relu_layer(dense_layer(h, w3, b3))
    h = relu_layer(dense_layer(h, w4, b4))
    return dense_layer(h, w5, b5)


CALLED = conv_layer, pool_layer, conv_layer, pool_layer, dense_layer, relu_layer, dense_layer, relu_layer, dense_layer


# ---- the measurements, each in a process of its own: {name: seconds, or a number} -----------------------------------
@njit(**SERIAL)
def plain_loops(y, count):
    for k in range(count):
        for i in range(len(y)):
            y[i] += k


@njit(**PARALLEL)
def parallel_loop(y, k):
    for i in prange(len(y)):
        y[i] += k


@njit(**SERIAL)
def parallel_loops(y, count):
    for k in range(count):
        parallel_loop(y, k)


def per_call(f, seconds):
    """Seconds per call of f, the mean over `seconds`."""
    count, start = 0, time.perf_counter()
    while (spent := time.perf_counter() - start) < seconds or not count:
        f()
        count += 1
    return spent / count


def in_turns(functions, rounds):
    """{name: median seconds per call} of functions that take turns, each for 0.1 s in a round."""
    times = {name: [] for name in functions}
    for f in functions.values():
        f()
    for _ in range(rounds):
        for name, f in functions.items():
            time.sleep(0.05)                            # until the threads of the last function have stopped spinning
            times[name].append(per_call(f, 0.1))
    return {name: statistics.median(samples) for name, samples in times.items()}


def measure_loops(rounds):
    """A parallel loop with one addition per thread, and the same loop in one thread."""
    y, plain, parallel = np.zeros(THREADS), 10000, 100
    times = in_turns({"plain": lambda: plain_loops(y, plain), "parallel": lambda: parallel_loops(y, parallel)}, rounds)
    return {"plain": times["plain"] / plain, "parallel": times["parallel"] / parallel}


def network():
    """{name: function that runs the network on the same images, with the same parameters}"""
    rng = np.random.default_rng(0)
    shapes = (6, 1, 5, 5), 6, (16, 6, 5, 5), 16, (120, 400), 120, (84, 120), 84, (10, 84), 10
    parameters = tuple(rng.normal(0, 0.1, shape).astype(np.float32) for shape in shapes)
    x = rng.normal(size=(IMAGES, 1, 32, 32)).astype(np.float32)
    ways = {"serial": serial, "one loop": one_loop, "layers": layer_by_layer}
    return {name: lambda f=f: f(x, parameters) for name, f in ways.items()}


def measure_first_calls(_):
    """The first call of each way to run the network, and how many parallel loops "layers" has.  All ways must agree."""
    seconds, outputs = {}, []
    for name, f in network().items():
        start = time.perf_counter()
        outputs.append(f())
        seconds[name] = time.perf_counter() - start
        np.testing.assert_allclose(outputs[-1], outputs[0], rtol=1e-4, atol=1e-4, err_msg=name)
    loops = sum(f.get_metadata(f.signatures[0])["parfor_diagnostics"].count_parfors() for f in CALLED)
    return {**seconds, "loops": loops}


def measure_network(rounds):
    return in_turns(network(), rounds)


def measure_blas(rounds):
    """A matrix product by BLAS, a parallel loop over its result, and one after the other."""
    rng = np.random.default_rng(0)
    a, b = (rng.normal(size=shape).astype(np.float32) for shape in ((256, 400), (400, 120)))
    y = a @ b
    return in_turns({"product": lambda: a @ b, "loop": lambda: relu_layer(y), "both": lambda: relu_layer(a @ b)},
                    rounds)


MEASURE = {"loops": measure_loops, "first calls": measure_first_calls, "network": measure_network,
           "blas": measure_blas}


# ---- the table ------------------------------------------------------------------------------------------------------
class Measurements:
    """Runs measurements in processes that share a folder of compiled code."""

    def __init__(self, folder, rounds):
        self.folder, self.rounds = folder, rounds

    def __call__(self, what, layer, **environment):
        """The numbers of one measurement with a threading layer; None where Numba does not find the layer."""
        inherited = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
        variables = {**inherited, "NUMBA_CACHE_DIR": self.folder, "NUMBA_THREADING_LAYER": layer, **environment}
        run = subprocess.run([sys.executable, __file__, "--measure", what, str(self.rounds)], env=variables,
                             stdout=subprocess.PIPE, text=True, check=True)
        return json.loads(run.stdout)


@contextmanager
def busy_processors():
    """One busy process for each processor."""
    others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(THREADS)]
    try:
        yield
    finally:
        for other in others:
            other.kill()
            other.wait()


def us(seconds):
    value = seconds * 1e6
    return f"{value:,.0f} us" if value >= 100 else f"{value:.3g} us"


def loop_rows(measure):
    passive = {"OMP_WAIT_POLICY": "passive"}
    ways = [("omp", "omp", {}), ("omp, OMP_WAIT_POLICY=passive", "omp", passive), ("tbb", "tbb", {}),
            ("workqueue", "workqueue", {})]
    found = [(label, measure("loops", layer, **environment)) for label, layer, environment in ways]
    plain = min(times["plain"] for _, times in found if times)
    yield "no parallel loop", us(plain), f"The same loop in one thread: {THREADS} additions."
    for label, times in found:
        if times:
            epoch = times["parallel"] * STEPS * LOOPS
            yield label, us(times["parallel"]), (f"The cost of a loop with nothing to do; with {LOOPS} loops in a "
                                                 f"training step, {epoch:.2f} s of a LeNet epoch.")
        else:
            yield label, "-", "Numba does not find this threading layer here."


def network_rows(found, loops, yardstick):
    yield "one thread", us(yardstick), f"LeNet on {IMAGES} images without parallel=True: the time to beat."
    for layer, times in found.items():
        yield (f"{layer}, every layer parallel", us(times["layers"]),
               f"{loops} parallel loops, because np.zeros and np.maximum become loops too: "
               f"{yardstick / times['layers']:.2f}x the speed of one thread.")
        yield (f"{layer}, one parallel loop", us(times["one loop"]),
               "All layers of an image inside one loop over images: "
               f"{yardstick / times['one loop']:.2f}x the speed of one thread.")


def blas_rows(measure, layer):
    for threads in THREADS, 1:
        times = measure("blas", layer, OPENBLAS_NUM_THREADS=str(threads))
        parts = times["product"] + times["loop"]
        yield (f"OPENBLAS_NUM_THREADS={threads}", us(times["both"]),
               f"A matrix product, then a parallel loop: {times['both'] / parts:.1f} times the {us(times['product'])} "
               f"plus {us(times['loop'])} that they take alone.")


def compile_rows(first, later):
    for name, label in ("serial", "one thread"), ("layers", "every layer parallel"):
        yield (f"{label}, first call", f"{first[name]:.2f} s",
               f"Later calls take {us(later[name])}: the mean of 100 calls, the first among them, is "
               f"{(first[name] + 99 * later[name]) / 100 / later[name]:,.0f} times that.")


def shared_rows(measure, layer, alone, loops):
    environments = {"": {}, ", passive": {"OMP_WAIT_POLICY": "passive"}} if layer == "omp" else {"": {}}
    with busy_processors():
        beside = {label: measure("network", layer, **environment) for label, environment in environments.items()}

    def row(label, times, name, waits):
        return (label, us(times[name]), f"{times[name] / alone[name]:.1f} times as long as alone ({us(alone[name])}): "
                                        f"{waits} for threads that may have no processor.")

    yield row("one thread", beside[""], "serial", "no waits")
    for label, times in beside.items():
        yield row(f"{layer}{label}, every layer parallel", times, "layers", f"{loops} waits")
        yield row(f"{layer}{label}, one parallel loop", times, "one loop", "one wait")


def print_rows(title, rows):
    print(f"\n{title}")
    for label, value, sentence in rows:
        first, *more = textwrap.wrap(sentence, 70)
        print(f"  {label:<34}{value:>12}  {first}", *(" " * 50 + line for line in more), sep="\n", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one round of each measurement, for a first impression")
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        what, rounds = args.measure
        try:
            print(json.dumps(MEASURE[what](int(rounds))))
        except ValueError as error:
            if "threading layer" not in str(error):
                raise
            print("null")
        return
    if config.DISABLE_JIT or THREADS < 2:
        raise SystemExit("the comparison needs Numba's compiler and two threads, got "
                         f"NUMBA_DISABLE_JIT={config.DISABLE_JIT} and {THREADS}")
    with tempfile.TemporaryDirectory() as folder:
        measure = Measurements(folder, 1 if args.quick else 5)
        load = f", load average {os.getloadavg()[0]:.1f} before" if hasattr(os, "getloadavg") else ""
        print(f"numba {numba.__version__}, {THREADS} threads{load}", flush=True)
        print_rows("(a) What one parallel loop costs, by threading layer", loop_rows(measure))
        first = measure("first calls", "omp")
        layer = "omp" if first else "workqueue"
        first = first or measure("first calls", layer)
        found = {name: measure("network", name) for name in dict.fromkeys((layer, "workqueue"))}
        alone = found[layer]
        print_rows("(b) A parallel loop per layer, or one for the network",
                   network_rows(found, first["loops"], alone["serial"]))
        print_rows(f"(c) BLAS threads beside Numba's ({layer})", blas_rows(measure, layer))
        print_rows("(d) Compile time inside the timing", compile_rows(first, alone))
        print_rows(f"(e) {THREADS} other busy processes on the machine",
                   shared_rows(measure, layer, alone, first["loops"]))


if __name__ == "__main__":
    main()
