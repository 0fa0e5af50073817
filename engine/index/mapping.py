"""`Mapping`: a file in memory that keeps no descriptor, so that an index may have any number of files.

Python's `mmap` (before 3.13) and `numpy.memmap` keep a descriptor for each mapping, of which a process has 1,024
by default. The system needs none once the file is mapped: so this calls the C library.
"""

import ctypes
import mmap
import os
import weakref
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from engine.errors import IndexFormatError
from engine.index.manifest import Array

_LIBC = ctypes.CDLL(None, use_errno=True)
_LIBC.mmap.restype = ctypes.c_void_p
_LIBC.mmap.argtypes = [
    ctypes.c_void_p,
    ctypes.c_size_t,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_long,
]
_LIBC.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
_LIBC.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
_FAILED = ctypes.c_void_p(-1).value


class Mapping:
    """All of an open file, unmapped when the last array of it goes.

    Copy-on-write: torch wants writable memory, and nothing written to it may reach the file.
    """

    def __init__(
        self, descriptor: int, file: Path, dtype: np.dtype[np.generic], shape: tuple[int, ...]
    ) -> None:
        found = os.fstat(descriptor)
        self.file, self.length = file, found.st_size
        self._inode = found.st_ino
        access, kind = mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_PRIVATE
        address = _LIBC.mmap(None, self.length, access, kind, descriptor, 0)
        if address == _FAILED:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        self._address = address
        self.__array_interface__ = {
            "version": 3,
            "data": (address, False),
            "typestr": dtype.str,
            "shape": shape,
        }
        # Not when the interpreter ends: threads may still read then, and the system unmaps anyway.
        weakref.finalize(self, _LIBC.munmap, address, self.length).atexit = False

    def check(self) -> None:
        """IndexFormatError where the file was cut short since: to read beyond its end would end the process.

        A file that has another name by now, or none, is nobody's to write to.
        """
        try:
            found = os.stat(self.file)
        except OSError:
            return
        if found.st_ino == self._inode and found.st_size < self.length:
            raise IndexFormatError(
                str(self.file),
                expected=f"{self.length} bytes, as when it was opened",
                got=str(found.st_size),
                remedy="Do not write to files of an index in use. Restore the file, and open the index again.",
            )

    def advise(self, advice: int, start: int = 0, end: int | None = None) -> None:
        """`madvise` for the bytes from `start` to `end`; advice that the system does not take is lost."""
        start = start // mmap.PAGESIZE * mmap.PAGESIZE
        end = self.length if end is None else min(end, self.length)
        if start < end:
            _LIBC.madvise(self._address + start, end - start, advice)


def map_array(
    descriptor: int, file: Path, dtype: np.dtype[np.generic], shape: tuple[int, ...]
) -> Array:
    """The array that an open file of exactly that length holds. The descriptor may be closed afterwards."""
    return np.asarray(Mapping(descriptor, file, dtype, shape))


def mapping_of(array: Array) -> Mapping | None:
    """What `array`, as `map_array` returned it, is mapped by; None for memory of its own."""
    return array.base if isinstance(array.base, Mapping) else None


def mappings_of(arrays: Iterable[Array]) -> tuple[Mapping, ...]:
    """Those of arrays that are mapped."""
    return tuple(mapping for mapping in map(mapping_of, arrays) if mapping is not None)
