"""NumPy's files, compared element by element, without NumPy: `.npy` (NEP 1) and `.npz`, a zip of them.

Read in pieces, so that memory does not grow with the array; pieces that are the same bytes are not looked into.
Plain numbers and complex ones are read (these as two numbers each), in any byte order, in C and in Fortran order.
Structured, object and text arrays are not: of them only the bytes are compared. A pickle is never loaded.
"""

from __future__ import annotations

import ast
import math
import struct
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from repro_est.proof.distance import ABSENT, Place, Tally, Unreadable

_MAGIC = b"\x93NUMPY"
_LONGEST_HEADER = 1 << 16
_ELEMENTS = 1 << 13
_FORMATS = {
    "b1": "?", "i1": "b", "u1": "B", "i2": "h", "u2": "H", "i4": "i", "u4": "I", "i8": "q", "u8": "Q",
    "f2": "e", "f4": "f", "f8": "d", "c8": "ff", "c16": "dd",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Header:
    order: str
    format: str
    fortran: bool
    shape: tuple[int, ...]

    @property
    def count(self) -> int:
        return math.prod(self.shape)

    @property
    def size(self) -> int:
        """Bytes of an element."""
        return struct.calcsize(self.order + self.format)

    def place(self, number: int) -> Place:
        """Returns the index of an element by its number in the file."""
        index: list[int] = []
        for length in self.shape if self.fortran else reversed(self.shape):
            number, position = divmod(number, length)
            index.append(position)
        return tuple(index if self.fortran else reversed(index))


def compare_arrays(expected: Path, got: Path, tally: Tally) -> None:
    """Compares two `.npy` files.

    Raises:
        Unreadable: one is no array of numbers.
    """
    with open(expected, "rb") as one, open(got, "rb") as two:
        _compare(one, two, tally, ())


def compare_archives(expected: Path, got: Path, tally: Tally) -> None:
    """Compares two `.npz` files; what differs only in how it was packed does not differ.

    Raises:
        Unreadable: one is no such archive.
    """
    try:
        with zipfile.ZipFile(expected) as one, zipfile.ZipFile(got) as two:
            mine, theirs = ({item.filename for item in archive.infolist()} for archive in (one, two))
            for name in sorted(mine | theirs):
                place = (name.removesuffix(".npy"),)
                if name in mine and name in theirs:
                    with one.open(name) as first, two.open(name) as second:
                        _compare(first, second, tally, place)
                else:
                    shown = "an array"
                    tally.other(place, shown if name in mine else ABSENT, shown if name in theirs else ABSENT)
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError) as error:
        raise Unreadable(str(error)) from None


def _compare(one: IO[bytes], two: IO[bytes], tally: Tally, prefix: Place) -> None:
    expected, got = _header(one), _header(two)
    if (expected.shape, expected.order + expected.format) != (got.shape, got.order + got.format):
        tally.other(prefix, _words(expected), _words(got))
        return
    if expected.fortran != got.fortran and len(expected.shape) > 1:
        raise Unreadable("one in C order, one in Fortran order")
    done = 0
    while done < expected.count:
        count = min(_ELEMENTS, expected.count - done)
        mine, theirs = one.read(count * expected.size), two.read(count * expected.size)
        if len(mine) != count * expected.size or len(theirs) != len(mine):
            raise Unreadable("ends early")
        if mine == theirs:
            tally.same(count * len(expected.format))
        else:
            _compare_piece(mine, theirs, done, expected, tally, prefix)
        done += count


def _compare_piece(mine: bytes, theirs: bytes, start: int, header: _Header, tally: Tally, prefix: Place) -> None:
    count, width = len(mine) // header.size, len(header.format)
    code = f"{header.order}{count * width}{header.format[0]}"
    tally.numbers(
        struct.unpack(code, mine),
        struct.unpack(code, theirs),
        lambda at: (*prefix, *header.place(start + at // width)),
    )


def _header(file: IO[bytes]) -> _Header:
    start = file.read(8)
    if start[:6] != _MAGIC or len(start) != 8 or start[6] not in (1, 2, 3):
        raise Unreadable("no .npy file")
    width = "<H" if start[6] == 1 else "<I"
    try:
        (length,) = struct.unpack(width, file.read(struct.calcsize(width)))
        if length > _LONGEST_HEADER:
            raise Unreadable("a header too long to be read")
        content = ast.literal_eval(file.read(length).decode("utf-8" if start[6] == 3 else "latin-1"))
        description, fortran, shape = content["descr"], content["fortran_order"], content["shape"]
        order, code = ("=" if description[0] == "|" else description[0]), _FORMATS[description[1:]]
        if order not in "<>=" or not all(isinstance(length, int) and length >= 0 for length in shape):
            raise Unreadable("no array of numbers")
        return _Header(order, code, bool(fortran), tuple(shape))
    except (struct.error, ValueError, SyntaxError, KeyError, TypeError, IndexError, RecursionError, MemoryError):
        raise Unreadable("no array of numbers") from None


def _words(header: _Header) -> str:
    names = {code: name for name, code in _FORMATS.items()}
    return f"shape {header.shape} of {header.order.strip('=')}{names[header.format]}"
