"""First part: what this machine has, which wheels it lacks, what its matrix products reach."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from importlib import metadata
from typing import Any

from parts import Row, part_arguments, row, write_rows
from wheels import missing, needed

PACKAGES = (
    *("torch", "triton", "deepspeed", "accelerate", "transformers", "tokenizers", "numpy", "pot"),
    *("webdataset", "numba", "pytest"),
)


def version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def driver() -> str | None:
    """The NVIDIA driver's version, where there is one."""
    if shutil.which("nvidia-smi") is None:
        return None
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    done = subprocess.run(query, capture_output=True, text=True, check=False, timeout=30)
    return done.stdout.splitlines()[0].strip() if done.returncode == 0 and done.stdout else None


def devices() -> dict[str, Any]:
    """CUDA devices as torch sees them; of a machine without, its processor."""
    import torch

    if not torch.cuda.is_available():
        return {"device": "cpu", "devices": [], "processor": platform.processor()}
    found = [torch.cuda.get_device_properties(n) for n in range(torch.cuda.device_count())]
    return {
        "device": found[0].name,
        "devices": [
            {
                "name": part.name,
                "memory_gib": round(part.total_memory / 2**30, 1),
                "multiprocessors": part.multi_processor_count,
                "capability": f"{part.major}.{part.minor}",
            }
            for part in found
        ],
        "cuda": torch.version.cuda,
        "nccl": ".".join(map(str, torch.cuda.nccl.version())),
        "bfloat16": torch.cuda.is_bf16_supported(),
    }


def products(case: str, device: str) -> list[Row]:
    """Rates of matrix products against those that the vendor states."""
    from rates import peak, product_rate

    rows = []
    on_gpu = device != "cpu"
    for precision in ("bfloat16", "tf32", "float32") if on_gpu else ("bfloat16", "float32"):
        reached = product_rate(precision, seconds=1.0 if on_gpu else 0.2)
        stated = peak(device, precision) if on_gpu else None
        known = stated is not None and stated.source == "stated"
        rows.append(
            row(
                case,
                f"matrix product in {precision}, 10^12 operations a second",
                reached / 1e12,
                "stated peak",
                stated.rate / 1e12 if stated is not None and known else None,
            )
        )
    return rows


def main() -> None:
    """Write the environment and its rows."""
    options = part_arguments(__doc__).parse_args()
    lacking = missing()
    environment: dict[str, Any] = {
        "python": platform.python_version(),
        "system": platform.platform(),
        "cores": len(os.sched_getaffinity(0)),
        "driver": driver(),
        "packages": {name: version(name) for name in PACKAGES},
        "missing": lacking,
    }
    count = len(needed())
    met = count - len(lacking)
    rows = [
        row(options.case, "packages that serve", met, "needed", count, target=1.0, met=not lacking)
    ]
    write_rows(options.output, rows, environment=environment)
    environment |= devices()  # Needs torch: what stands above is written without.
    rows += products(options.case, environment["device"])
    write_rows(options.output, rows, environment=environment)
    if lacking:
        print("missing, for `launch/gpu_check/wheels.py` to carry here:", *lacking, sep="\n  ")


if __name__ == "__main__":
    main()
