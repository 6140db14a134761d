"""GGUF version 3, llama.cpp's file format, as far as a Llama needs it: strings and numbers, and tensors in F32, F16, Q8_0
and Q4_0.

A file is: magic, version, counts; metadata; name, sizes (fastest first), type and offset of each tensor; their data, each
aligned. Q8_0 and Q4_0 store 32 numbers of a row with one float16 scale, in 34 and 18 bytes. All is little-endian.
"""
from __future__ import annotations

import math
import pathlib
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy
from numpy import ndarray

MAGIC, VERSION, ALIGNMENT = b"GGUF", 3, 32
UINT32, FLOAT32, STRING = 4, 6, 8  # types of metadata
Q8_BLOCK = numpy.dtype([("scale", "<f2"), ("values", "i1", 32)])
Q4_BLOCK = numpy.dtype([("scale", "<f2"), ("pairs", "u1", 16)])


def inverse(scale: ndarray) -> ndarray:
    """1 / scale, and 0 for a block of zeros."""
    return numpy.divide(1, scale, out=numpy.zeros_like(scale), where=scale != 0)


def to_q8_0(x: ndarray) -> ndarray:
    """The largest magnitude of a block becomes 127."""
    x = x.reshape(-1, 32)
    scale = numpy.abs(x).max(1, keepdims=True) / numpy.float32(127)
    blocks = numpy.empty(len(x), Q8_BLOCK)
    blocks["scale"] = scale[:, 0]
    blocks["values"] = numpy.rint(x * inverse(scale))
    return blocks


def from_q8_0(blocks: ndarray) -> ndarray:
    return blocks["values"] * blocks["scale"].astype(numpy.float32)[:, None]


def to_q4_0(x: ndarray) -> ndarray:
    """The number of largest magnitude becomes -8 of -8 .. 7, whatever its sign; a byte holds the numbers j and j + 16."""
    x = x.reshape(-1, 32)
    largest = numpy.take_along_axis(x, numpy.abs(x).argmax(1)[:, None], 1)
    scale = largest / numpy.float32(-8)
    values = numpy.clip(numpy.rint(x * inverse(scale)) + 8, 0, 15).astype(numpy.uint8)
    blocks = numpy.empty(len(x), Q4_BLOCK)
    blocks["scale"] = scale[:, 0]
    blocks["pairs"] = values[:, :16] | values[:, 16:] << 4
    return blocks


def from_q4_0(blocks: ndarray) -> ndarray:
    values = numpy.concatenate((blocks["pairs"] & 15, blocks["pairs"] >> 4), 1).astype(numpy.float32) - 8
    return values * blocks["scale"].astype(numpy.float32)[:, None]


@dataclass(frozen=True)
class TensorType:
    code: int
    file_code: int  # general.file_type of a file whose matrices have this type
    block: numpy.dtype
    numbers: int  # of a block
    encode: Callable[[ndarray], ndarray]
    decode: Callable[[ndarray], ndarray]

    def size(self, shape: tuple[int, ...]) -> int:
        if shape[-1] % self.numbers != 0:
            raise ValueError(f"[gguf] rows must be multiples of {self.numbers} numbers, got {shape[-1]}")
        return math.prod(shape) // self.numbers * self.block.itemsize


def plain(code: int, file_code: int, dtype: str) -> TensorType:
    return TensorType(code, file_code, numpy.dtype(dtype), 1, lambda x: x.astype(dtype), lambda x: x.astype(numpy.float32))


TYPES = {
    "f32": plain(0, 0, "<f4"),
    "f16": plain(1, 1, "<f2"),
    "q4_0": TensorType(2, 2, Q4_BLOCK, 32, to_q4_0, from_q4_0),
    "q8_0": TensorType(8, 7, Q8_BLOCK, 32, to_q8_0, from_q8_0),
}


def string(text: str) -> bytes:
    encoded = text.encode()
    return struct.pack("<Q", len(encoded)) + encoded


def entry(key: str, value: str | int | float) -> bytes:
    if isinstance(value, str):
        return string(key) + struct.pack("<I", STRING) + string(value)
    kind, code = (UINT32, "I") if isinstance(value, int) else (FLOAT32, "f")
    return string(key) + struct.pack(f"<I{code}", kind, value)


def aligned(offset: int) -> int:
    return (offset + ALIGNMENT - 1) // ALIGNMENT * ALIGNMENT


def write_gguf(path: pathlib.Path, metadata: Mapping[str, str | int | float], tensors: Mapping[str, ndarray],
               matrix_type: str) -> None:
    """Matrices in `matrix_type`, vectors in F32. Raises ValueError where rows are no whole blocks."""
    metadata = {"general.file_type": TYPES[matrix_type].file_code, **metadata}
    types = {name: TYPES[matrix_type if x.ndim == 2 else "f32"] for name, x in tensors.items()}
    header = MAGIC + struct.pack("<IQQ", VERSION, len(tensors), len(metadata))
    header += b"".join(entry(key, value) for key, value in metadata.items())
    offset = 0
    for name, x in tensors.items():
        sizes = x.shape[::-1]
        header += string(name) + struct.pack(f"<I{len(sizes)}QIQ", len(sizes), *sizes, types[name].code, offset)
        offset = aligned(offset + types[name].size(x.shape))
    with path.open("wb") as out:
        out.write(header.ljust(aligned(len(header)), b"\0"))
        for name, x in tensors.items():
            out.write(types[name].encode(x).tobytes())
            out.write(bytes(aligned(out.tell()) - out.tell()))


class Reader:
    """Takes what a header holds from its beginning."""

    def __init__(self, content: ndarray):
        self.content, self.offset = content, 0

    def numbers(self, format: str) -> tuple:
        values = struct.unpack_from("<" + format, self.content, self.offset)
        self.offset += struct.calcsize("<" + format)
        return values

    def string(self) -> str:
        length, = self.numbers("Q")
        text, = self.numbers(f"{length}s")
        return text.decode()

    def entry(self) -> tuple[str, str | int | float]:
        key, (kind,) = self.string(), self.numbers("I")
        return key, self.string() if kind == STRING else self.numbers({UINT32: "I", FLOAT32: "f"}[kind])[0]

    def tensor(self) -> tuple[str, tuple[int, ...], TensorType, int]:
        """Name, shape, type, offset in the data."""
        name, (dimensions,) = self.string(), self.numbers("I")
        shape = self.numbers(f"{dimensions}Q")[::-1]
        code, offset = self.numbers("IQ")
        return name, shape, next(t for t in TYPES.values() if t.code == code), offset


def read_gguf(path: pathlib.Path) -> tuple[dict[str, str | int | float], dict[str, ndarray]]:
    """Metadata and, in float32, the tensors of a file that write_gguf() wrote."""
    content = numpy.memmap(path, numpy.uint8, "r")
    reader = Reader(content)
    start = reader.numbers("4sI")
    if start != (MAGIC, VERSION):
        raise ValueError(f"[gguf] {path}: expected {MAGIC!r} and version {VERSION}, got {start[0]!r} and {start[1]}")
    tensor_count, entry_count = reader.numbers("QQ")
    metadata = dict(reader.entry() for _ in range(entry_count))
    described = [reader.tensor() for _ in range(tensor_count)]
    data = content[aligned(reader.offset):]
    return metadata, {name: kind.decode(data[offset:offset + kind.size(shape)].view(kind.block)).reshape(shape)
                      for name, shape, kind, offset in described}
