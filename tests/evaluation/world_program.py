"""What each rank of test_evaluation_worlds.py does: evaluate with a replica, then under ZeRO-3.

Usage (through the launcher): world_program.py COLLECTION OUTPUT
"""

from __future__ import annotations

import importlib.util
import json
import sys
from datetime import timedelta
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import DeepSpeedPlugin, InitProcessGroupKwargs

from distill.distributed import collectives
from distill.embedding.encoding import EvaluationStoppedError, encode_texts
from distill.errors import InputError
from distill.evaluation.collection_loading import load_collection
from distill.evaluation.evaluate import evaluate_systems
from distill.evaluation.systems import System, index_documents


def load_support():
    """The tiny encoder and tokenizer of conftest.py, which no package holds."""
    path = Path(__file__).with_name("conftest.py")
    specification = importlib.util.spec_from_file_location("evaluation_conftest", path)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def evaluate(encode, text, collection, output, world_size, zero_stage):
    index = index_documents(
        collection,
        encode,
        text,
        batch_size=2,
        cache_directory=output / "cache",
        model_key=f"tiny {world_size} {zero_stage}",
    )
    systems = [
        System("teacher_zero_shot", encode, text, frozen=True),
        System("teacher_english", encode, text, english=True, frozen=True),
    ]
    arguments = {"world_size": world_size, "zero_stage": zero_stage, "batch_size": 2}
    evaluate_systems(index, systems, output, step=0, **arguments)
    return evaluate_systems(index, systems, output, step=5, **arguments)


def zero3_accelerator():
    import deepspeed.ops

    # DeepSpeed would compile a shared-memory collective; gloo serves.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    config = {
        "zero_optimization": {"stage": 3, "stage3_param_persistence_threshold": 0},
        "train_micro_batch_size_per_gpu": 1,
    }
    group = InitProcessGroupKwargs(backend="gloo", timeout=timedelta(seconds=60))
    return Accelerator(
        deepspeed_plugins=DeepSpeedPlugin(hf_ds_config=config), kwargs_handlers=[group]
    )


def outcome(work):
    try:
        work()
    except (InputError, EvaluationStoppedError) as error:
        return type(error).__name__
    return "finished"


def main(collection_path: Path, output: Path) -> None:
    torch.set_num_threads(1)
    accelerator = zero3_accelerator()
    rank = collectives.rank()
    support = load_support()
    text, encoder = support.build_text_encoder(), support.build_encoder()
    collection = load_collection(collection_path)

    def encode(tokens):
        return encoder(tokens.input_ids, tokens.attention_mask)

    report = {"world_size": collectives.world_size()}
    report["replica"] = evaluate(encode, text, collection, output / "replica", 2, 0)
    texts = list(collection.documents.values())
    report["stop"] = outcome(
        lambda: encode_texts(encode, text.documents, texts, 2, should_stop=lambda: rank == 1)
    )
    # Only rank 0 meets the error: its cache cannot be made, because a file is in the way.
    blocked = output / "file"
    if rank == 0:
        blocked.write_text("")
    report["error"] = outcome(
        lambda: index_documents(collection, encode, text, cache_directory=blocked, model_key="tiny")
    )
    engine = accelerator.prepare(support.build_encoder())
    engine.eval()
    resident = sum(parameter.ds_tensor.numel() for parameter in engine.module.parameters())
    total = sum(parameter.ds_numel for parameter in engine.module.parameters())
    report["resident_share"] = resident / total
    report["zero3"] = evaluate(
        lambda tokens: engine(tokens.input_ids, tokens.attention_mask),
        text,
        collection,
        output / "zero3",
        2,
        3,
    )
    (output / f"rank-{rank}.json").write_text(json.dumps(report))
    collectives.shut_down()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
