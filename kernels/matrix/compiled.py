"""The operations on tiles in LLVM: through AMX, through `vdpbf16ps`, or in float32."""
from contextlib import contextmanager

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.datamodel import models
from numba.extending import intrinsic, register_model, typeof_impl

from ..lanes.compiled import F32, I8, I32, I64, VECTOR, WHOLE, Address, Lanes, ShapeType, _fma, _read, _splat, _write
from .units import AMX, DOT, PLAIN, Tiles

__all__ = [
    "begin", "clear", "configure", "multiply", "neighbours", "pair", "release", "remainder", "store_exchanged",
    "store_images", "store_pair", "store_products", "store_transposed",
]

I16, V = ir.IntType(16), Lanes("f")
HALF = ir.VectorType(I32, 8)
ROWS = 16                       # of a tile, each of 64 bytes
ROW = 64
MOST = {DOT: 16, PLAIN: 4}      # sums in registers; 8 rows x 2 columns of vdpbf16ps: 200 GF/s, 8 x 1: 150, 16 x 1: 120
INSTRUCTIONS = {AMX: "llvm.x86."}              # units with instructions on tiles: what their names begin with


# ---- types ------------------------------------------------------------------------------------------------------
class SumsType(types.Type):
    """Tiles of sums; `T`: their ShapeType."""

    def __init__(self, T):
        self.T = T
        super().__init__(name=f"Sums({T.name})")


typeof_impl.register(Tiles)(lambda value, context: ShapeType(value))


@register_model(SumsType)
class SumsModel(models.PrimitiveModel):
    """(the sums in memory, for units other than AMX; rows of a tile of sums; pairs that a product adds up)"""

    def __init__(self, manager, ty):
        super().__init__(manager, ty, ir.LiteralStructType([I8.as_pointer(), I64, I64]))


class Bf16(ir.Type):
    """LLVM's bfloat, which llvmlite does not name."""

    def __str__(self):
        return "bfloat"

    def __eq__(self, other):
        return isinstance(other, Bf16)

    def __hash__(self):
        return hash(Bf16)


# ---- code generation: AMX ---------------------------------------------------------------------------------------
def _instruction(builder, T, name, *operands):
    """Emit an instruction on tiles; an int is the number of a tile, a constant of the instruction."""
    operands = [ir.Constant(I8, x) if isinstance(x, int) else x for x in operands]
    kind = ir.FunctionType(ir.VoidType(), [x.type for x in operands])
    builder.call(cgutils.get_or_insert_function(builder.module, kind, INSTRUCTIONS[T.unit] + name), operands)


def _numbers(T):
    """The numbers of the tiles: ([row][col] of the sums, [row] of the left factor, [col] of the right factor)."""
    return ([[r * T.cols + c for c in range(T.cols)] for r in range(T.rows)],
            [4 + r % (4 - T.cols) for r in range(T.rows)], [8 - T.cols + c for c in range(T.cols)])


def _configure(builder, T, rows, pairs):
    """Give every tile its rows and bytes per row (palette 1: eight tiles of at most 16 rows of 64 bytes)."""
    config = cgutils.alloca_once(builder, ir.ArrayType(I8, ROW))
    config.align = ROW
    builder.store(ir.Constant(ir.ArrayType(I8, ROW), None), config)

    def put(offset, value):
        where = builder.gep(builder.bitcast(config, I8.as_pointer()), [I64(offset)])
        builder.store(value, builder.bitcast(where, value.type.as_pointer())).align = 1
    put(0, I8(1))
    sums, left, right = _numbers(T)
    for tiles, height, width in ((sum(sums, []), rows, I64(16)), (left, rows, pairs), (right, pairs, I64(16))):
        for t in tiles:
            put(16 + 2 * t, builder.trunc(builder.mul(width, I64(4)), I16))
            put(48 + t, builder.trunc(height, I8))
    _instruction(builder, T, "ldtilecfg", builder.bitcast(config, I8.as_pointer()))


# ---- code generation: the other units ---------------------------------------------------------------------------
def _sums(builder, T, sums, r, c, row):
    """A pointer to a row of a tile of sums in memory."""
    offset = builder.mul(builder.add(I64((r * T.cols + c) * ROWS), row), I64(ROW))
    return builder.bitcast(builder.gep(builder.extract_value(sums, 0), [offset]), VECTOR.as_pointer())


def _moved(builder, pointer, offset, kind):
    return builder.bitcast(builder.gep(pointer, [offset]), kind.as_pointer())


def _dot(builder, unit, acc, a, b):
    """acc + a.second * b.second, rounded, + a.first * b.first, for a vector of pairs b; a is one pair everywhere.

    The products of two bf16 numbers are float32 numbers, so that only the additions round.
    """
    if unit == DOT:
        pairs = ir.VectorType(Bf16(), 32)
        kind = ir.FunctionType(VECTOR, [VECTOR, pairs, pairs])
        dot = cgutils.get_or_insert_function(builder.module, kind, "llvm.x86.avx512bf16.dpbf16ps.512")
        return builder.call(dot, [acc, builder.bitcast(_splat(builder, a), pairs), builder.bitcast(b, pairs)])
    high, sixteen = I32(0xFFFF0000), I32(16)

    def halves(x, constant):
        return builder.and_(x, constant(high)), builder.shl(x, constant(sixteen))
    for x, y in zip(halves(a, lambda c: c), halves(b, lambda c: _splat(builder, c)), strict=True):
        acc = _fma(builder, _splat(builder, builder.bitcast(x, F32)), builder.bitcast(y, VECTOR), acc)
    return acc


def _product(builder, T, sums, r, a, a_stride, right):
    """Add the products of the tile at the pointer a and of those at the pointers `right` to a row of tiles of sums in
    memory.

    A function of its own in the machine code: in place, four for a block, kernels took three times as long to compile.
    """
    name, byte = f"bf16_product_{T.unit}_{T.cols}", I8.as_pointer()
    function = builder.module.globals.get(name)
    if function is None:
        kind = ir.FunctionType(ir.VoidType(), [byte, I64, I64, byte, I64, *[byte] * T.cols])
        function = ir.Function(builder.module, kind, name)
        function.linkage = "internal"
        function.attributes.add("noinline")
        _product_body(ir.IRBuilder(function.append_basic_block()), T, *function.args[:5], function.args[5:])
    tile = builder.bitcast(_sums(builder, T, sums, r, 0, I64(0)), byte)
    builder.call(function, [tile, builder.extract_value(sums, 1), builder.extract_value(sums, 2), a, a_stride, *right])


def _product_body(builder, T, tile, rows, pairs, a, a_stride, right):
    """The sums of a few rows at a time stay in registers."""
    most = MOST[T.unit] // T.cols

    def some(first, count):
        row = [builder.add(first, I64(k)) for k in range(count)]
        sums = [_moved(builder, tile, builder.mul(builder.add(k, I64(c * ROWS)), I64(ROW)), VECTOR) for k in row
                for c in range(T.cols)]
        slots = [cgutils.alloca_once(builder, VECTOR) for _ in sums]
        left = [builder.gep(a, [builder.mul(k, a_stride)]) for k in row]
        for slot, pointer in zip(slots, sums, strict=True):
            builder.store(_read(builder, pointer), slot)
        with cgutils.for_range(builder, pairs) as loop:
            vectors = [_read(builder, _moved(builder, b, builder.mul(loop.index, I64(ROW)), WHOLE)) for b in right]
            for k, pointer in enumerate(left):
                factor = _read(builder, _moved(builder, pointer, builder.mul(loop.index, I64(4)), I32))
                for slot, vector in zip(slots[k * T.cols:], vectors, strict=False):
                    builder.store(_dot(builder, T.unit, builder.load(slot), factor, vector), slot)
        for slot, pointer in zip(slots, sums, strict=True):
            _write(builder, builder.load(slot), pointer)
    whole = builder.sub(rows, builder.urem(rows, I64(most)))
    with cgutils.for_range_slice(builder, I64(0), whole, I64(most)) as (first, _):
        some(first, most)
    with cgutils.for_range_slice(builder, whole, rows, I64(1)) as (first, _):
        some(first, 1)
    builder.ret_void()


@contextmanager
def _each_row(builder, T, sums, r, c):
    """Loop over the rows of a tile of sums in memory; gives the row's number and pointer."""
    with cgutils.for_range(builder, builder.extract_value(sums, 1)) as loop:
        yield loop.index, _sums(builder, T, sums, r, c, loop.index)


# ---- tiles of sums ----------------------------------------------------------------------------------------------
def _words(context, builder, sig, args, *positions):
    return [context.cast(builder, args[k], sig.args[k], types.intp) for k in positions]


@intrinsic
def configure(typing, T, rows, pairs):
    """Tiles of sums of `rows` rows each, from factors with `pairs` pairs along the sum; both at most 16."""
    def code(context, builder, sig, args):
        height, depth = _words(context, builder, sig, args, 1, 2)
        memory = ir.Constant(I8.as_pointer(), None)
        if T.unit in INSTRUCTIONS:
            _configure(builder, T, height, depth)
        else:
            memory = cgutils.alloca_once(builder, ir.ArrayType(VECTOR, T.rows * T.cols * ROWS))
            memory.align = ROW
            memory = builder.bitcast(memory, I8.as_pointer())
        value = ir.Constant(context.get_value_type(sig.return_type), ir.Undefined)
        for k, part in enumerate((memory, height, depth)):
            value = builder.insert_value(value, part, k)
        return value
    return SumsType(T)(T, rows, pairs), code


@intrinsic
def release(typing, sums):
    """Give the unit back, at the end of a kernel."""
    def code(context, builder, sig, args):
        if sums.T.unit in INSTRUCTIONS:
            _instruction(builder, sums.T, "tilerelease")
        return context.get_dummy_value()
    return types.void(sums), code


@intrinsic
def clear(typing, sums):
    """Set all sums to 0."""
    T = sums.T

    def code(context, builder, sig, args):
        for r in range(T.rows):
            for c in range(T.cols):
                if T.unit in INSTRUCTIONS:
                    _instruction(builder, T, "tilezero", _numbers(T)[0][r][c])
                    continue
                with _each_row(builder, T, args[0], r, c) as (_, pointer):
                    _write(builder, ir.Constant(VECTOR, None), pointer)
        return context.get_dummy_value()
    return types.void(sums), code


@intrinsic
def begin(typing, sums, start, f, down):
    """Set row k of the tiles (r, all columns) to the vector start[f + r * down + k]."""
    T = sums.T

    def code(context, builder, sig, args):
        first, step = _words(context, builder, sig, args, 2, 3)
        base = Address(context, builder, sig.args[1], args[1], types.intp, first).at({}, I8)
        for r in range(T.rows):
            tile = builder.gep(base, [builder.mul(step, I64(r * ROW))])
            for c in range(T.cols):
                if T.unit in INSTRUCTIONS:
                    _instruction(builder, T, "tileloadd64", _numbers(T)[0][r][c], tile, I64(ROW))
                    continue
                with _each_row(builder, T, args[0], r, c) as (k, pointer):
                    _write(builder, _read(builder, _moved(builder, tile, builder.mul(k, I64(ROW)), VECTOR)), pointer)
        return context.get_dummy_value()
    return types.void(sums, start, f, down), code


@intrinsic(prefer_literal=True)
def multiply(typing, sums, a, at, axis, down, b, first, second):
    """Add the products of tiles: sums[r, c] += a[at + r * down along axis] times b[first or second].

    Rows of a left tile follow along that axis, pairs along the last one; rows of a right tile are vectors, one after
    the other.
    """
    T, along = sums.T, axis.literal_value

    def code(context, builder, sig, args):
        step, = _words(context, builder, sig, args, 4)
        address = Address(context, builder, sig.args[1], args[1], sig.args[2], args[2])
        stride = address.strides[along]
        left = [address.at({along: builder.mul(step, I64(r))}, I8) for r in range(T.rows)]
        right = [Address(context, builder, sig.args[5], args[5], sig.args[k], args[k]).at({}, I8) for k in (6, 7)]
        tiles, lefts, rights = _numbers(T)
        if T.unit in INSTRUCTIONS:
            for number, pointer in zip(rights, right, strict=False):
                _instruction(builder, T, "tileloadd64", number, pointer, I64(ROW))
        for r in range(T.rows):
            if T.unit in INSTRUCTIONS:
                _instruction(builder, T, "tileloadd64", lefts[r], left[r], stride)
                for c in range(T.cols):
                    _instruction(builder, T, "tdpbf16ps", tiles[r][c], lefts[r], rights[c])
            else:
                _product(builder, T, args[0], r, left[r], stride, right[:T.cols])
        return context.get_dummy_value()
    return types.void(sums, a, at, axis, down, b, first, second), code


@intrinsic(prefer_literal=True)
def store_products(typing, sums, y, first, second, axis, down):
    """y[(first or second) + r * down + k along axis] = row k of the tile (r, column)."""
    T, along = sums.T, axis.literal_value

    def code(context, builder, sig, args):
        step, = _words(context, builder, sig, args, 5)
        for c in range(T.cols):
            address = Address(context, builder, sig.args[1], args[1], sig.args[2 + c], args[2 + c])
            stride = address.strides[along]
            for r in range(T.rows):
                tile = address.at({along: builder.mul(step, I64(r))}, I8)
                if T.unit in INSTRUCTIONS:
                    _instruction(builder, T, "tilestored64", _numbers(T)[0][r][c], tile, stride)
                    continue
                with _each_row(builder, T, args[0], r, c) as (k, pointer):
                    _write(builder, _read(builder, pointer), _moved(builder, tile, builder.mul(k, stride), VECTOR))
        return context.get_dummy_value()
    return types.void(sums, y, first, second, axis, down), code


# ---- rounding, and the order of the factors in memory -----------------------------------------------------------
def _constant(kind, number):
    return ir.Constant(kind, [number] * kind.count if isinstance(kind, ir.VectorType) else number)


def _rounded(builder, x):
    """The bits of float32 numbers, rounded to the nearest bf16, ties to even; a NaN stays one."""
    whole = WHOLE if x.type == VECTOR else I32
    bits = builder.bitcast(x, whole)

    def number(k):
        return _constant(whole, k)
    last = builder.and_(builder.lshr(bits, number(16)), number(1))
    near = builder.add(builder.add(bits, number(0x7FFF)), last)
    quiet = builder.or_(bits, number(0x400000))
    return builder.and_(builder.select(builder.fcmp_unordered("uno", x, x), quiet, near), number(0xFFFF0000))


def _pair(builder, even, odd):
    first = _rounded(builder, even)
    return builder.or_(builder.lshr(first, _constant(first.type, 16)), _rounded(builder, odd))


@intrinsic
def pair(typing, even, odd):
    """Two float32 numbers rounded to bf16, the first one in the low half of a uint32."""
    def code(context, builder, sig, args):
        return _pair(builder, *args)
    return types.uint32(types.float32, types.float32), code


@intrinsic
def store_pair(typing, v, index, even, odd):
    """v[index] = the pairs of two vectors."""
    def code(context, builder, sig, args):
        pairs = _pair(builder, args[2], args[3])
        _write(builder, pairs, Address(context, builder, sig.args[0], args[0], sig.args[1], args[1]).at({}, WHOLE))
        return context.get_dummy_value()
    return types.void(v, index, V, V), code


def _remainder(builder, x):
    bits = _rounded(builder, x)
    exponent, zero = _constant(bits.type, 0x7F800000), F32(0) if x.type == F32 else ir.Constant(x.type, None)
    finite = builder.icmp_unsigned("!=", builder.and_(bits, exponent), exponent)
    return builder.select(finite, builder.fsub(x, builder.bitcast(bits, x.type)), zero)


@intrinsic
def remainder(typing, x):
    """What rounding to bf16 leaves of a number or a vector; 0 for infinity and NaN."""
    ty = x if isinstance(x, Lanes) else types.float32

    def code(context, builder, sig, args):
        return _remainder(builder, args[0])
    return ty(ty), code


@intrinsic
def neighbours(typing, x, index):
    """(first, second) of the 16 pairs of neighbours in memory from x[index] on: two vectors."""
    ty = types.UniTuple(V, 2)

    def code(context, builder, sig, args):
        begin = Address(context, builder, sig.args[0], args[0], sig.args[1], args[1]).at({}, F32)
        a, b = (_read(builder, builder.bitcast(builder.gep(begin, [I64(k)]), VECTOR.as_pointer())) for k in (0, 16))
        return context.make_tuple(builder, ty, [_pick(builder, a, b, list(range(k, 32, 2))) for k in (0, 1)])
    return ty(x, index), code


@intrinsic(prefer_literal=True)
def store_exchanged(typing, u, index, weight, at, part):
    """u[index + (k, l)] = the pair (weight[at + (2 l, k)], weight[at + (2 l + 1, k)]), for 16 x 16 of them; part 1: of
    what rounding left of the weights."""
    left = part.literal_value

    def code(context, builder, sig, args):
        source = Address(context, builder, sig.args[2], args[2], sig.args[3], args[3])
        target = Address(context, builder, sig.args[0], args[0], sig.args[1], args[1])
        numbers = [_read(builder, source.at({0: I64(k)})) for k in range(32)]
        numbers = [_remainder(builder, x) for x in numbers] if left else numbers
        rows = [_pair(builder, *both) for both in zip(numbers[::2], numbers[1::2], strict=True)]
        for distance in 8, 4, 2, 1:
            rows = _exchanged(builder, rows, distance)
        for k, row in enumerate(rows):
            _write(builder, row, target.at({0: I64(k)}, WHOLE))
        return context.get_dummy_value()
    return types.void(u, index, weight, at, part), code


def _pick(builder, a, b, lanes):
    return builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(I32, len(lanes)), lanes))


def _images_in_pairs(builder, even, odd):
    """Of pairs of numbers (first, second) of even images and the odd ones after them: all first, all second numbers,
    with two images in a pair."""
    def number(k):
        return _constant(even.type, k)
    return (builder.or_(builder.and_(even, number(0xFFFF)), builder.shl(odd, number(16))),
            builder.or_(builder.lshr(even, number(16)), builder.and_(odd, number(0xFFFF0000))))


@intrinsic(prefer_literal=True)
def store_images(typing, g, index, axis, d, at):
    """Split the vector d[at] of pairs: the first numbers of 16 images to the 8 pairs from g[index] on, the second
    ones to those from index + 1 along the axis."""
    along = axis.literal_value

    def code(context, builder, sig, args):
        pairs = _read(builder, Address(context, builder, sig.args[3], args[3], sig.args[4], args[4]).at({}, WHOLE))
        address = Address(context, builder, sig.args[0], args[0], sig.args[1], args[1])
        even, odd = (_pick(builder, pairs, pairs, list(range(k, 16, 2))) for k in (0, 1))
        for k, images in enumerate(_images_in_pairs(builder, even, odd)):
            _write(builder, images, address.at({along: I64(k)}, HALF))
        return context.get_dummy_value()
    return types.void(g, index, axis, d, at), code


@intrinsic
def store_transposed(typing, t, index, v, at):
    """Transpose 16 channels x 16 images: the 8 vectors of channel pairs from v[at] on to the 8 vectors of image pairs
    from t[index] on, a pair of images of one channel in each lane."""
    def code(context, builder, sig, args):
        source = Address(context, builder, sig.args[2], args[2], sig.args[3], args[3])
        target = Address(context, builder, sig.args[0], args[0], sig.args[1], args[1])
        to, along = len(sig.args[1]) - 1, len(sig.args[3]) - 1
        pairs = [_read(builder, source.at({along: I64(k)}, WHOLE)) for k in range(8)]
        rows = []                               # channel k and channel k + 8, 8 pairs of images each
        for a, b in zip(pairs[:4], pairs[4:], strict=True):
            rows += _images_in_pairs(builder, *(_pick(builder, a, b, list(range(k, 32, 2))) for k in (0, 1)))
        for distance in 4, 2, 1:                # 8 x 8 transposes of both halves at once
            rows = _exchanged(builder, rows, distance)
        for k, row in enumerate(rows):
            _write(builder, row, target.at({to: I64(k)}, WHOLE))
        return context.get_dummy_value()
    return types.void(t, index, v, at), code


def _exchanged(builder, rows, distance):
    """Exchange the columns k + distance of row r with the columns k of row r + distance: a step of a transpose."""
    out = list(rows)
    low = [k if not k & distance else k - distance + 16 for k in range(16)]
    high = [k + distance if not k & distance else k + 16 for k in range(16)]
    for r in range(len(rows)):
        if not r & distance:
            out[r] = _pick(builder, rows[r], rows[r + distance], low)
            out[r + distance] = _pick(builder, rows[r], rows[r + distance], high)
    return out
