"""exp, sigmoid and tanh of a vector: LLVM has no vector instructions for them."""
import numpy as np
from numba import njit

from .compiled import HELPER
from .lanes import ROUND, ZERO, splat, times_power, where

f32 = np.float32
LEAST, MOST = f32(-104), f32(89)            # exp is 0 and infinite beyond these
LOG2E = f32(1.44269504)
# ln 2 in two parts; the first has so few digits that its multiples up to 2**15 are exact
LN2_HIGH, LN2_LOW = f32(0.693359375), f32(-2.12194440e-4)
ONE, TWO = f32(1), f32(2)
# exp(r) = 1 + r + r^2 (E0 + E1 r + ...) for |r| <= ln(2) / 2 and tanh(x) = x + x^3 (T0 + T1 x^2 + ...) for |x| < SMALL:
# the minimax polynomials of the Cephes library (S. L. Moshier)
E0, E1, E2 = f32(5.0000001201e-1), f32(1.6666665459e-1), f32(4.1665795894e-2)
E3, E4, E5 = f32(8.3334519073e-3), f32(1.3981999507e-3), f32(1.9875691500e-4)
T0, T1, T2 = f32(-3.33332819422e-1), f32(1.33314422036e-1), f32(-5.37397155531e-2)
T3, T4 = f32(2.06390887954e-2), f32(-5.70498872745e-3)
SMALL = f32(0.625)


@njit(**HELPER)
def exp(v):
    """2^k exp(r), k an integer and |r| <= ln(2) / 2, to one unit in the last place, also for subnormal results; a NaN
    stays a NaN.  Multiplications and additions are not fused, so that all CPUs, and NumPy, give the same bits."""
    v = where(v > splat(MOST), splat(MOST), v)
    v = where(splat(LEAST) > v, splat(LEAST), v)
    t = v * splat(LOG2E) + splat(ROUND)
    k = t - splat(ROUND)
    r = v - k * splat(LN2_HIGH) - k * splat(LN2_LOW)
    p = splat(E3) + r * (splat(E4) + r * splat(E5))
    p = splat(E0) + r * (splat(E1) + r * (splat(E2) + r * p))
    return times_power(splat(ONE) + (r + r * r * p), t)


@njit(**HELPER)
def sigmoid(v):
    """1 / (1 + exp(-v)), from exp(-|v|), which cannot overflow; to 2.5 units in the last place."""
    e = exp(where(v > splat(ZERO), splat(ZERO) - v, v))
    return where(v > splat(ZERO), splat(ONE), e) / (splat(ONE) + e)


@njit(**HELPER)
def tanh(v):
    """1 - 2 / (exp(2|v|) + 1) with the sign of v; near 0, where this would lose digits, a polynomial; to 1.5 units in
    the last place."""
    size = where(v > splat(ZERO), v, splat(ZERO) - v)
    far = splat(ONE) - splat(TWO) / (exp(size + size) + splat(ONE))
    near = where(splat(SMALL) > size, v, splat(ZERO))
    z = near * near
    p = splat(T0) + z * (splat(T1) + z * (splat(T2) + z * (splat(T3) + z * splat(T4))))
    return where(splat(SMALL) > size, near + near * z * p, where(v > splat(ZERO), far, splat(ZERO) - far))
