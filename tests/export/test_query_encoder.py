"""The folder that answers queries without torch: its vectors are the student's."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch

from distill.encoders.directory import load_encoder, save_encoder
from distill.encoders.settings import TextSettings
from distill.export import __main__ as command
from distill.export.onnx_files import write_onnx

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        find_spec("onnxscript") is None or find_spec("onnxruntime") is None,
        reason="needs the onnx extra",
    ),
]
READER = Path(command.__file__).with_name("query_encoder.py")
QUERIES = ["", "swader", "swader swarevir and the golden market " * 4, "(red); blue", "nini?"]
#: Reads the folder as a server would: no project, no torch.
PROGRAM = """
import json, sys
sys.path.insert(0, sys.argv[1])
from query_encoder import QueryEncoder
encoder = QueryEncoder(sys.argv[1], int8=False, num_threads=1)
queries = json.loads(sys.argv[2])
together = encoder.encode(queries)
alone = [encoder.encode([query])[0] for query in queries]
assert encoder.encode([]) == []
assert not {"torch", "transformers", "distill"} & set(sys.modules)
print(json.dumps([[row.tolist() for row in rows] for rows in (together, alone)]))
"""


def settings(**changes) -> TextSettings:
    return TextSettings(query_length=12, document_length=20, **changes)


@pytest.mark.parametrize(
    "changes",
    [
        {"query_prefix": "", "document_prefix": "", "query_prompt": "the query "},
        {"do_query_expansion": True},
        {"do_query_expansion": True, "attend_to_expansion_tokens": True},
    ],
)
def test_the_vectors_are_the_students(changes, tiny_world, tmp_path):
    encoder, text = load_encoder(
        str(tiny_world.backbone), settings=settings(**changes), embedding_dimension=16
    )
    save_encoder(tmp_path / "student", encoder, text)
    write_onnx(tmp_path, encoder.eval(), text)
    done = subprocess.run(
        [sys.executable, "-P", "-c", PROGRAM, tmp_path / "onnx", json.dumps(QUERIES)],
        cwd=tmp_path,
        env={"PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    # A fresh load: what the export has done to its tokenizer must not matter.
    encoder, text = load_encoder(str(tmp_path / "student"))
    for found in json.loads(done.stdout):
        for query, vectors in zip(QUERIES, found, strict=True):
            tokens = text.queries([query])
            with torch.no_grad():
                expected = encoder.eval()(tokens.input_ids, tokens.attention_mask)
            expected = expected[0][tokens.scoring_mask[0]].numpy()
            np.testing.assert_allclose(np.array(vectors), expected, rtol=0, atol=1e-4)


def test_the_reader_is_short():
    assert len(READER.read_text().splitlines()) <= 100
