"""Reads a SentencePiece model: the few fields of its protobuf that say how to cut text into pieces."""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from model.config import CheckpointError

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6

_UNIGRAM, _BPE = 1, 2
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


class Piece(NamedTuple):
    """One entry of the vocabulary; its place in the list is its id."""

    text: str
    score: float
    type: int


@dataclass(frozen=True)
class SentencePieceModel:
    """`charsmap` is the compiled table of replacements that normalizes text, empty for none."""

    pieces: list[Piece]
    kind: Literal["unigram", "bpe"]
    unk_id: int
    byte_fallback: bool
    charsmap: bytes
    add_dummy_prefix: bool
    remove_extra_whitespaces: bool
    escape_whitespaces: bool

    @classmethod
    def read(cls, file: Path) -> "SentencePieceModel":
        """Raises CheckpointError that names the file."""
        try:
            return _parse(file.read_bytes())
        except FileNotFoundError:
            raise CheckpointError(f"{file} is missing, and so is tokenizer.json") from None
        except (OSError, ValueError, IndexError, struct.error) as fault:
            raise CheckpointError(f"{file}: not a SentencePiece model: {fault}") from None


def _parse(data: bytes) -> SentencePieceModel:
    # field numbers are those of sentencepiece_model.proto
    pieces: list[Piece] = []
    trainer: dict[int, int | bytes] = {}
    normalizer: dict[int, int | bytes] = {}
    for number, value in _fields(data):
        if number == 1:
            pieces.append(_piece(_bytes(value)))
        elif number == 2:
            trainer.update(_fields(_bytes(value)))
        elif number == 3:
            normalizer.update(_fields(_bytes(value)))
    kind = _int(trainer.get(3, _UNIGRAM))
    if kind not in (_UNIGRAM, _BPE):
        raise ValueError(f"its kind is {kind}, neither unigram (1) nor BPE (2)")
    unk_id = _int(trainer.get(40, 0))
    if not pieces or not 0 <= unk_id < len(pieces):
        raise ValueError(f"{len(pieces)} pieces, and {unk_id} as the unknown one")
    return SentencePieceModel(
        pieces=pieces,
        kind="unigram" if kind == _UNIGRAM else "bpe",
        unk_id=unk_id,
        byte_fallback=bool(trainer.get(35, False)),
        charsmap=_charsmap(_bytes(normalizer.get(2, b""))),
        add_dummy_prefix=bool(normalizer.get(3, True)),
        remove_extra_whitespaces=bool(normalizer.get(4, True)),
        escape_whitespaces=bool(normalizer.get(5, True)),
    )


def _piece(data: bytes) -> Piece:
    fields = dict(_fields(data))
    (score,) = struct.unpack("<f", _bytes(fields.get(2, b"\0\0\0\0")))
    return Piece(_bytes(fields.get(1, b"")).decode("utf-8"), score, _int(fields.get(3, NORMAL)))


def _charsmap(table: bytes) -> bytes:
    """As it is. ValueError for a table in which the library would run out of bounds: it ends the process for that.

    The size of a trie in bytes, the trie, then the replacements, each ended by a zero byte. A unit of the trie leads
    to a block of 256, one for each next byte, and a bit says that a replacement begins where the block's head says.
    """
    if not table:
        return b""
    (trie_size,) = struct.unpack_from("<I", table)
    texts = np.frombuffer(table, np.uint8)[4 + trie_size :]
    if not trie_size or trie_size % 1024 or not texts.size or texts[-1]:
        raise ValueError("its table of replacements is cut off")
    texts.tobytes().decode("utf-8")
    units = np.frombuffer(table, "<u4", trie_size // 4, offset=4)
    inner = np.flatnonzero(units < 1 << 31)
    offsets = (units[inner] >> 10).astype(np.int64) << ((units[inner] & 512) >> 6)
    blocks = inner ^ offsets
    if blocks.max(initial=0) >= units.size:
        raise ValueError("its table of replacements leads out of itself")
    starts = units[blocks[units[inner] & 256 != 0]].astype(np.int64) & 0x7FFFFFFF
    if starts.max(initial=0) >= texts.size or texts[starts[starts > 0] - 1].any():
        raise ValueError("its table of replacements names one that is not there")
    return table


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Every field of a message as (number, value); fixed-width numbers come as their bytes."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        number, wire = key >> 3, key & 7
        if wire == _VARINT:
            value, at = _varint(data, at)
            yield number, value
            continue
        if wire == _BYTES:
            size, at = _varint(data, at)
        elif wire in (_FIXED32, _FIXED64):
            size = 4 if wire == _FIXED32 else 8
        else:
            raise ValueError(f"wire type {wire} at byte {at}")
        if size > len(data) - at:
            raise ValueError(f"field {number} at byte {at} is cut off")
        yield number, data[at : at + size]
        at += size


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """The number and where it ends; negative ones fill 64 bits."""
    value = 0
    for shift in range(0, 70, 7):
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return (value if value < 1 << 63 else value - (1 << 64)), at
    raise ValueError(f"a number of over ten bytes before byte {at}")


def _bytes(value: int | bytes) -> bytes:
    if isinstance(value, int):
        raise ValueError("a number where bytes should be")
    return value


def _int(value: int | bytes) -> int:
    if isinstance(value, bytes):
        raise ValueError("bytes where a number should be")
    return value
