"""A fast tokenizer from a unigram vocabulary and a per-character map.

The pipeline is that of XLM-RoBERTa: characters are normalised, words are split at white space
and marked with U+2581, and the most probable segmentation is taken. `tokenizers` has one fast
step for a character map, sentencepiece's "precompiled" one: a double-array trie from UTF-8 bytes
to an offset into NUL-terminated replacements. `compile_character_map` writes that form, so the
tokenizer is a plain ``tokenizer.json`` without code of ours.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping

from packed_model import Vocabulary
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

MASK_TOKEN = "<mask>"
META_SPACE = "▁"
#: A unit of the double array: bits 0–7 label, 8 "has a value", 9 "offset times 256", 10–30 offset.
_HAS_VALUE = 1 << 8
_OFFSET_SHIFT = 10
_IS_VALUE = 1 << 31


class _DoubleArray:
    """A byte trie in one array: the child of base b under byte c is unit b XOR c, a value is b.

    Two nodes never share a base, since a lookup tells its own children from those of other
    nodes by their label alone.
    """

    def __init__(self, trie: dict) -> None:
        self.units: dict[int, int] = {}
        self.bases: set[int] = set()
        self.lowest_free = 1
        self.units[0] = 0
        self._place(trie, 0, 0)

    def _find_base(self, labels: list[int]) -> int:
        while self.lowest_free in self.units:
            self.lowest_free += 1
        base = self.lowest_free ^ labels[0]
        candidate = self.lowest_free
        while base in self.bases or any(base ^ label in self.units for label in labels):
            candidate += 1
            base = candidate ^ labels[0]
        return base

    def _place(self, node: dict, position: int, label: int) -> None:
        labels = sorted(byte for byte in node if byte is not None)
        base = self._find_base([0, *labels] if None in node or not labels else labels)
        self.bases.add(base)
        has_value = _HAS_VALUE if None in node else 0
        self.units[position] = label | has_value | (position ^ base) << _OFFSET_SHIFT
        if None in node:
            self.units[base] = _IS_VALUE | node[None]
        for byte in labels:  # all reserved before any grandchild looks for room
            self.units[base ^ byte] = byte
        for byte in labels:
            self._place(node[byte], base ^ byte, byte)

    def to_bytes(self) -> bytes:
        # A lookup may touch any unit of a base's block of 256, so the last block is whole.
        num_units = (max(*self.units, *self.bases) | 0xFF) + 1
        return struct.pack(f"<{num_units}I", *(self.units.get(i, 0) for i in range(num_units)))


def compile_character_map(character_map: Mapping[str, str]) -> bytes:
    """The map in sentencepiece's precompiled form: trie bytes (uint32), trie, replacements.

    Args:
        character_map: character → replacement; an empty replacement removes the character.
    """
    replacements = bytearray()
    trie: dict = {}
    for character, replacement in sorted(character_map.items()):
        node = trie
        for byte in character.encode("utf-8"):
            node = node.setdefault(byte, {})
        node[None] = len(replacements)
        replacements += replacement.encode("utf-8") + b"\0"
    array = _DoubleArray(trie).to_bytes()
    return struct.pack("<I", len(array)) + array + bytes(replacements)


def build_tokenizer(vocabulary: Vocabulary, max_length: int) -> PreTrainedTokenizerFast:
    """The tokenizer as transformers saves and loads it, with <s> text </s> around each text.

    NFC stands before the character map, because the map knows single code points only and the
    composed letter and its decomposed spelling must meet the same entry.

    Args:
        vocabulary: pieces, scores and the character map.
        max_length: positions of the model, special tokens included.
    """
    piece = [text for text, _ in vocabulary.pieces]
    bos, eos = piece[vocabulary.bos_id], piece[vocabulary.eos_id]
    tokenizer = Tokenizer(models.Unigram(vocabulary.pieces, vocabulary.unk_id, False))
    tokenizer.normalizer = normalizers.Sequence(
        [
            normalizers.NFC(),
            normalizers.Precompiled(compile_character_map(vocabulary.character_map)),
            normalizers.Replace(Regex(" {2,}"), " "),
        ]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.WhitespaceSplit(),
            pre_tokenizers.Metaspace(replacement=META_SPACE, prepend_scheme="always"),
        ]
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{bos} $A {eos}",
        pair=f"{bos} $A {eos} {eos} $B {eos}",
        special_tokens=[(bos, vocabulary.bos_id), (eos, vocabulary.eos_id)],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=bos,
        eos_token=eos,
        cls_token=bos,
        sep_token=eos,
        unk_token=piece[vocabulary.unk_id],
        pad_token=piece[vocabulary.pad_id],
        mask_token=MASK_TOKEN,
        model_max_length=max_length,
        padding_side="right",
        clean_up_tokenization_spaces=False,
    )
