"""Converts a ZeRO checkpoint for another number of processes (`convert`), by DeepSpeed's tools.

``python -m distill.checkpoints.universal CHECKPOINT OUTPUT`` converts one; `convert` does so in a
process of its own, so that the training process keeps its memory and its loaders strict.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from pathlib import Path

from distill.checkpoints.loading import weights_only_loading
from distill.errors import InputError

#: Folder and tag under which Accelerate has the engine's files.
ENGINE_TAG = "pytorch_model"


def convert(checkpoint: Path, output: Path) -> None:
    """Write `output`, which loads like `checkpoint` with any number of ranks; call it on one.

    Weights and optimizer state are merged from the ranks' partitions and stay bit-equal; what is
    not the engine's (random states, custom objects) is linked to.

    Raises:
        InputError: the checkpoint cannot be converted.
    """
    shutil.rmtree(output, ignore_errors=True)
    output.mkdir(parents=True)
    command = [sys.executable, "-m", "distill.checkpoints.universal", str(checkpoint), str(output)]
    root = str(Path(__file__).resolve().parents[2])
    paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
    # Alone in its world, whatever launched this process.
    hidden = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
    environment = {name: value for name, value in os.environ.items() if name not in hidden}
    environment["PYTHONPATH"] = os.pathsep.join(paths)
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        shutil.rmtree(output, ignore_errors=True)
        lines = result.stderr.strip().splitlines() or ["no message"]
        raise InputError(
            f"{checkpoint}: {lines[-1]}",
            "a checkpoint that DeepSpeed can convert to another number of processes",
            "go on with the number that wrote it, or start a new run with name=",
        )
    for path in checkpoint.iterdir():
        if path.name != ENGINE_TAG:
            (output / path.name).symlink_to(path.resolve())


def _main() -> None:
    from deepspeed.checkpoint import ds_to_universal

    checkpoint, output = (Path(argument) for argument in sys.argv[1:])
    options = argparse.Namespace(
        input_folder=str(checkpoint / ENGINE_TAG),
        output_folder=str(output / ENGINE_TAG),
        num_extract_workers=1,
        num_merge_workers=1,
        keep_temp_folder=False,
        # ZeRO-1/2 files lack what only pipelines need.
        inject_missing_state=True,
        strict=True,
    )
    with weights_only_loading():
        ds_to_universal.main(options)


if __name__ == "__main__":
    _main()
