"""Read the tensors of a TensorFlow checkpoint without TensorFlow.

A checkpoint is an index and a data file. The index is a sorted-string table (the format of LevelDB): blocks of
prefix-compressed keys and a 48-byte footer that points at the block of blocks. Its values are protocol buffers that
say where in the data file a tensor lies.

Sources
    table   https://github.com/google/leveldb/blob/main/doc/table_format.md
    proto   BundleEntryProto in tensorflow/core/protobuf/tensor_bundle.proto
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

FOOTER_BYTES = 48
DTYPES: dict[int, np.dtype[Any]] = {
    1: np.dtype("<f4"),
    3: np.dtype("<i4"),
    9: np.dtype("<i8"),
}  # DT_FLOAT, DT_INT32, DT_INT64
SHAPE_FIELD, OFFSET_FIELD, SIZE_FIELD = 2, 4, 5


def read_checkpoint(prefix: Path) -> dict[str, np.ndarray]:
    """All tensors by name. ``prefix`` is the path without ``.index``, a folder for files named ``.index``.

    Raises:
        ValueError: the index is compressed, truncated, or holds a type of number that is not read here.
    """
    index, data = (_with_suffix(prefix, suffix).read_bytes() for suffix in (".index", ".data-00000-of-00001"))
    position = 0
    footer = index[-FOOTER_BYTES:]
    for _ in range(2):  # the handle of the metadata block: not needed
        _, position = _varint(footer, position)
    offset, position = _varint(footer, position)
    size, _ = _varint(footer, position)
    tensors = {}
    for _, handle in _entries(index, offset, size):
        block_offset, position = _varint(handle, 0)
        block_size, _ = _varint(handle, position)
        for key, value in _entries(index, block_offset, block_size):
            if key:  # the empty key is the header
                tensors[key.decode()] = _tensor(key.decode(), value, data)
    return tensors


def _with_suffix(prefix: Path, suffix: str) -> Path:
    return prefix / suffix if prefix.is_dir() else prefix.with_name(prefix.name + suffix)


def _varint(buffer: bytes, position: int) -> tuple[int, int]:
    """Base-128 integer, least significant group first, and the position after it."""
    value = shift = 0
    while True:
        byte = buffer[position]
        position += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return value, position


def _entries(table: bytes, offset: int, size: int) -> Iterator[tuple[bytes, bytes]]:
    """Keys and values of one block; a key begins with the first bytes of the one before it."""
    if table[offset + size]:
        raise ValueError("the checkpoint's index is compressed, which is not supported")
    block = table[offset : offset + size]
    num_restarts = int.from_bytes(block[-4:], "little")
    end, position, key = len(block) - 4 * (num_restarts + 1), 0, b""
    while position < end:
        shared, position = _varint(block, position)
        key_size, position = _varint(block, position)
        value_size, position = _varint(block, position)
        key = key[:shared] + block[position : position + key_size]
        position += key_size
        yield key, block[position : position + value_size]
        position += value_size


def _fields(message: bytes) -> dict[int, list[int | bytes]]:
    """Fields of a protocol buffer by number."""
    fields: dict[int, list[int | bytes]] = {}
    position = 0
    while position < len(message):
        tag, position = _varint(message, position)
        value: int | bytes
        if tag & 7 == 0:
            value, position = _varint(message, position)
        else:
            if tag & 7 == 2:
                size, position = _varint(message, position)
            else:
                size = {1: 8, 5: 4}[tag & 7]
            value, position = message[position : position + size], position + size
        fields.setdefault(tag >> 3, []).append(value)
    return fields


def _tensor(name: str, entry: bytes, data: bytes) -> np.ndarray:
    fields = _fields(entry)
    number = _integer(fields, 1)
    if number not in DTYPES:
        raise ValueError(f"{name} has TensorFlow type {number}; expected one of {sorted(DTYPES)}")
    dimensions = _fields(bytes(fields[SHAPE_FIELD][0])).get(2, []) if SHAPE_FIELD in fields else []
    shape = [_integer(_fields(bytes(dimension)), 1) for dimension in dimensions]
    offset, size = _integer(fields, OFFSET_FIELD), _integer(fields, SIZE_FIELD)
    if offset + size > len(data):
        raise ValueError(f"{name} lies behind the end of the data file; is it truncated?")
    return np.frombuffer(data[offset : offset + size], DTYPES[number]).reshape(shape).copy()


def _integer(fields: dict[int, list[int | bytes]], number: int) -> int:
    """An integer field; zero where it is left out, as protocol buffers do."""
    value = fields.get(number, [0])[0]
    return value if isinstance(value, int) else int.from_bytes(value, "little")
