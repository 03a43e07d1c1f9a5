"""How kernels are compiled: Numba's options, native addresses and the cache.

A kernel is written `f(item, y, x, ...)` under `@njit(**KERNEL)` and compiled as `f(item, record)`.  The record is
memory that holds the arguments as Numba lays out a tuple, so every kernel has the same machine signature,
f(int, pointer), and the driver calls it by its address.  The pointer's Numba type carries the types of the arguments: a
kernel is compiled once for each combination of them.  `UnpackRecord` changes Numba's intermediate code, so nothing is
compiled twice.
"""
import functools
import gc
import hashlib
import pickle
import sys
from contextlib import contextmanager, suppress
from pathlib import Path

import numba
import numpy as np
from numba import config, types

from . import assistants, cache
from .lock import locked

JIT = not config.DISABLE_JIT
FOLDER = cache.kernel_cache() if JIT else None
PATIENCE = 60               # seconds to wait for another process that compiles or loads a kernel

# A kernel called by address cannot raise, so error_model turns ZeroDivisionError off.  Only the driver calls kernels,
# so they need no wrappers, which take a third of the compile time.  They allocate nothing, so they count no references
# (_nrt), which takes a sixth.
HELPER = dict(error_model="numpy", no_cpython_wrapper=True, no_cfunc_wrapper=True, _nrt=False)  # functions they call
INLINE = dict(inline="always", **HELPER)                                                # whose call would cost time
KERNEL = dict(HELPER)


class KernelError(Exception):
    """A kernel cannot be compiled."""


if JIT:
    import llvmlite
    from numba.core import errors, ir, serialize
    from numba.core.compiler import CompilerBase, CompileResult, DefaultPassBuilder
    from numba.core.compiler_lock import global_compiler_lock
    from numba.core.compiler_machinery import FunctionPass, register_pass
    from numba.core.ir_utils import build_definitions
    from numba.core.untyped_passes import TranslateByteCode

    @register_pass(mutates_CFG=False, analysis_only=False)
    class UnpackRecord(FunctionPass):
        """Turn f(item, y, x, ...) into f(item, record) with (y, x, ...) = record[0]."""

        _name = "unpack_record"

        def __init__(self):
            super().__init__()

        def run_pass(self, state):
            func = state.func_ir
            entry = func.blocks[min(func.blocks)]
            record, zero, values = (ir.Var(entry.scope, f"${name}", entry.loc) for name in ("record", "zero", "values"))
            for statement in entry.find_insts(ir.Assign):
                if isinstance(statement.value, ir.Arg) and statement.value.index > 0:
                    statement.value = ir.Expr.static_getitem(values, statement.value.index - 1, None, statement.loc)
            entry.body[:0] = [ir.Assign(value, target, entry.loc) for value, target in (
                (ir.Arg("record", 1, entry.loc), record), (ir.Const(0, entry.loc), zero),
                (ir.Expr.getitem(record, zero, entry.loc), values))]
            func.arg_count, func.arg_names = 2, (func.arg_names[0], "record")
            func._definitions = build_definitions(func.blocks)
            return True

    class RecordCompiler(CompilerBase):
        """Numba's compiler with `UnpackRecord` as the first change of the code."""

        def define_pipelines(self):
            passes = DefaultPassBuilder.define_nopython_pipeline(self.state)
            passes.add_pass_after(UnpackRecord, TranslateByteCode)
            passes.finalize()
            return [passes]

    KERNEL["pipeline_class"] = RecordCompiler

    def words(value):
        """An argument as Numba lays it out in memory: always whole 8-byte words."""
        if isinstance(value, np.ndarray):
            return [0, 0, value.size, value.itemsize, value.ctypes.data, *value.shape, *value.strides]
        return [int(value)] if isinstance(value, (int, np.integer)) else [0]

    def _typeof(value):
        """Numba's type, with every array taken as strided, so that views and whole arrays share the compiled code."""
        ty = numba.typeof(value)
        return types.Array(ty.dtype, ty.ndim, "A") if isinstance(ty, types.Array) else ty

    _compiled, _requested = {}, {}          # by (function, signature); requests are the keys of a dict, in order

    def signature(args):
        """The types of a kernel's parameters, item and record, for arguments of these types."""
        return types.intp, types.CPointer(types.Tuple([_typeof(value) for value in args]))

    def address(kernel, signature):
        """The native address of a kernel for a signature; KernelError when it cannot be compiled."""
        result = compiled(kernel, signature)
        return result.library.get_pointer_to_function(result.fndesc.llvm_func_name)

    def request(function, signature):
        """Announce what `compiled` will be asked for: all that is missing then is compiled together."""
        if (function, signature) not in _compiled:
            _requested[function, signature] = None

    def compiled(function, signature):
        """Numba's compile result for a function, which owns the machine code; loaded from the cache if it is there."""
        if (function, signature) not in _compiled:
            request(function, signature)
            compile_requested()
        return _compiled[function, signature]

    def compile_requested():
        """Load or compile all that is requested, together with assistants if much is missing.

        What another process compiles is left for the end.  Raises KernelError for a function that cannot be compiled.
        """
        with global_compiler_lock:
            missing = [key for key in _requested if (path := _path(*key)) and not path.exists()]
            try:
                if len(missing) >= assistants.WORTH:
                    assistants.start()
                    assistants.ask(missing)
                for seconds in 0, PATIENCE:
                    for key in [*_requested]:
                        if result := _load_or_compile(*key, seconds):
                            _compiled[key] = result
                            del _requested[key]
            except KernelError:
                del _requested[key]
                raise
            finally:
                assistants.stop()

    def prepare(function, signature):
        """See to it that the cache has a function, unless another process is compiling it."""
        path = _path(function, signature)
        if path and not path.exists():
            _load_or_compile(function, signature, 0)

    def _load_or_compile(function, signature, seconds):
        """The compile result; after so many seconds in which another process compiles it, None if they are 0."""
        global FOLDER
        path = _path(function, signature)
        result = _rebuilt(cache.read(path), function) if path else None
        if result is None:
            with _locked(path, seconds) as held:
                if not held and not seconds:
                    return None
                if not held:                # another process hangs: continue without the cache
                    FOLDER = path = None
                result = _rebuilt(cache.read(path), function) if path else None
                if result is None:
                    result = _compile(function, signature)
                    if path and not result.library.has_dynamic_globals:
                        cache.write(path, serialize.dumps(result._reduce()))
        return result

    @contextmanager
    def _locked(path, seconds):
        """Lock a cache file, which need not exist; yields whether it is locked."""
        if path is None:
            yield True
            return
        lock = path.with_suffix(".lock")
        with locked(lock, seconds) as held:
            yield held
        if held:                            # who waits for a deleted lock then finds the cache file
            with suppress(OSError):
                lock.unlink()

    def _rebuilt(content, function):
        """The compile result from the bytes of a cache file; None when they cannot be used."""
        if content is None:
            return None
        function.targetctx.refresh()
        try:
            return CompileResult._rebuild(function.targetctx, *pickle.loads(content))
        except Exception:                   # a file of another program can raise anything
            return None

    def _path(function, signature):
        """The cache file of a function; None if its code cannot be kept, for example when it was typed at a prompt."""
        name = _name(function, signature) if FOLDER else None
        return FOLDER / name if name else None

    @functools.cache
    def _name(function, signature):
        """The name of the cache file, or None.

        It is a hash of all that the machine code depends on, except the kernel sources, which name the folder.
        """
        python = function.py_func
        try:
            source = Path(python.__code__.co_filename).read_bytes()
        except OSError:
            return None
        if python.__closure__:
            return None
        key = (python.__module__, python.__qualname__, str(signature), python.__code__.co_code, hash_of(source),
               function.targetctx.codegen().magic_tuple(), numba.__version__, llvmlite.__version__, sys.version)
        return f"{python.__name__}-{hash_of(repr(key).encode())}.nbc"

    def hash_of(content):
        return hashlib.sha256(content).hexdigest()[:32]

    def _compile(function, signature):
        collects = gc.isenabled()
        gc.disable()                        # a search for garbage in Numba's many objects takes a tenth of the time
        try:
            return function._compiler.compile(signature, None)
        except (errors.NumbaError, errors.UnsupportedBytecodeError) as error:
            name, code = function.py_func.__name__, function.py_func.__code__
            reason = " ".join(str(error).split("\n\n")[0].split("\n")[1:]) or str(error)
            raise KernelError(
                f"{name} ({code.co_filename}, line {code.co_firstlineno}) cannot be compiled: "
                f"{' '.join(reason.split())}; "
                "breakpoint() and other things that only Python can do need interpreted kernels (--no-jit, or "
                "NUMBA_DISABLE_JIT=1)") from error
        finally:
            if collects:
                gc.enable()
else:
    def compile_requested():
        """Do nothing: interpreted, nothing is compiled."""
