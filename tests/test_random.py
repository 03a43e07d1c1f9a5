"""The random numbers of the kernels: the published generator, the same bits in every way to run, and no pattern."""
import numpy as np
import pytest
from both_ways import random_numbers
from random_numbers import NUMBERS, lane_numbers, scalar_numbers, splitmix

SURE = 6                        # standard errors: one good generator in 10**7 tests is further off


def test_published_numbers():
    """The first five of splitmix64.c for the seed 1234567."""
    assert scalar_numbers([1234567], 5)[0][0].tolist() == [
        6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431, 16408922859458223821]


def test_numbers_of_any_key():
    seeds = np.array([0, 1, 2**62, 2**63 - 1, -1, -2**63])
    out, fractions = scalar_numbers(seeds, 20)
    k, keys = np.arange(20, dtype=np.uint64), seeds.astype(np.uint64)[:, None]
    assert np.array_equal(out, splitmix(keys, k))
    keys = splitmix(keys, np.arange(6, dtype=np.uint64)[:, None])
    assert np.array_equal(fractions, (splitmix(keys, k) >> np.uint64(11)) * 2.0**-53)


def test_interpreted_gives_the_same_bits(interpreted):
    """And warns of no overflow."""
    want = interpreted("random_numbers")
    for name, got in random_numbers().items():
        assert np.array_equal(got, want[name]), name


# ---- no pattern ---------------------------------------------------------------------------------------------------
def deviations(u):
    """{what: how many standard errors from that of independent numbers, at most} for rows of fractions."""
    v = (u - 0.5) * np.sqrt(12)                                     # mean 0, variance 1, kurtosis 9/5

    def score(x, spread=1.0):
        return abs(x.mean()) * np.sqrt(x.size) / spread

    counts, _ = np.histogram(u, 64, (0, 1))
    found = {"mean": score(v), "variance": score(v**2 - 1, np.sqrt(4 / 5)),
             "histogram": (((counts - u.size / 64)**2).sum() / (u.size / 64) - 63) / np.sqrt(126)}
    for lag in 1, 2, 3, 16:
        found[f"numbers {lag} apart"] = score(v[:, lag:] * v[:, :-lag])
        if lag < len(v):
            found[f"rows {lag} apart"] = score(v[lag:] * v[:-lag])
            found[f"rows {lag} apart, shifted"] = score(v[lag:, 1:] * v[:-lag, :-1])
    last = (u * 2**16 % 1 - 0.5) * np.sqrt(12)                      # the less significant bits
    return found | {"last bits": score(last), "last bits apart": score(last[:, 1:] * last[:, :-1])}


def worst(u):
    found = deviations(u)
    what = max(found, key=found.get)
    return found[what], what


@pytest.mark.parametrize("seed, number", ((0, 0), (0, 1), (1, 0), (2**40, 7), (-1, 2**33)))
def test_lanes_look_independent(seed, number):
    off, what = worst(lane_numbers(seed, number))
    assert off < SURE, what


@pytest.mark.parametrize("seeds", (range(64), range(0, 640, 10), [2**k for k in range(63)]))
def test_fractions_look_independent(seeds):
    off, what = worst(scalar_numbers(np.array(seeds))[1])
    assert off < SURE, what


def test_neighbouring_keys_have_unlike_numbers():
    """Passes, seeds, and both swapped."""
    base = (lane_numbers(5, 6) - 0.5) * np.sqrt(12)
    for key in (5, 7), (6, 6), (6, 5), (5, 6 + 2**32), (5 + 2**32, 6):
        other = (lane_numbers(*key) - 0.5) * np.sqrt(12)
        assert abs((base * other).mean()) * np.sqrt(base.size) < SURE


def test_negative_controls():
    """What the tests above must notice: counters that are not mixed enough, rows that repeat, numbers below 0.98."""
    assert worst(lane_numbers(5, 6))[0] < SURE
    n, k = np.arange(64)[:, None], np.arange(NUMBERS)
    assert worst((n * 0.7548776662 + k * 0.6180339887) % 1)[0] > 10 * SURE
    line = np.zeros((64, NUMBERS), np.uint32)
    x = (n.ravel() * 7919 + 1).astype(np.uint32)
    for i in range(NUMBERS):
        line[:, i] = x = x * np.uint32(65539)                       # RANDU
    assert worst(line % 2**31 / 2**31)[0] > SURE
    u = lane_numbers(5, 6).astype(np.float64)
    u[32:] = u[:32]
    assert worst(u[[0, 32, 1, 33]])[1] == "rows 1 apart"
    assert worst(lane_numbers(5, 6) * 0.98)[0] > SURE


def test_a_key_decides_each_bit_of_each_number():
    """A changed bit of seed or counter changes half of the bits."""
    seeds = np.array([12345] + [12345 ^ 1 << k for k in range(63)])
    out, _ = scalar_numbers(seeds, 200)
    changed = np.unpackbits((out[1:] ^ out[:1]).view(np.uint8)).reshape(63, -1).mean(1)
    assert np.abs(changed - 0.5).max() < SURE * 0.5 / np.sqrt(200 * 64)
    after = np.unpackbits((out[:, 1:] ^ out[:, :-1]).view(np.uint8)).mean()
    assert abs(after - 0.5) < SURE * 0.5 / np.sqrt(64 * 199 * 64)
