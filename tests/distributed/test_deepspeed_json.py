"""DeepSpeed's JSON as people write it: read, or refused in a line before processes connect."""

from __future__ import annotations

import json

import pytest
import torch

from distill.distributed.deepspeed_json import (
    BatchShape,
    check_precision,
    fill_deepspeed_json,
    read_deepspeed_json,
)
from distill.errors import InputError

SHAPE = BatchShape(8, 2, 1.0)
GATHER = "stage3_gather_16bit_weights_on_model_save"


@pytest.fixture
def written(tmp_path):
    def write(content) -> object:
        path = tmp_path / "engine.json"
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return path

    return write


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"zero_optimization": {"stage": 2}} // mine', "JSON, without comments"),
        ("[" * 100_000, "JSON, without comments"),
        ([{"zero_optimization": {"stage": 2}}], "0, 1, 2 or 3"),
        ({"zero_optimization": [{"stage": 2}]}, "0, 1, 2 or 3"),
        ({"zero_optimization": {"stage": "2"}}, "stage '2'"),
        ({"zero_optimization": {"stage": True}}, "stage True"),
        ({"zero_optimization": {"stage": 4}}, "stage 4"),
        ({"zero_optimization": {}}, "stage None"),
        (
            {"zero_optimization": {"stage": 2}, "optimizer": {"type": "AdamW"}},
            "remove optimizer from the JSON",
        ),
        ({"zero_optimization": {"stage": 2}, "train_batch_size": 64}, "remove train_batch_size"),
        (
            {"zero_optimization": {"stage": 2, "reduce_bucket_size": "auto"}},
            'zero_optimization.reduce_bucket_size "auto"',
        ),
        ({"zero_optimization": {"stage": 1}, "bf16": {"enabled": "auto"}}, 'bf16.enabled "auto"'),
        ({"zero_optimization": {"stage": 3, GATHER: False}}, "cannot be written at the end"),
    ],
)
def test_what_would_fail_later_is_refused(written, content, message):
    with pytest.raises(InputError, match=message.replace("[", r"\[")):
        read_deepspeed_json(written(content))


def test_a_file_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"none\.json: No such file"):
        read_deepspeed_json(tmp_path / "none.json")


def test_another_value_than_the_recipes_is_refused(written):
    path = written({"zero_optimization": {"stage": 2}, "gradient_clipping": 0.5})
    with pytest.raises(InputError, match=r"gradient_clipping 0.5, expected the recipe's 1.0"):
        fill_deepspeed_json(read_deepspeed_json(path), SHAPE, path)


def test_the_recipes_values_may_be_left_to_it(written):
    content = {
        "zero_optimization": {"stage": 3},
        "train_batch_size": "auto",
        "gradient_accumulation_steps": "auto",
        "optimizer": "auto",
    }
    path = written(content)
    config = read_deepspeed_json(path)
    filled = fill_deepspeed_json(config, SHAPE, path)
    assert config == read_deepspeed_json(path)
    assert filled["gradient_accumulation_steps"] == 2
    assert "train_batch_size" not in filled
    assert "optimizer" not in filled
    # Without it no student could be written.
    assert filled["zero_optimization"][GATHER] is True


@pytest.mark.skipif(torch.cuda.is_available(), reason="fp16 is computed here")
def test_fp16_without_cuda_is_refused(written):
    path = written({"zero_optimization": {"stage": 2}, "fp16": {"enabled": True}})
    with pytest.raises(InputError, match="fp16 on a machine without CUDA"):
        check_precision(path)


def test_two_precisions_are_refused(written):
    both = {"fp16": {"enabled": True}, "bf16": {"enabled": True}}
    with pytest.raises(InputError, match="one of them"):
        check_precision(written({"zero_optimization": {"stage": 2}, **both}))
