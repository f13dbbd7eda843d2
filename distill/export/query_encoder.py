"""Reads a query encoder that ``distill export --onnx`` wrote; needs no torch.

Copy the folder ``onnx/`` (this file is in it) to where queries are answered:

    pip install onnxruntime tokenizers numpy

    from query_encoder import QueryEncoder
    (vectors,) = QueryEncoder("onnx").encode(["mto mrefu zaidi"])  # (N, D), unit vectors

Shapes: B queries, N tokens, D dimension.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from tokenizers import Tokenizer


class QueryEncoder:
    """Encodes queries for documents that the teacher encoded.

    Args:
        folder: what ``--onnx`` wrote.
        int8: take the small model; its vectors differ a little.
        num_threads: of one forward; 0 for as many as there are cores.

    Raises:
        FileNotFoundError: a file is not there.
        ValueError: a file is not as it was written.
    """

    def __init__(self, folder: str | Path, int8: bool = True, num_threads: int = 0) -> None:
        folder = Path(folder)
        model = folder / ("model_int8.onnx" if int8 else "model.onnx")
        if not model.is_file():
            raise FileNotFoundError(model)
        _check_sums(folder, ("query_encoder.json", "tokenizer.json", model.name))
        self._settings: dict[str, Any] = json.loads(
            (folder / "query_encoder.json").read_text(encoding="utf-8")
        )
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._tokenizer.no_padding()
        # The marker takes the place of one token.
        room = self._settings["query_length"] - (self._settings["marker_id"] is not None)
        self._tokenizer.enable_truncation(max_length=room)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = num_threads
        self._session = onnxruntime.InferenceSession(
            str(model), options, providers=["CPUExecutionProvider"]
        )

    def encode(self, queries: Sequence[str]) -> list[NDArray[np.float32]]:
        """(N, D) unit vectors of each query's scoring tokens."""
        if not len(queries):
            return []
        settings, rows = self._settings, [self._ids(query) for query in queries]
        expands = settings["do_query_expansion"]
        width = settings["query_length"] if expands else max(map(len, rows))
        filler = settings["mask_id"] if expands else settings["pad_id"]
        ids_BN = np.full((len(rows), width), filler, dtype=np.int64)
        attends_BN = np.zeros_like(ids_BN)
        for number, row in enumerate(rows):
            ids_BN[number, : len(row)] = row
            attends_BN[number, : len(row)] = 1
        if expands and settings["attend_to_expansion_tokens"]:
            attends_BN[:] = 1
        (vectors_BND,) = self._session.run(
            None, {"input_ids": ids_BN, "attention_mask": attends_BN}
        )
        # Expansions score; padding does not.
        return [
            vectors_ND[: width if expands else len(row)]
            for vectors_ND, row in zip(vectors_BND, rows, strict=True)
        ]

    def _ids(self, query: str) -> list[int]:
        ids = self._tokenizer.encode(self._settings["query_prompt"] + query).ids
        marker = self._settings["marker_id"]
        return ids if marker is None else [*ids[:1], marker, *ids[1:]]


def _check_sums(folder: Path, names: Sequence[str]) -> None:
    sums = folder / "SHA256SUMS"
    noted = sums.read_text(encoding="utf-8").splitlines() if sums.is_file() else []
    for name in names if noted else ():
        if f"{hashlib.sha256((folder / name).read_bytes()).hexdigest()}  {name}" not in noted:
            raise ValueError(f"{folder / name}: not as it was written; copy the folder again")
