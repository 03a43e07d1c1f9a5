"""Cook-Toom products: m outputs of a convolution with r taps from n = m + r - 1 multiplications instead of m * r.

Taps and inputs are the coefficients of polynomials.  The values of their product at n points (one of them infinity)
determine it, and each value costs one multiplication.  With the constant matrices A, B, G below, the trilinear form
sum over xi of (G w)[xi] (B x)[xi] (A dy)[xi] gives all three directions of a convolution, without flipped weights or
padded gradients:

    y = A^T ((G w) * (B x))        dx = B^T ((G w) * (A dy))        dw = G^T ((B x) * (A dy))

Toom 1963, Cook 1966; for networks: Lavin and Gray, "Fast algorithms for convolutional neural networks" (2016).
Rounding errors grow with n.  The largest measured in float32, relative to the largest output: along one axis F(4,3)
5e-7, F(4,5) 8e-7, F(5,5) 2e-6; along both F(4,3) by F(4,3) 2e-6, F(2,5) by F(4,5) 2e-6; without products, for sums of
128 channels, 1e-6.
"""
from fractions import Fraction
from functools import cache

import numpy as np
from numba import config, types

from .lanes import LANES, aligned, fma, splat

# The n - 1 finite points with the smallest errors, found by a search over fractions with small denominators.
POINTS = {
    2: (0,),
    3: (1, -1),
    4: (1, -1, 0),
    5: (1, -1, Fraction(1, 2), 0),
    6: (Fraction(3, 4), Fraction(-3, 4), Fraction(3, 2), Fraction(-3, 2), 0),
    8: (1, -1, 2, -2, Fraction(1, 2), Fraction(-1, 2), 0),
    9: (1, -1, Fraction(3, 2), Fraction(-3, 2), Fraction(3, 4), Fraction(-3, 4), Fraction(1, 4), Fraction(-1, 4)),
}


def _with_roots(roots):
    """Coefficients of the product of (z - root), lowest first."""
    c = [Fraction(1)]
    for root in roots:
        c = [(c[k - 1] if k else 0) - (root * c[k] if k < len(c) else 0) for k in range(len(c) + 1)]
    return c


def _matrices(m, r):
    """A (n, m) evaluates a polynomial of m coefficients at the points; G (n, r) one of r coefficients, divided by the
    denominators of the interpolation; B (n, n) interpolates."""
    points = [Fraction(p) for p in POINTS[m + r - 1]]
    A, B, G = [], [], []
    for p in points:
        others = [q for q in points if q != p]
        denominator = np.prod([p - q for q in others])
        A.append([p**j for j in range(m)])
        B.append(_with_roots(others) + [Fraction(0)])
        G.append([p**j / denominator for j in range(r)])
    A.append([Fraction(j == m - 1) for j in range(m)])
    B.append(_with_roots(points))
    G.append([Fraction(j == r - 1) for j in range(r)])
    return A, B, G


class Matrix:
    """A constant matrix as a short list of operations, found by a simple search.

    operations : (target, a, b, factor): x[target] = x[a] + factor * x[b], or factor * x[b] when a is None;
        x[0], x[1], ... are the inputs
    out : the names of the outputs

    The points come in pairs p, -p, and so do the rows: even + odd part and even - odd part.  Each part is computed
    once.  In a transposed matrix the columns come in pairs: sums and differences of the inputs are computed first.
    """

    def __init__(self, rows):
        self.shape = len(rows), len(rows[0])
        self.operations, self._next = [], self.shape[1]
        by_row, by_column = self._pairs(rows), self._pairs([list(c) for c in zip(*rows, strict=True)])
        self.out = [None] * len(rows)
        if sum(mate is not None for _, mate, *_ in by_column) > sum(mate is not None for _, mate, *_ in by_row):
            terms = []
            for k, mate, even, odd, sign in by_column:
                if mate is None:
                    terms.append((k, even))
                else:
                    terms += [(self._operation(k, mate, sign), even), (self._operation(k, mate, -sign), odd)]
            for j in range(len(rows)):
                self.out[j] = self._sum([(name, column[j]) for name, column in terms if column[j]])
            return
        for k, mate, even, odd, sign in by_row:
            if mate is None:
                self.out[k] = self._sum([(j, c) for j, c in enumerate(even) if c])
                continue
            halves = []
            for part in even, odd:
                lead = next(c for c in reversed(part) if c)
                halves.append((self._sum([(j, c / lead) for j, c in enumerate(part) if c]), lead))
            (a, lead_a), (b, lead_b) = halves
            self.out[k] = self._sum([(a, lead_a), (b, lead_b)])
            self.out[mate] = self._sum([(a, sign * lead_a), (b, -sign * lead_b)])

    @staticmethod
    def _pairs(rows):
        """[(k, mate, even, odd, sign)]: row k is even + odd, row mate is sign * (even - odd); for a row
        without a mate, even is the whole row."""
        found, taken = [], set()
        for k, row in enumerate(rows):
            if k in taken:
                continue
            even = [c if j % 2 == 0 else Fraction(0) for j, c in enumerate(row)]
            odd = [c - e for c, e in zip(row, even, strict=True)]
            mates = [(other, sign) for sign in (1, -1) for other in range(k + 1, len(rows)) if other not in taken
                     and rows[other] == [sign * (e - o) for e, o in zip(even, odd, strict=True)]]
            if mates and any(even) and any(odd):
                taken.add(mates[0][0])
                found.append((k, mates[0][0], even, odd, mates[0][1]))
            else:
                found.append((k, None, row, None, 1))
        return found

    def _operation(self, a, b, factor):
        self.operations.append((self._next, a, b, float(factor)))
        self._next += 1
        return self._next - 1

    def _sum(self, terms):
        """The name of the sum of factor * x[name]; a term with factor 1 comes first, which saves an operation."""
        start = next((term for term in terms if term[1] == 1), None)
        if start is None:
            start, terms = (self._operation(None, *terms[0]), 1), terms[1:]
        name = start[0]
        for term in terms:
            if term is not start:
                name = self._operation(name, *term)
        return name

    def __repr__(self):
        return f"Matrix({self.shape[0]} x {self.shape[1]}, {len(self.operations)} operations)"

    def run(self, x, add, multiply, multiply_add):
        """The outputs for the inputs x, computed by the given functions."""
        x = dict(enumerate(x))
        for target, a, b, factor in self.operations:
            if a is None:
                x[target] = multiply(factor, x[b])
            elif abs(factor) == 1:
                x[target] = add(x[a], x[b], factor == 1)
            else:
                x[target] = multiply_add(factor, x[b], x[a])
        return [x[name] for name in self.out]


class Toom:
    """F(m, r) for kernels: m, r, n, and the matrices A, AT, B, BT, G, GT, all part of the Numba type.

    taps : float32 (r, LANES), the numbers of G: a vector holds a column
    """

    def __init__(self, m, r):
        self.m, self.r, self.n = m, r, m + r - 1
        A, B, G = _matrices(m, r)
        self.A, self.B, self.G = Matrix(A), Matrix(B), Matrix(G)
        self.AT, self.BT, self.GT = (Matrix([list(c) for c in zip(*M, strict=True)]) for M in (A, B, G))
        self.taps = aligned((r, LANES))
        self.taps[:, :self.n] = np.array(G, np.float32).T

    def __repr__(self):
        return f"Toom({self.m}, {self.r}): {self.m} outputs of {self.r} taps from {self.n} products"


@cache
def toom(m, r):
    """Toom(m, r), made once: its search takes some 10 ms."""
    return Toom(m, r)


if config.DISABLE_JIT:
    def transform(M, x):
        rows = x if x.ndim == 3 else x[None]
        out = np.stack([np.stack(M.run(row, lambda a, b, plus: a + b if plus else a - b,
                                       lambda c, a: np.float32(c) * a,
                                       lambda c, a, b: fma(splat(np.float32(c)), a, b))) for row in rows])
        return out if x.ndim == 3 else out[0]

    def by_points(acc, u, index, row_axis, v):
        factors = np.stack([u[tuple(i + r if k == row_axis else i for k, i in enumerate(index[:-1]))][:len(v)]
                            for r in range(len(acc))])
        return fma(np.repeat(factors[..., None], LANES, -1), v[None], acc)

else:
    from llvmlite import ir
    from numba.core.datamodel import models
    from numba.core.typing.templates import AttributeTemplate
    from numba.extending import (
        infer_getattr,
        intrinsic,
        lower_getattr_generic,
        register_model,
        typeof_impl,
    )

    from .lanes.compiled import F32, I64, VECTOR, Address, Lanes, _fma, _pack, _read, _splat, _unpack

    SIZES, MATRICES = ("m", "r", "n"), ("A", "AT", "B", "BT", "G", "GT")

    class ToomType(types.Type):
        def __init__(self, value):
            self.value = value
            super().__init__(name=f"Toom({value.m},{value.r})")

    class MatrixType(types.Type):
        def __init__(self, toom, name):
            self.value = getattr(toom, name)
            super().__init__(name=f"Toom({toom.m},{toom.r}).{name}")

    register_model(ToomType)(models.OpaqueModel)
    register_model(MatrixType)(models.OpaqueModel)
    typeof_impl.register(Toom)(lambda value, context: ToomType(value))

    @infer_getattr
    class ToomAttributes(AttributeTemplate):
        key = ToomType

        def generic_resolve(self, ty, name):
            if name in SIZES:
                return types.literal(getattr(ty.value, name))
            return MatrixType(ty.value, name) if name in MATRICES else None

    @lower_getattr_generic(ToomType)
    def toom_attribute(context, builder, ty, value, name):
        if name in SIZES:
            return context.get_constant(types.intp, getattr(ty.value, name))
        return context.get_dummy_value()

    def _run(builder, matrix, values):
        """The code of a constant matrix times a list of vectors."""
        def constant(c):
            return ir.Constant(VECTOR, [np.float32(c)] * LANES)
        return matrix.run(values, lambda a, b, plus: builder.fadd(a, b) if plus else builder.fsub(a, b),
                          lambda c, a: builder.fmul(constant(c), a),
                          lambda c, a, b: _fma(builder, constant(c), a, b))

    @intrinsic
    def transform(typing, M, x):
        """The constant matrix M times a pack of vectors, or times each row of a tile."""
        matrix, cols = M.value, x.shape[-1]

        def code(context, builder, sig, args):
            values = _unpack(builder, args[1])
            return _pack(builder, [out for row in range(0, len(values), cols)
                                   for out in _run(builder, matrix, values[row:row + cols])])
        return Lanes("f", (*x.shape[:-1], matrix.shape[0]))(M, x), code

    @intrinsic(prefer_literal=True)
    def by_points(typing, acc, u, index, row_axis, v):
        """acc[r, xi] + u[index + r along row_axis + xi along the last axis] * v[xi]: one product for each point."""
        along = row_axis.literal_value

        def code(context, builder, sig, args):
            address = Address(context, builder, sig.args[1], args[1], sig.args[2], args[2])
            sums, points = _unpack(builder, args[0]), _unpack(builder, args[4])
            n = len(points)
            factors = [_splat(builder, _read(builder, address.at({along: I64(k // n), -1: I64(k % n)}, F32)))
                       for k in range(len(sums))]
            return _pack(builder, [_fma(builder, factor, points[k % n], s)
                                   for k, (factor, s) in enumerate(zip(factors, sums, strict=True))])
        return acc(acc, u, index, row_axis, v), code
