"""The operations on lanes as LLVM vector instructions, for compiled kernels."""
import operator

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.datamodel import models
from numba.core.imputils import lower_constant
from numba.core.typing.templates import AttributeTemplate
from numba.extending import (
    NativeValue,
    infer_getattr,
    intrinsic,
    lower_getattr_generic,
    overload,
    register_model,
    typeof_impl,
    unbox,
)
from numba.np.arrayobj import populate_array

from .shapes import LANES, ROUND, Tile

__all__ = [
    "add_tile", "added", "block", "clear_first", "counters", "first_lanes", "fma", "four_columns", "integers",
    "lanes_from", "load", "load_tile", "local_tile", "mask_tile", "maximum", "outer", "rectify", "repeat", "row_tile",
    "row_vectors", "scalars", "scalars_apart", "splat", "spread", "sqrt", "store", "store_from", "store_pack",
    "store_row", "store_sums", "store_tile", "store_totals", "times_power", "total", "transposed", "unit", "vectors",
    "where", "zeros",
]

I1, I8, I32, I64, F32 = ir.IntType(1), ir.IntType(8), ir.IntType(32), ir.IntType(64), ir.FloatType()
VECTOR, MASK, WHOLE = (ir.VectorType(kind, LANES) for kind in (F32, I1, I32))
COUNT = ir.Constant(WHOLE, list(range(LANES)))


# ---- types ------------------------------------------------------------------------------------------------------
class Lanes(types.Type):
    """LANES numbers of a kind, 'f': float32, 'm': booleans, 'i': uint32; shape (): one vector, (n,): a pack,
    (rows, cols): a tile."""

    def __init__(self, kind, shape=()):
        self.kind, self.shape = kind, shape
        super().__init__(name=f"Lanes{LANES}({kind},{shape})")


@register_model(Lanes)
class LanesModel(models.PrimitiveModel):
    def __init__(self, manager, ty):
        one = {"f": VECTOR, "m": MASK, "i": WHOLE}[ty.kind]
        super().__init__(manager, ty, ir.ArrayType(one, int(np.prod(ty.shape))) if ty.shape else one)


class ShapeType(types.Type):
    """The type of a compile-time shape, of which it has the attributes; kernels see those that are numbers."""

    def __init__(self, shape):
        vars(self).update(vars(shape))
        super().__init__(name=repr(shape))

V, M, I = Lanes("f"), Lanes("m"), Lanes("i")


register_model(ShapeType)(models.OpaqueModel)
typeof_impl.register(Tile)(lambda value, context: ShapeType(value))
lower_constant(ShapeType)(lambda context, builder, ty, value: context.get_dummy_value())
unbox(ShapeType)(lambda ty, value, context: NativeValue(context.context.get_dummy_value()))


@infer_getattr
class ShapeAttributes(AttributeTemplate):
    key = ShapeType

    def generic_resolve(self, ty, name):
        value = vars(ty).get(name)
        return types.literal(value) if isinstance(value, int) else None


@lower_getattr_generic(ShapeType)
def shape_attribute(context, builder, ty, value, name):
    return context.get_constant(types.intp, getattr(ty, name))


# ---- code generation --------------------------------------------------------------------------------------------
class Address:
    """The address of array[index] and, from there, of its neighbours along an axis."""

    def __init__(self, context, builder, array_type, array, index_type, index):
        self.builder = builder
        a = context.make_array(array_type)(context, builder, array)
        tuple_index = isinstance(index_type, types.BaseTuple)
        indices = cgutils.unpack_tuple(builder, index) if tuple_index else [index]
        kinds = list(index_type) if tuple_index else [index_type]
        self.strides = cgutils.unpack_tuple(builder, a.strides)
        self.strides[-1] = I64(4)
        if len(kinds) < array_type.ndim:                # a vector: the axis before the lanes is dense
            self.strides[-2] = I64(4 * LANES)
        offset = I64(0)
        for i, kind, stride in zip(indices, kinds, self.strides, strict=False):
            offset = builder.add(offset, builder.mul(context.cast(builder, i, kind, types.intp), stride))
        self.pointer = builder.gep(builder.bitcast(a.data, I8.as_pointer()), [offset])

    def at(self, shifts, kind=VECTOR):
        """A pointer to the element that lies `shifts` ({axis: LLVM integer}) further on."""
        pointer = self.pointer
        for axis, k in shifts.items():
            pointer = self.builder.gep(pointer, [self.builder.mul(k, self.strides[axis])])
        return self.builder.bitcast(pointer, kind.as_pointer())


def _address(context, builder, sig, args):
    return Address(context, builder, sig.args[0], args[0], sig.args[1], args[1])


def _read(builder, pointer):
    value = builder.load(pointer)
    value.align = 4
    return value


def _write(builder, value, pointer):
    builder.store(value, pointer).align = 4


def _read_masked(builder, pointer, mask):
    """The vector at a pointer, with 0 in the lanes outside the mask, which are not read."""
    read = cgutils.get_or_insert_function(
        builder.module, ir.FunctionType(VECTOR, [VECTOR.as_pointer(), I32, MASK, VECTOR]),
        f"llvm.masked.load.v{LANES}f32.p0")
    return builder.call(read, [pointer, I32(4), mask, ir.Constant(VECTOR, None)])


def _splat(builder, s):
    undefined = ir.Constant(ir.VectorType(s.type, LANES), ir.Undefined)
    return builder.shuffle_vector(builder.insert_element(undefined, s, I32(0)), undefined,
                                  ir.Constant(ir.VectorType(I32, LANES), [0] * LANES))


def _fma(builder, a, b, c):
    # fmuladd: one instruction where the CPU has it, else multiply and add; llvm.fma would call libm for every lane
    name = f"llvm.fmuladd.v{LANES}f32"
    return builder.call(cgutils.get_or_insert_function(builder.module, ir.FunctionType(VECTOR, [VECTOR] * 3), name),
                        [a, b, c])


def _sqrt(builder, a):
    kind = ir.FunctionType(VECTOR, [VECTOR])
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, f"llvm.sqrt.v{LANES}f32"), [a])


def _maximum(builder, a, b):
    larger = builder.select(builder.fcmp_ordered(">", b, a), b, a)         # one instruction; keeps a NaN in a
    return builder.select(builder.fcmp_unordered("uno", b, b), b, larger)


def _times_power(builder, v, t):
    # in two steps: 2^128 overflows and 2^-127 is subnormal, so the exponent bits alone cannot express them
    def every(number):
        return ir.Constant(ir.VectorType(I32, LANES), [number] * LANES)
    k = builder.sub(builder.bitcast(t, every(0).type), every(int(ROUND.view(np.int32))))
    half = builder.ashr(k, every(1))
    for part in half, builder.sub(k, half):
        v = builder.fmul(v, builder.bitcast(builder.shl(builder.add(part, every(127)), every(23)), VECTOR))
    return v


def _total(builder, v):
    n = LANES
    while n > 1:
        n //= 2
        low, high = (builder.shuffle_vector(v, v, ir.Constant(ir.VectorType(I32, n), list(range(k, k + n))))
                     for k in (0, n))
        v = builder.fadd(low, high)
    return builder.extract_element(v, I32(0))


def _sixteen_totals(builder, values):
    """A vector of the sums over the lanes of LANES vectors, added in the order of `_total`.

    A tree halves the number of vectors at each level: 30 shuffles and 15 additions, where `_total` takes 64 and 64.
    """
    def pick(a, b, lanes):
        return builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(I32, LANES), lanes))
    level = [values[4 * (k % 4) + k // 4] for k in range(LANES)]        # so that the sums come out in order
    low8 = [*range(8), *range(16, 24)]
    low4 = [*range(4), *range(8, 12), *range(16, 20), *range(24, 28)]
    low2 = [x for g in range(0, 16, 4) for x in (g, g + 1, g + 16, g + 17)]
    low1 = [x for g in range(0, 16, 4) for x in (g, g + 2, g + 16, g + 18)]
    for low, distance in (low8, 8), (low4, 4), (low2, 2), (low1, 1):
        high = [x + distance for x in low]
        level = [builder.fadd(pick(a, b, low), pick(a, b, high))
                 for a, b in zip(level[::2], level[1::2], strict=True)]
    return level[0]


def _totals(builder, values):
    """The sums over the lanes of any number of vectors, LANES sums per vector, the last filled up with zeros."""
    values = values + [ir.Constant(VECTOR, None)] * (-len(values) % LANES)
    return [_sixteen_totals(builder, values[k:k + LANES]) for k in range(0, len(values), LANES)]


def _first(builder, count):
    """The mask of the first `count` lanes."""
    return builder.icmp_signed("<", COUNT, _splat(builder, builder.trunc(count, I32)))


def _pack(builder, values):
    out = ir.Constant(ir.ArrayType(values[0].type, len(values)), ir.Undefined)
    for k, v in enumerate(values):
        out = builder.insert_value(out, v, k)
    return out


def _unpack(builder, pack):
    return [builder.extract_value(pack, k) for k in range(pack.type.count)]


def _literals(*args):
    return tuple(a.literal_value for a in args)


# ---- one vector -------------------------------------------------------------------------------------------------
@intrinsic
def load(typing, x, index):
    """x[index], a vector."""
    def code(context, builder, sig, args):
        return _read(builder, _address(context, builder, sig, args).at({}))
    return V(x, index), code


@intrinsic
def lanes_from(typing, x, index, source, target, count):
    """The vector whose lanes target, target + 1, ... are `count` lanes of x[index], from `source` on; the others are 0.
    """
    def code(context, builder, sig, args):
        first, to, n = (context.cast(builder, arg, kind, types.intp)
                        for arg, kind in zip(args[2:], sig.args[2:], strict=True))
        inside = builder.and_(_first(builder, builder.add(to, n)), builder.not_(_first(builder, to)))
        return _read_masked(builder, _address(context, builder, sig, args).at({-1: builder.sub(first, to)}), inside)
    return V(x, index, source, target, count), code


@intrinsic
def store(typing, x, index, v):
    """x[index] = v"""
    def code(context, builder, sig, args):
        _write(builder, args[2], _address(context, builder, sig, args).at({}))
        return context.get_dummy_value()
    return types.void(x, index, V), code


def _elementwise(sig, emit):
    """The intrinsic of the given signature whose code is emit(builder, *arguments); one of three vectors also takes
    three packs or tiles."""
    def code(context, builder, sig, args):
        if getattr(sig.return_type, "shape", ()):
            each = zip(*(_unpack(builder, arg) for arg in args), strict=True)
            return _pack(builder, [emit(builder, *vectors) for vectors in each])
        return emit(builder, *args)
    if len(sig.args) == 1:
        return intrinsic(lambda typing, a: (sig, code))
    if len(sig.args) == 2:
        return intrinsic(lambda typing, a, b: (sig, code))
    return intrinsic(lambda typing, a, b, c: (c(a, b, c), code))

splat = _elementwise(V(types.float32), _splat)                  # all lanes s
fma = _elementwise(V(V, V, V), _fma)                            # a * b + c
sqrt = _elementwise(V(V), _sqrt)
maximum = _elementwise(V(V, V), _maximum)                       # a NaN in either stays a NaN
where = _elementwise(V(M, V, V), lambda builder, mask, a, b: builder.select(mask, a, b))
times_power = _elementwise(V(V, V), _times_power)               # v * 2^k for t = k + ROUND
total = _elementwise(types.float32(V), _total)                  # the sum over the lanes, pairwise


def _operator(symbol, kind, emit, of="f"):
    """Define `a symbol b` for two vectors, packs or tiles of kind `of`; the result has kind `kind` (see `Lanes`)."""
    @intrinsic
    def call(typing, a, b):
        def code(context, builder, sig, args):
            if not a.shape:
                return emit(builder, *args)
            pairs = zip(_unpack(builder, args[0]), _unpack(builder, args[1]), strict=True)
            return _pack(builder, [emit(builder, *pair) for pair in pairs])
        return Lanes(kind, a.shape)(a, b), code

    @overload(symbol)
    def implement(a, b):
        if isinstance(a, Lanes) and a == b and a.kind == of:
            return lambda a, b: call(a, b)

_operator(operator.add, "f", lambda builder, a, b: builder.fadd(a, b))
_operator(operator.sub, "f", lambda builder, a, b: builder.fsub(a, b))
_operator(operator.mul, "f", lambda builder, a, b: builder.fmul(a, b))
_operator(operator.truediv, "f", lambda builder, a, b: builder.fdiv(a, b))
_operator(operator.gt, "m", lambda builder, a, b: builder.fcmp_ordered(">", a, b))
_operator(operator.eq, "m", lambda builder, a, b: builder.fcmp_ordered("==", a, b))
_operator(operator.add, "i", lambda builder, a, b: builder.add(a, b), of="i")
_operator(operator.mul, "i", lambda builder, a, b: builder.mul(a, b), of="i")
_operator(operator.xor, "i", lambda builder, a, b: builder.xor(a, b), of="i")
_operator(operator.rshift, "i", lambda builder, a, b: builder.lshr(a, b), of="i")

# the last 32 bits of s in all lanes; s, s + 1, ...; the first 24 bits of each as a fraction, in [0, 1)
integers = _elementwise(I(types.uint64), lambda builder, s: _splat(builder, builder.trunc(s, I32)))
counters = _elementwise(I(types.uint64), lambda builder, s: builder.add(
    _splat(builder, builder.trunc(s, I32)), COUNT))
unit = _elementwise(V(I), lambda builder, v: builder.fmul(
    builder.uitofp(builder.lshr(v, _splat(builder, I32(8))), VECTOR), _splat(builder, F32(2**-24))))


@intrinsic
def first_lanes(typing, count):
    """The mask of the first `count` lanes, of none if count is negative."""
    def code(context, builder, sig, args):
        return _first(builder, context.cast(builder, args[0], sig.args[0], types.intp))
    return M(count), code


# ---- packs and tiles --------------------------------------------------------------------------------------------
@intrinsic(prefer_literal=True)
def vectors(typing, x, index, n, axis, spacing):
    """The n vectors x[index], x[index + spacing], ... along an axis."""
    count, along = _literals(n, axis)

    def code(context, builder, sig, args):
        address = _address(context, builder, sig, args)
        pace = context.cast(builder, args[4], sig.args[4], types.intp)
        return _pack(builder, [_read(builder, address.at({along: builder.mul(I64(k), pace)})) for k in range(count)])
    return Lanes("f", (count,))(x, index, n, axis, spacing), code


@intrinsic(prefer_literal=True)
def row_vectors(typing, x, index, n, axis):
    """n vectors of neighbouring numbers of rows: LANES from x[index] on, from x[index + 1] on, ... along an axis, or
    side by side along the last one; 0 past the end of a row."""
    count, along = _literals(n, axis)

    def code(context, builder, sig, args):
        array = context.make_array(sig.args[0])(context, builder, args[0])
        begin = context.cast(builder, cgutils.unpack_tuple(builder, args[1])[-1], sig.args[1][-1], types.intp)
        left = builder.sub(cgutils.unpack_tuple(builder, array.shape)[-1], begin)
        address, last = _address(context, builder, sig, args), along == sig.args[0].ndim - 1
        shifts = [I64(k * LANES if last else k) for k in range(count)]
        return _pack(builder, [
            _read_masked(builder, address.at({along: shift}),
                         _first(builder, builder.sub(left, shift) if last else left)) for shift in shifts])
    return Lanes("f", (count,))(x, index, n, axis), code


@intrinsic(prefer_literal=True)
def repeat(typing, v, n):
    """A pack of n copies of the vector v."""
    count, = _literals(n)

    def code(context, builder, sig, args):
        return _pack(builder, [args[0]] * count)
    return Lanes("f", (count,))(v, n), code


@intrinsic
def added(typing, pack):
    """The sum of the vectors of a pack, from the first to the last."""
    def code(context, builder, sig, args):
        first, *others = _unpack(builder, args[0])
        for v in others:
            first = builder.fadd(first, v)
        return first
    return V(pack), code


@intrinsic
def transposed(typing, pack):
    """The pack whose vector l holds lane l of each of the LANES vectors, in their order."""
    def code(context, builder, sig, args):
        values, half = _unpack(builder, args[0]), LANES // 2
        while half:                                 # exchange the corners of squares of 2 * half x 2 * half numbers
            low = [LANES + l - half if l & half else l for l in range(LANES)]
            high = [l + half for l in low]
            for k in range(LANES):
                if not k & half:
                    pair = values[k], values[k + half]
                    values[k], values[k + half] = (
                        builder.shuffle_vector(*pair, ir.Constant(ir.VectorType(I32, LANES), lanes))
                        for lanes in (low, high))
            half //= 2
        return _pack(builder, values)
    return pack(pack), code


@intrinsic
def block(typing, x, index, window, row_spacing):
    """The window.rows x window.cols vectors from x[index] on, row by row, as one pack; rows are row_spacing apart and
    columns window.spacing."""
    def code(context, builder, sig, args):
        address, axis = _address(context, builder, sig, args), len(sig.args[1])
        pace = context.cast(builder, args[3], sig.args[3], types.intp)
        return _pack(builder, [_read(builder, address.at({axis - 2: builder.mul(I64(r), pace),
                                                        axis - 1: I64(c * window.spacing)}))
                               for r in range(window.rows) for c in range(window.cols)])
    return Lanes("f", (window.rows * window.cols,))(x, index, window, row_spacing), code


@intrinsic(prefer_literal=True)
def scalars(typing, w, index, n, axis):
    """The n numbers w[index], w[index + 1], ... along an axis, each spread over a vector."""
    count, along = _literals(n, axis)

    def code(context, builder, sig, args):
        address = _address(context, builder, sig, args)
        return _pack(builder, [_splat(builder, _read(builder, address.at({along: I64(k)}, F32)))
                               for k in range(count)])
    return Lanes("f", (count,))(w, index, n, axis), code


@intrinsic(prefer_literal=True)
def scalars_apart(typing, x, index, n, spacing):
    """The n numbers x[index], ..., `spacing` numbers apart in memory, each spread over a vector."""
    count, apart = _literals(n, spacing)

    def code(context, builder, sig, args):
        first = _address(context, builder, sig, args).at({}, F32)
        return _pack(builder, [_splat(builder, _read(builder, builder.gep(first, [I64(k * apart)])))
                               for k in range(count)])
    return Lanes("f", (count,))(x, index, n, spacing), code


@intrinsic
def four_columns(typing, x, index):
    """The four columns of x (rows, cols) from `index` on, LANES rows of each; the last row stands for those past it."""
    def code(context, builder, sig, args):
        def pick(a, b, lanes):
            return builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(I32, len(lanes)), lanes))
        array = context.make_array(sig.args[0])(context, builder, args[0])
        row, col = (context.cast(builder, i, kind, types.intp) for i, kind in zip(
            cgutils.unpack_tuple(builder, args[1]), sig.args[1], strict=True))
        last = builder.sub(cgutils.unpack_tuple(builder, array.shape)[0], I64(1))
        stride = cgutils.unpack_tuple(builder, array.strides)[0]
        data = builder.bitcast(builder.gep(array.data, [col]), I8.as_pointer())
        four = ir.VectorType(F32, 4)
        parts = []
        for r in range(LANES):
            here = builder.add(row, I64(r))
            here = builder.select(builder.icmp_signed("<", here, last), here, last)
            pointer = builder.gep(data, [builder.mul(here, stride)])
            parts.append(_read(builder, builder.bitcast(pointer, four.as_pointer())))
        rows = []                               # rows[k] holds the four numbers of rows k, k + 4, k + 8, k + 12
        for k in range(4):
            low, high = (pick(parts[k + m], parts[k + m + 4], list(range(8))) for m in (0, 8))
            rows.append(pick(low, high, list(range(16))))
        low, high = ([g + x for g in range(0, LANES, 4) for x in pair] for pair in (
            (0, 16, 1, 17), (2, 18, 3, 19)))
        a, b, c, d = pick(*rows[:2], low), pick(*rows[2:], low), pick(*rows[:2], high), pick(*rows[2:], high)
        low, high = ([g + x for g in range(0, LANES, 4) for x in pair] for pair in (
            (0, 1, 16, 17), (2, 3, 18, 19)))
        return _pack(builder, [pick(a, b, low), pick(a, b, high), pick(c, d, low), pick(c, d, high)])
    return Lanes("f", (4,))(x, index), code


@intrinsic(prefer_literal=True)
def zeros(typing, rows, cols):
    """A tile of zeros."""
    shape = _literals(rows, cols)

    def code(context, builder, sig, args):
        return ir.Constant(ir.ArrayType(VECTOR, shape[0] * shape[1]), None)
    return Lanes("f", shape)(rows, cols), code


@intrinsic(prefer_literal=True)
def local_tile(typing, rows, cols):
    """Memory for a tile while the function runs, with any numbers in it: float32 (rows, cols, LANES)."""
    shape = (*_literals(rows, cols), LANES)
    tile = types.Array(types.float32, 3, "C")

    def code(context, builder, sig, args):
        array = context.make_array(tile)(context, builder)
        memory = cgutils.alloca_once(builder, ir.ArrayType(VECTOR, shape[0] * shape[1]))
        strides = [4 * shape[1] * LANES, 4 * LANES, 4]
        populate_array(array, data=builder.bitcast(memory, array.data.type), shape=[I64(n) for n in shape],
                       strides=[I64(n) for n in strides], itemsize=I64(4), meminfo=None)
        return array._getvalue()
    return tile(rows, cols), code


@intrinsic(prefer_literal=True)
def spread(typing, b, index, rows, cols):
    """A tile with the number b[index + r] in all of row r."""
    shape = _literals(rows, cols)

    def code(context, builder, sig, args):
        address = _address(context, builder, sig, args)
        column = [_splat(builder, _read(builder, address.at({0: I64(r)}, F32))) for r in range(shape[0])]
        return _pack(builder, [v for v in column for _ in range(shape[1])])
    return Lanes("f", shape)(b, index, rows, cols), code


@intrinsic(prefer_literal=True)
def row_tile(typing, pack, cols):
    """A tile with vector r of the pack in all of row r."""
    count, = _literals(cols)

    def code(context, builder, sig, args):
        return _pack(builder, [v for v in _unpack(builder, args[0]) for _ in range(count)])
    return Lanes("f", (*pack.shape, count))(pack, cols), code


@intrinsic(prefer_literal=True)
def load_tile(typing, x, index, row_axis, col_axis, row_spacing, col_spacing, rows, cols):
    """The tile of x[index + r * row_spacing along row_axis + c * col_spacing along col_axis]."""
    axes, shape = _literals(row_axis, col_axis), _literals(rows, cols)

    def code(context, builder, sig, args):
        address = _address(context, builder, sig, args)
        high, wide = (context.cast(builder, args[k], sig.args[k], types.intp) for k in (4, 5))
        return _pack(builder, [
            _read(builder, address.at({axes[0]: builder.mul(I64(r), high), axes[1]: builder.mul(I64(c), wide)}))
            for r in range(shape[0]) for c in range(shape[1])])
    return Lanes("f", shape)(x, index, row_axis, col_axis, row_spacing, col_spacing, rows, cols), code


@intrinsic
def outer(typing, acc, a, b):
    """acc[r, c] + a[r] * b[c]"""
    def code(context, builder, sig, args):
        sums, left, right = (_unpack(builder, arg) for arg in args)
        cols = len(right)
        return _pack(builder, [_fma(builder, left[k // cols], right[k % cols], s) for k, s in enumerate(sums)])
    return acc(acc, a, b), code


@intrinsic
def rectify(typing, acc):
    """max(0, .) of every number of a tile; a NaN stays a NaN."""
    def code(context, builder, sig, args):
        zero = ir.Constant(VECTOR, None)
        return _pack(builder, [builder.select(builder.fcmp_ordered("<", v, zero), zero, v)
                               for v in _unpack(builder, args[0])])
    return acc(acc), code


def _tile_pointers(builder, address, row_axis, col_axis, spacing, shape, kind=VECTOR):
    for r in range(shape[0]):
        for c in range(shape[1]):
            yield address.at({row_axis: I64(r), col_axis: builder.mul(I64(c), spacing)}, kind)


@intrinsic(prefer_literal=True)
def mask_tile(typing, acc, x, index, row_axis, col_axis, spacing):
    """The tile where the corresponding vectors of x are positive, 0 elsewhere: the gradient through a ReLU."""
    axes = _literals(row_axis, col_axis)

    def code(context, builder, sig, args):
        address = Address(context, builder, sig.args[1], args[1], sig.args[2], args[2])
        pace = context.cast(builder, args[5], sig.args[5], types.intp)
        zero = ir.Constant(VECTOR, None)
        pointers = _tile_pointers(builder, address, *axes, pace, acc.shape)
        return _pack(builder, [
            builder.select(builder.fcmp_ordered(">", _read(builder, p), zero), v, zero)
            for p, v in zip(pointers, _unpack(builder, args[0]), strict=True)])
    return acc(acc, x, index, row_axis, col_axis, spacing), code


@intrinsic(prefer_literal=True)
def store_tile(typing, y, index, row_axis, col_axis, spacing, acc):
    """y[index + r along row_axis + c * spacing along col_axis] = acc[r, c]"""
    axes = _literals(row_axis, col_axis)

    def code(context, builder, sig, args):
        address, pace = _address(context, builder, sig, args), context.cast(builder, args[4], sig.args[4], types.intp)
        pointers = _tile_pointers(builder, address, *axes, pace, acc.shape)
        for p, v in zip(pointers, _unpack(builder, args[5]), strict=True):
            _write(builder, v, p)
        return context.get_dummy_value()
    return types.void(y, index, row_axis, col_axis, spacing, acc), code


@intrinsic(prefer_literal=True)
def store_sums(typing, y, index, row_axis, col_axis, acc):
    """y[index + r along row_axis + c along col_axis] = the sum of acc[r, c] over its lanes"""
    axes = _literals(row_axis, col_axis)

    def code(context, builder, sig, args):
        address = _address(context, builder, sig, args)
        pointers = _tile_pointers(builder, address, *axes, I64(1), acc.shape, F32)
        sums = _totals(builder, _unpack(builder, args[4]))
        for k, p in enumerate(pointers):
            _write(builder, builder.extract_element(sums[k // LANES], I32(k % LANES)), p)
        return context.get_dummy_value()
    return types.void(y, index, row_axis, col_axis, acc), code


@intrinsic(prefer_literal=True)
def store_row(typing, x, index, row_axis, acc):
    """Store the vectors of tile row r, one after the other, from x[index + r along row_axis] on; numbers past the end
    of x's last axis are cut off."""
    along, = _literals(row_axis)
    rows, cols = acc.shape

    def code(context, builder, sig, args):
        array = context.make_array(sig.args[0])(context, builder, args[0])
        begin = context.cast(builder, cgutils.unpack_tuple(builder, args[1])[-1], sig.args[1][-1], types.intp)
        left = builder.sub(cgutils.unpack_tuple(builder, array.shape)[-1], begin)
        write = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(ir.VoidType(), [VECTOR, VECTOR.as_pointer(), I32, MASK]),
            f"llvm.masked.store.v{LANES}f32.p0")
        address, values = _address(context, builder, sig, args), _unpack(builder, args[3])
        for c in range(cols):
            rest = builder.sub(left, I64(c * LANES))
            row = [(values[r * cols + c], address.at({along: I64(r), -1: I64(c * LANES)})) for r in range(rows)]
            with builder.if_else(builder.icmp_signed(">=", rest, I64(LANES))) as (whole, cut):
                with whole:                         # AMD's masked stores take some 12 cycles
                    for value, pointer in row:
                        _write(builder, value, pointer)
                with cut:
                    for value, pointer in row:
                        builder.call(write, [value, pointer, I32(4), _first(builder, rest)])
        return context.get_dummy_value()
    return types.void(x, index, row_axis, acc), code


@intrinsic(prefer_literal=True)
def add_tile(typing, y, index, row_axis, col_axis, acc):
    """y[index + r along row_axis + c along col_axis] += acc[r, c]"""
    axes = _literals(row_axis, col_axis)

    def code(context, builder, sig, args):
        pointers = _tile_pointers(builder, _address(context, builder, sig, args), *axes, I64(1), acc.shape)
        for p, v in zip(pointers, _unpack(builder, args[4]), strict=True):
            _write(builder, builder.fadd(_read(builder, p), v), p)
        return context.get_dummy_value()
    return types.void(y, index, row_axis, col_axis, acc), code


@intrinsic(prefer_literal=True)
def store_pack(typing, y, index, axis, pack):
    """y[index], y[index + 1], ... along an axis = the vectors of the pack."""
    along, = _literals(axis)

    def code(context, builder, sig, args):
        address = _address(context, builder, sig, args)
        for k, v in enumerate(_unpack(builder, args[3])):
            _write(builder, v, address.at({along: I64(k)}))
        return context.get_dummy_value()
    return types.void(y, index, axis, pack), code


@intrinsic(prefer_literal=True)
def store_from(typing, y, index, axis, first, pack):
    """As `store_pack`, without the first vectors of the pack."""
    along, = _literals(axis)

    def code(context, builder, sig, args):
        address = _address(context, builder, sig, args)
        begin = context.cast(builder, args[3], sig.args[3], types.intp)
        for k, v in enumerate(_unpack(builder, args[4])):
            with builder.if_then(builder.icmp_signed(">=", I64(k), begin), likely=True):
                _write(builder, v, address.at({along: I64(k)}))
        return context.get_dummy_value()
    return types.void(y, index, axis, first, pack), code


@intrinsic
def store_totals(typing, y, index, acc):
    """Store the sums over the lanes of a tile's vectors, row by row, as numbers from the vector y[index] on."""
    def code(context, builder, sig, args):
        address = _address(context, builder, sig, args)
        for k, sums in enumerate(_totals(builder, _unpack(builder, args[2]))):
            _write(builder, sums, address.at({len(sig.args[1]) - 1: I64(k)}))
        return context.get_dummy_value()
    return types.void(y, index, acc), code


@intrinsic
def clear_first(typing, pack, count):
    """The pack with its first `count` vectors 0."""
    def code(context, builder, sig, args):
        n, zero = context.cast(builder, args[1], sig.args[1], types.intp), ir.Constant(VECTOR, None)
        return _pack(builder, [builder.select(builder.icmp_signed("<", I64(k), n), zero, v)
                               for k, v in enumerate(_unpack(builder, args[0]))])
    return pack(pack, count), code
