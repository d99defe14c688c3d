"""A small file that announces much is refused before anything is made for what it announces."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from hedgebench.adapters.backbone import CheckpointError
from hedgebench.adapters.gguf.counts import check_counts

MANY = 2**40
KEY = struct.pack("<Q1s", 1, b"k")
ARRAY, UINT8, STRING = struct.pack("<I", 9), struct.pack("<I", 0), struct.pack("<I", 8)


def header(tensors: int, entries: int, version: int = 3) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", version, tensors, entries)


DAMAGED = {
    "another format": (b"GGML" + bytes(100), "does not begin with GGUF"),
    "an unknown version": (header(0, 0, 9), "it has version 9; known are 2 and 3"),
    "nothing": (b"", "ends within its header"),
    "a cut header": (header(0, 0)[:14], "ends within its header"),
    "many entries": (header(0, MANY), "announces 1,099,511,627,776 entries"),
    "many tensors": (header(MANY, 0), "announces 1,099,511,627,776 tensors"),
    "a long key": (header(0, 1) + struct.pack("<Q", MANY) + bytes(16), "announces 1,099,511,627,776 characters"),
    "many values": (header(0, 1) + KEY + ARRAY + UINT8 + struct.pack("<Q", MANY), "1,099,511,627,776 values"),
    "many texts": (header(0, 1) + KEY + ARRAY + STRING + struct.pack("<Q", 2**20), "1,048,576 values"),
    "an unknown type": (header(0, 1) + KEY + struct.pack("<I", 77), "unknown type 77"),
    "arrays in arrays": (header(0, 1) + KEY + ARRAY + (ARRAY + struct.pack("<Q", 1)) * 9, "unknown type 9"),
    "many dimensions": (header(1, 0) + KEY + struct.pack("<I", 2**31), "2,147,483,648 dimensions"),
}


@pytest.mark.parametrize("damage", DAMAGED)
def test_what_a_file_cannot_hold_is_refused_with_its_count(damage: str, tmp_path: Path) -> None:
    content, told = DAMAGED[damage]
    file = tmp_path / "a.gguf"
    file.write_bytes(content + bytes(4096) * damage.startswith("many"))
    with pytest.raises(CheckpointError, match=told):
        check_counts(file)


def test_a_whole_header_is_walked_through(tmp_path: Path) -> None:
    texts = KEY + ARRAY + STRING + struct.pack("<Q", 2) + KEY + KEY
    numbers = KEY + ARRAY + UINT8 + struct.pack("<Q3s", 3, b"abc")
    tensor = KEY + struct.pack("<IQQIQ", 2, 4, 4, 0, 0)
    file = tmp_path / "a.gguf"
    file.write_bytes(header(1, 2) + texts + numbers + tensor)
    check_counts(file)
