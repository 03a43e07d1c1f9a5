"""The tile instructions of AMX in NumPy, as Intel's manual describes them, for compiled kernels to call.

Kernels compiled for the unit "emulated" are those for AMX, with calls of these functions instead of the instructions.
Serial kernels only: another thread would wait for Python.
"""
import ctypes

import llvmlite.binding as llvm
import numpy as np

TILE, ADDRESS, LENGTH = ctypes.c_int8, ctypes.c_void_p, ctypes.c_int64


class Amx:
    """Eight tiles of 16 rows of 64 bytes.  `faults`: what the processor would have refused."""

    def __init__(self):
        self.tiles, self.shapes, self.faults, self.products = np.zeros((8, 16, 64), np.uint8), None, [], 0
        arguments = {"ldtilecfg": (ADDRESS,), "tilerelease": (), "tilezero": (TILE,),
                     "tileloadd64": (TILE, ADDRESS, LENGTH), "tilestored64": (TILE, ADDRESS, LENGTH),
                     "tdpbf16ps": (TILE, TILE, TILE)}
        self._kept = [ctypes.PYFUNCTYPE(None, *kinds)(self._guarded(name)) for name, kinds in arguments.items()]
        for name, function in zip(arguments, self._kept, strict=True):
            llvm.add_symbol(f"emulated_{name}", ctypes.cast(function, ctypes.c_void_p).value)

    def _guarded(self, name):
        def run(*operands):
            try:
                getattr(self, name)(*operands)
            except Exception as error:          # an exception would be lost in the kernel
                self.faults.append(f"{name}{operands}: {error!r}")
        return run

    def ldtilecfg(self, address):
        config = np.frombuffer(ctypes.string_at(address, 64), np.uint8)
        assert config[0] == 1 and not config[1:16].any() and not config[56:].any() and not config[32:48].any()
        self.shapes = list(zip(config[48:56].tolist(), config[16:32].view(np.uint16).tolist(), strict=True))
        assert all(rows <= 16 and width <= 64 and width % 4 == 0 for rows, width in self.shapes)
        self.tiles[...] = 0

    def tilerelease(self):
        self.shapes = None

    def tilezero(self, t):
        assert all(self.shapes[t])
        self.tiles[t] = 0

    def _rows(self, t, address, stride):
        rows, width = self.shapes[t]
        assert rows and width
        for r in range(rows):
            yield r, width, (ctypes.c_uint8 * width).from_address(address + r * stride)

    def tileloadd64(self, t, address, stride):
        self.tiles[t] = 0
        for r, width, memory in self._rows(t, address, stride):
            self.tiles[t, r, :width] = memory

    def tilestored64(self, t, address, stride):
        for r, width, memory in self._rows(t, address, stride):
            memory[:] = self.tiles[t, r, :width].tolist()

    def tdpbf16ps(self, c, a, b):
        """Sums over the first numbers of the pairs and over the second ones, their sum, and that added to c."""
        (rows, width), (left_rows, left_width), (right_rows, right_width) = (self.shapes[t] for t in (c, a, b))
        assert len({a, b, c}) == 3 and rows == left_rows and width == right_width and left_width == 4 * right_rows
        left, right = (self.tiles[t].view(np.uint32) for t in (a, b))
        first, second = np.zeros((2, 16, 16), np.float32)
        for k in range(right_rows):
            first += (left[:, k, None] << 16).view(np.float32) * (right[k] << 16).view(np.float32)
            second += (left[:, k, None] & 0xFFFF0000).view(np.float32) * (right[k] & 0xFFFF0000).view(np.float32)
        self.tiles[c].view(np.float32)[:rows, :width // 4] += (first + second)[:rows, :width // 4]
        self.products += 1
