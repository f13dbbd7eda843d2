"""Exports the query encoder as ONNX in a folder that needs no torch: `write_onnx`.

In float32 and int8, for any number of texts of any length. Beside the models lie the tokenizer,
what surrounds a query, and ``query_encoder.py``, which reads them.

Shapes: B texts, N tokens, D dimension.
"""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from distill.encoders.late_interaction import LateInteractionEncoder
from distill.encoders.sums import write_sums
from distill.encoders.text import TextEncoder
from distill.errors import InputError
from distill.export.check import SAMPLE_TEXTS, ExportCheckError

_MISSING = "pip install onnx onnxruntime onnxscript"
#: Greatest difference of a coordinate of a unit vector in float32.
_TOLERANCE = 1e-4


class _Graph(nn.Module):
    """What is traced: positional arguments, one output (B, N, D)."""

    def __init__(self, encoder: LateInteractionEncoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return self.encoder(input_ids, attention_mask)


def require_onnx() -> None:
    """Refuse early where the optional packages are not installed.

    Raises:
        InputError: a package is missing.
    """
    for name in ("onnx", "onnxruntime", "onnxscript"):
        try:
            __import__(name)
        except ImportError as error:
            raise InputError(f"--onnx: no package {name}", "the package", _MISSING) from error


def write_onnx(output: Path, encoder: LateInteractionEncoder, text: TextEncoder) -> list[str]:
    """Write ``onnx/model.onnx`` and ``onnx/model_int8.onnx`` and compare both with torch.

    The graph takes ``input_ids`` and ``attention_mask`` (B, N) int64 as `TextEncoder.queries` makes
    them, and gives ``token_embeddings`` (B, N, D), unit vectors in float32.

    Returns:
        One line per file with its deviation.

    Raises:
        ExportCheckError: the float32 graph deviates from torch by more than 1e-4.
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic

    folder = output / "onnx"
    folder.mkdir(exist_ok=True)
    path, small = folder / "model.onnx", folder / "model_int8.onnx"
    graph = _Graph(copy.deepcopy(encoder).float().cpu()).eval()
    # Eager attention traces to plain matrix products, which int8 quantises and every runtime has.
    graph.encoder.backbone.set_attn_implementation("eager")  # type: ignore[operator]
    tokens = text.queries(["one query", "another query, a little longer"])
    batch, length = torch.export.Dim("batch"), torch.export.Dim("length")
    torch.onnx.export(
        graph,
        (tokens.input_ids, tokens.attention_mask),
        path,
        input_names=["input_ids", "attention_mask"],
        output_names=["token_embeddings"],
        dynamic_shapes=({0: batch, 1: length}, {0: batch, 1: length}),
        dynamo=True,
        external_data=False,
        verbose=False,
    )
    # A scale for each column: with one for a whole matrix, AP fell by .011 (seven languages). And
    # unsigned: signed products overflow on processors without VNNI.
    quantize_dynamic(path, small, weight_type=QuantType.QUInt8, per_channel=True)
    _write_reader(folder, text)
    write_sums(folder)
    exact = _deviation(path, encoder, text)
    if exact[0] > _TOLERANCE:
        raise ExportCheckError(f"{path}: coordinates deviate from torch by {exact[0]:.1e}")
    rounded = _deviation(small, encoder, text)
    return [
        f"{path.name}: {_mebibytes(path)}, greatest difference of a coordinate {exact[0]:.1e}",
        f"{small.name}: {_mebibytes(small)}, least cosine of a token with torch's {rounded[1]:.3f}",
    ]


def _write_reader(folder: Path, text: TextEncoder) -> None:
    """Tokenizer, settings and program, so that the folder is all that a server needs."""
    settings = text.settings
    backend = text.tokenizer.backend_tokenizer
    backend.no_truncation()
    backend.no_padding()
    backend.save(str(folder / "tokenizer.json"))
    record = {
        "query_prompt": settings.query_prompt,
        "query_length": settings.query_length,
        "marker_id": text.query_marker,
        "pad_id": text.tokenizer.pad_token_id,
        "mask_id": text.tokenizer.mask_token_id,
        "do_query_expansion": settings.do_query_expansion,
        "attend_to_expansion_tokens": settings.attend_to_expansion_tokens,
    }
    (folder / "query_encoder.json").write_text(json.dumps(record, indent=2) + "\n")
    shutil.copy(Path(__file__).with_name("query_encoder.py"), folder / "query_encoder.py")


def _mebibytes(path: Path) -> str:
    return f"{path.stat().st_size / (1 << 20):.0f} MiB"


def _deviation(
    path: Path, encoder: LateInteractionEncoder, text: TextEncoder
) -> tuple[float, float]:
    """(greatest difference of a coordinate, least cosine) over queries of several lengths."""
    import onnxruntime

    session: Any = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    greatest, least = 0.0, 1.0
    texts = [sample for sample in SAMPLE_TEXTS if sample]
    for batch in ([texts[0]], texts):
        tokens = text.queries(batch)
        with torch.no_grad():
            ours = encoder.eval()(tokens.input_ids, tokens.attention_mask)
        inputs = {
            "input_ids": tokens.input_ids.numpy(),
            "attention_mask": tokens.attention_mask.numpy(),
        }
        found = torch.from_numpy(np.asarray(session.run(None, inputs)[0]))
        mask = tokens.scoring_mask
        greatest = max(greatest, (ours - found)[mask].abs().max().item())
        cosines = functional.cosine_similarity(ours[mask], found[mask], dim=-1)
        least = min(least, cosines.min().item())
    return greatest, least
