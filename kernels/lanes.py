"""Vectors of LANES float32 numbers, one per image, and register tiles of them: what the kernels are written in.

    load, store                     one vector            x[index]          (index: all axes but the lanes)
    vectors, scalars                a pack of n of them   x[..., i:i + n*step:step, ...] along one axis
    block                           a pack of a window of them, along two axes
    repeat, added                   a pack of one vector n times; the sum of the vectors of a pack
    first_lanes                     the mask of the lanes that hold an image
    integers, counters, unit        vectors of whole numbers from 0 to 2**32 - 1, for random numbers (see `random`)
    zeros, spread, outer, rectify   register tiles of rows x cols vectors, held in registers
    store_tile, add_tile            a tile to memory
    store_sums, store_totals        a tile summed over its lanes to memory, strided or as consecutive numbers
    store_row                       a tile of features (lanes are 16 features of one row) to memory, cut off at its end
    store_pack, clear_first         a pack to memory; a pack with zeros in front

Compiled, these are LLVM vector instructions; with NUMBA_DISABLE_JIT=1 they are the NumPy functions below, so that a
kernel has one source that a debugger can step through.  An index that leaves out the last axis addresses a vector: the
last axis is then known to be LANES long and contiguous, and the axis before it to be dense, which makes the addresses
inside a tile constants (with strides read at run time a tiled kernel runs out of integer registers: 107 instead of 245
GF/s).
"""
import math
import operator

import llvmlite.binding as llvm
import numpy as np
from numba import config, types

LANES = 16
ZERO = np.float32(0)
ROUND = np.float32(1.5 * 2**23)         # x + ROUND, |x| < 2**22, holds x to the nearest whole number in its last bits


class Tile:
    """The compile-time shape of a register tile: rows x cols vectors, the columns `step` apart in memory.

    The shape is part of the Numba type, so that one kernel source is compiled for every shape that is used.
    """

    def __init__(self, rows, cols, step=1):
        self.rows, self.cols, self.step = rows, cols, step


def _registers():
    """How many LANES-wide vectors the registers hold: 32 with AVX-512, 8 with AVX2 or NEON."""
    features = config.CPU_FEATURES
    if features is None:
        features = "" if config.CPU_NAME else llvm.get_host_cpu_features().flatten()
    return 32 if "+avx512f" in features else 8


REGISTERS = _registers()


def fit(size, most):
    """The tile extent for an axis: the largest divisor of size up to `most`, or `most` if that is a poor one."""
    most = max(1, min(size, most))
    best = max(k for k in range(1, most + 1) if size % k == 0)
    return best if 2 * best > most else most


def aligned(shape, dtype=np.float32):
    """A C-ordered array of zeros that starts on a 64-byte boundary, so that no vector straddles cache lines."""
    size = math.prod(shape if isinstance(shape, tuple) else (shape,)) * np.dtype(dtype).itemsize
    raw = np.zeros(size + 64, np.uint8)
    start = -raw.ctypes.data % 64
    return raw[start:start + size].view(dtype).reshape(shape)


def planes(blocks, channels, *shape):
    """Zeros (blocks, channels, *shape, LANES) whose channels are an odd number of vectors apart.

    Channels 4 kB apart would share a few places of the first cache: the gradient of the input of a 3x3 convolution on
    32 x 32 pixels ran at half its speed.
    """
    size = math.prod(shape)
    return aligned((blocks, channels, size | 1, LANES))[:, :, :size].reshape(blocks, channels, *shape, LANES)


if config.DISABLE_JIT:
    def _pack(x, index, n, axis, step):
        return x[tuple(slice(i, i + n * step, step) if k == axis else i for k, i in enumerate(index))].copy()

    def load(x, index):
        return x[index].copy()

    def store(x, index, v):
        x[index] = v

    def store_row(x, index, row_axis, acc):
        for r in range(acc.shape[0]):
            place = _shift(index, row_axis, r, len(index) - 1, 0)
            row = x[place[:-1]][place[-1]:]
            row[:acc[r].size] = acc[r].reshape(-1)[:len(row)]

    def splat(s):
        return np.full(LANES, s, np.float32)

    def fma(a, b, c):
        return (np.multiply(a, b, dtype=np.float64) + c).astype(np.float32)

    def sqrt(a):
        return np.sqrt(a)

    def maximum(a, b):
        return np.where((b > a) | (b != b), b, a)

    def where(mask, a, b):
        return np.where(mask, a, b)

    def first_lanes(count):
        return np.arange(LANES) < count

    def integers(s):
        return np.full(LANES, int(s) & 0xFFFFFFFF, np.uint32)

    def counters(first):
        return integers(first) + np.arange(LANES, dtype=np.uint32)

    def unit(v):
        return (v >> 8).astype(np.float32) * np.float32(2**-24)

    def repeat(v, n):
        return np.broadcast_to(v, (n, LANES)).copy()

    def added(pack):
        return sum(pack[1:], pack[0])

    def times_power(v, t):
        k = t.view(np.int32) - ROUND.view(np.int32)
        with np.errstate(over="ignore"):
            for part in (k >> 1, k - (k >> 1)):
                v = v * ((part + 127) << 23).view(np.float32)
        return v

    def total(v):
        while v.shape[-1] > 1:
            v = v[..., :v.shape[-1] // 2] + v[..., v.shape[-1] // 2:]
        return v[..., 0]

    def vectors(x, index, n, axis, step):
        return _pack(x, index, n, axis, step)

    def scalars(w, index, n, axis):
        return np.repeat(_pack(w, index, n, axis, 1)[:, None], LANES, 1)

    def block(x, index, window, row_step):
        *lead, i, j = index
        rows = x[tuple(lead)][i:i + window.rows * row_step:row_step, j:j + window.cols * window.step:window.step]
        return rows.reshape(-1, LANES).copy()

    def zeros(rows, cols):
        return np.zeros((rows, cols, LANES), np.float32)

    def spread(b, index, rows, cols):
        return np.broadcast_to(b[index:index + rows, None, None], (rows, cols, LANES)).copy()

    def outer(acc, a, b):
        return fma(a[:, None], b[None], acc)

    def rectify(acc):
        return np.where(acc < ZERO, ZERO, acc)

    def mask_tile(acc, x, index, row_axis, col_axis, step):
        out = acc.copy()
        for r in range(acc.shape[0]):
            for c in range(acc.shape[1]):
                out[r, c] = where(x[_shift(index, row_axis, r, col_axis, c * step)] > 0, acc[r, c], ZERO)
        return out

    def _shift(index, row_axis, r, col_axis, c):
        place = list(index)
        place[row_axis] += r
        place[col_axis] += c
        return tuple(place)

    def store_tile(y, index, row_axis, col_axis, step, acc):
        for r in range(acc.shape[0]):
            for c in range(acc.shape[1]):
                y[_shift(index, row_axis, r, col_axis, c * step)] = acc[r, c]

    def store_sums(y, index, row_axis, col_axis, acc):
        store_tile(y, index, row_axis, col_axis, 1, total(acc))

    def add_tile(y, index, row_axis, col_axis, acc):
        for r in range(acc.shape[0]):
            for c in range(acc.shape[1]):
                y[_shift(index, row_axis, r, col_axis, c)] += acc[r, c]

    def store_pack(y, index, axis, pack):
        for k, v in enumerate(pack):
            y[_shift(index, axis, k, axis, 0)] = v

    def store_totals(y, index, acc):
        sums = np.zeros(-(-acc.shape[0] * acc.shape[1] // LANES) * LANES, np.float32)
        sums[:acc.shape[0] * acc.shape[1]] = total(acc).reshape(-1)
        store_pack(y, index, len(index) - 1, sums.reshape(-1, LANES))

    def clear_first(pack, count):
        pack = pack.copy()
        pack[:count] = 0
        return pack

else:
    from llvmlite import ir
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

    class TileType(types.Type):
        def __init__(self, rows, cols, step):
            self.rows, self.cols, self.step = rows, cols, step
            super().__init__(name=f"Tile({rows}x{cols}/{step})")

    V, M, I = Lanes("f"), Lanes("m"), Lanes("i")
    register_model(TileType)(models.OpaqueModel)
    typeof_impl.register(Tile)(lambda value, context: TileType(value.rows, value.cols, value.step))
    lower_constant(TileType)(lambda context, builder, ty, value: context.get_dummy_value())
    unbox(TileType)(lambda ty, value, context: NativeValue(context.context.get_dummy_value()))

    @infer_getattr
    class TileAttributes(AttributeTemplate):
        key = TileType

        def resolve_rows(self, ty):
            return types.literal(ty.rows)

        def resolve_cols(self, ty):
            return types.literal(ty.cols)

        def resolve_step(self, ty):
            return types.literal(ty.step)

    @lower_getattr_generic(TileType)
    def tile_attribute(context, builder, ty, value, name):
        return context.get_constant(types.intp, getattr(ty, name))

    # ---- code generation --------------------------------------------------------------------------------------------
    class Place:
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
            """Pointer to the element `shifts` ({axis: llvm integer}) further on."""
            pointer = self.pointer
            for axis, k in shifts.items():
                pointer = self.builder.gep(pointer, [self.builder.mul(k, self.strides[axis])])
            return self.builder.bitcast(pointer, kind.as_pointer())

    def _place(context, builder, sig, args):
        return Place(context, builder, sig.args[0], args[0], sig.args[1], args[1])

    def _read(builder, pointer):
        value = builder.load(pointer)
        value.align = 4
        return value

    def _write(builder, value, pointer):
        builder.store(value, pointer).align = 4

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
        # in two steps, since 2^128 and 2^-127 are none of the normal numbers that consist of an exponent only
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
        """One vector of the sums over the lanes of LANES vectors, added in the order of `_total`, in a tree that halves
        the number of vectors at each level: 30 shuffles and 15 additions where `_total` takes 64 and 64."""
        def pick(a, b, lanes):
            return builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(I32, LANES), lanes))
        level = [values[4 * (k % 4) + k // 4] for k in range(LANES)]        # so that the sums come out in order
        low8 = [*range(8), *range(16, 24)]
        low4 = [*range(4), *range(8, 12), *range(16, 20), *range(24, 28)]
        low2 = [x for g in range(0, 16, 4) for x in (g, g + 1, g + 16, g + 17)]
        low1 = [x for g in range(0, 16, 4) for x in (g, g + 2, g + 16, g + 18)]
        for low, step in (low8, 8), (low4, 4), (low2, 2), (low1, 1):
            high = [x + step for x in low]
            level = [builder.fadd(pick(a, b, low), pick(a, b, high))
                     for a, b in zip(level[::2], level[1::2], strict=True)]
        return level[0]

    def _totals(builder, values):
        """The sums of any number of vectors, LANES of them in each vector, the last filled up with zeros."""
        values = values + [ir.Constant(VECTOR, None)] * (-len(values) % LANES)
        return [_sixteen_totals(builder, values[k:k + LANES]) for k in range(0, len(values), LANES)]

    def _first(builder, count):
        """The mask of the first `count` lanes."""
        return builder.icmp_signed("<", COUNT, _splat(builder, builder.trunc(count, I32)))

    def _pack(builder, values):
        out = ir.Constant(ir.ArrayType(VECTOR, len(values)), ir.Undefined)
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
            return _read(builder, _place(context, builder, sig, args).at({}))
        return V(x, index), code

    @intrinsic
    def store(typing, x, index, v):
        """x[index] = v"""
        def code(context, builder, sig, args):
            _write(builder, args[2], _place(context, builder, sig, args).at({}))
            return context.get_dummy_value()
        return types.void(x, index, V), code

    def _elementwise(sig, emit):
        """The intrinsic of the given signature whose code is emit(builder, *arguments)."""
        def code(context, builder, sig, args):
            return emit(builder, *args)
        if len(sig.args) == 1:
            return intrinsic(lambda typing, a: (sig, code))
        if len(sig.args) == 2:
            return intrinsic(lambda typing, a, b: (sig, code))
        return intrinsic(lambda typing, a, b, c: (sig, code))

    splat = _elementwise(V(types.float32), _splat)                  # all lanes s
    fma = _elementwise(V(V, V, V), _fma)                            # a * b + c
    sqrt = _elementwise(V(V), _sqrt)
    maximum = _elementwise(V(V, V), _maximum)                       # a NaN in either stays
    where = _elementwise(V(M, V, V), lambda builder, mask, a, b: builder.select(mask, a, b))
    times_power = _elementwise(V(V, V), _times_power)               # v * 2^k for t = k + ROUND
    total = _elementwise(types.float32(V), _total)                  # the sum over the lanes, pairwise

    def _operator(symbol, kind, emit, of="f"):
        """a symbol b for two vectors, packs or tiles of the kind `of`; the result is of a kind, 'f', 'm' or 'i'."""
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
        """The mask of the first `count` lanes: none when it is negative."""
        def code(context, builder, sig, args):
            return _first(builder, context.cast(builder, args[0], sig.args[0], types.intp))
        return M(count), code

    # ---- packs and tiles --------------------------------------------------------------------------------------------
    @intrinsic(prefer_literal=True)
    def vectors(typing, x, index, n, axis, step):
        """The n vectors x[index], x[index + step], ... along an axis."""
        count, along = _literals(n, axis)

        def code(context, builder, sig, args):
            place = _place(context, builder, sig, args)
            pace = context.cast(builder, args[4], sig.args[4], types.intp)
            return _pack(builder, [_read(builder, place.at({along: builder.mul(I64(k), pace)})) for k in range(count)])
        return Lanes("f", (count,))(x, index, n, axis, step), code

    @intrinsic(prefer_literal=True)
    def repeat(typing, v, n):
        """A pack of n times the vector v."""
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
    def block(typing, x, index, window, row_step):
        """The window.rows x window.cols vectors from x[index] on, row by row, as one pack; rows are row_step apart and
        columns window.step."""
        def code(context, builder, sig, args):
            place, axis = _place(context, builder, sig, args), len(sig.args[1])
            pace = context.cast(builder, args[3], sig.args[3], types.intp)
            return _pack(builder, [_read(builder, place.at({axis - 2: builder.mul(I64(r), pace),
                                                            axis - 1: I64(c * window.step)}))
                                   for r in range(window.rows) for c in range(window.cols)])
        return Lanes("f", (window.rows * window.cols,))(x, index, window, row_step), code

    @intrinsic(prefer_literal=True)
    def scalars(typing, w, index, n, axis):
        """The n numbers w[index], w[index + 1], ... along an axis, each spread over a vector."""
        count, along = _literals(n, axis)

        def code(context, builder, sig, args):
            place = _place(context, builder, sig, args)
            return _pack(builder, [_splat(builder, _read(builder, place.at({along: I64(k)}, F32)))
                                   for k in range(count)])
        return Lanes("f", (count,))(w, index, n, axis), code

    @intrinsic(prefer_literal=True)
    def zeros(typing, rows, cols):
        """A tile of zeros."""
        shape = _literals(rows, cols)

        def code(context, builder, sig, args):
            return ir.Constant(ir.ArrayType(VECTOR, shape[0] * shape[1]), None)
        return Lanes("f", shape)(rows, cols), code

    @intrinsic(prefer_literal=True)
    def spread(typing, b, index, rows, cols):
        """A tile with the number b[index + r] in all of row r."""
        shape = _literals(rows, cols)

        def code(context, builder, sig, args):
            place = _place(context, builder, sig, args)
            column = [_splat(builder, _read(builder, place.at({0: I64(r)}, F32))) for r in range(shape[0])]
            return _pack(builder, [v for v in column for _ in range(shape[1])])
        return Lanes("f", shape)(b, index, rows, cols), code

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

    def _tile_places(builder, place, row_axis, col_axis, step, shape, kind=VECTOR):
        for r in range(shape[0]):
            for c in range(shape[1]):
                yield place.at({row_axis: I64(r), col_axis: builder.mul(I64(c), step)}, kind)

    @intrinsic(prefer_literal=True)
    def mask_tile(typing, acc, x, index, row_axis, col_axis, step):
        """The tile where the corresponding vectors of x are positive, 0 elsewhere: the gradient through a ReLU."""
        axes = _literals(row_axis, col_axis)

        def code(context, builder, sig, args):
            place = Place(context, builder, sig.args[1], args[1], sig.args[2], args[2])
            pace = context.cast(builder, args[5], sig.args[5], types.intp)
            zero = ir.Constant(VECTOR, None)
            places = _tile_places(builder, place, *axes, pace, acc.shape)
            return _pack(builder, [
                builder.select(builder.fcmp_ordered(">", _read(builder, p), zero), v, zero)
                for p, v in zip(places, _unpack(builder, args[0]), strict=True)])
        return acc(acc, x, index, row_axis, col_axis, step), code

    @intrinsic(prefer_literal=True)
    def store_tile(typing, y, index, row_axis, col_axis, step, acc):
        """y[index + r along row_axis + c * step along col_axis] = acc[r, c]"""
        axes = _literals(row_axis, col_axis)

        def code(context, builder, sig, args):
            place, pace = _place(context, builder, sig, args), context.cast(builder, args[4], sig.args[4], types.intp)
            places = _tile_places(builder, place, *axes, pace, acc.shape)
            for p, v in zip(places, _unpack(builder, args[5]), strict=True):
                _write(builder, v, p)
            return context.get_dummy_value()
        return types.void(y, index, row_axis, col_axis, step, acc), code

    @intrinsic(prefer_literal=True)
    def store_sums(typing, y, index, row_axis, col_axis, acc):
        """The same with each vector summed over its lanes, into plain numbers."""
        axes = _literals(row_axis, col_axis)

        def code(context, builder, sig, args):
            place = _place(context, builder, sig, args)
            places = _tile_places(builder, place, *axes, I64(1), acc.shape, F32)
            sums = _totals(builder, _unpack(builder, args[4]))
            for k, p in enumerate(places):
                _write(builder, builder.extract_element(sums[k // LANES], I32(k % LANES)), p)
            return context.get_dummy_value()
        return types.void(y, index, row_axis, col_axis, acc), code

    @intrinsic(prefer_literal=True)
    def store_row(typing, x, index, row_axis, acc):
        """The vectors of tile row r, one after the other, from x[index + r along row_axis] on; what would go over the
        end of x's last axis is cut off."""
        along, = _literals(row_axis)
        rows, cols = acc.shape

        def code(context, builder, sig, args):
            array = context.make_array(sig.args[0])(context, builder, args[0])
            begin = context.cast(builder, cgutils.unpack_tuple(builder, args[1])[-1], sig.args[1][-1], types.intp)
            left = builder.sub(cgutils.unpack_tuple(builder, array.shape)[-1], begin)
            write = cgutils.get_or_insert_function(
                builder.module, ir.FunctionType(ir.VoidType(), [VECTOR, VECTOR.as_pointer(), I32, MASK]),
                f"llvm.masked.store.v{LANES}f32.p0")
            place, values = _place(context, builder, sig, args), _unpack(builder, args[3])
            for c in range(cols):
                mask = _first(builder, builder.sub(left, I64(c * LANES)))
                for r in range(rows):
                    pointer = place.at({along: I64(r), -1: I64(c * LANES)})
                    builder.call(write, [values[r * cols + c], pointer, I32(4), mask])
            return context.get_dummy_value()
        return types.void(x, index, row_axis, acc), code

    @intrinsic(prefer_literal=True)
    def add_tile(typing, y, index, row_axis, col_axis, acc):
        """y[index + r along row_axis + c along col_axis] += acc[r, c]"""
        axes = _literals(row_axis, col_axis)

        def code(context, builder, sig, args):
            places = _tile_places(builder, _place(context, builder, sig, args), *axes, I64(1), acc.shape)
            for p, v in zip(places, _unpack(builder, args[4]), strict=True):
                _write(builder, builder.fadd(_read(builder, p), v), p)
            return context.get_dummy_value()
        return types.void(y, index, row_axis, col_axis, acc), code

    @intrinsic(prefer_literal=True)
    def store_pack(typing, y, index, axis, pack):
        """y[index], y[index + 1], ... along an axis = the vectors of the pack."""
        along, = _literals(axis)

        def code(context, builder, sig, args):
            place = _place(context, builder, sig, args)
            for k, v in enumerate(_unpack(builder, args[3])):
                _write(builder, v, place.at({along: I64(k)}))
            return context.get_dummy_value()
        return types.void(y, index, axis, pack), code

    @intrinsic
    def store_totals(typing, y, index, acc):
        """The sums over the lanes of a tile's vectors, row by row, as numbers from the vector y[index] on."""
        def code(context, builder, sig, args):
            place = _place(context, builder, sig, args)
            for k, sums in enumerate(_totals(builder, _unpack(builder, args[2]))):
                _write(builder, sums, place.at({len(sig.args[1]) - 1: I64(k)}))
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
