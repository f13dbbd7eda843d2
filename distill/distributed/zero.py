"""Starts processes (`start_accelerator`) and wraps models into engines (`prepare`).

The student trains in one DeepSpeed engine (ZeRO 0 to 3); the frozen teacher is partitioned in a
second one (ZeRO-3). Without DeepSpeed the student is wrapped by DDP, or not at all on one process.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DeepSpeedPlugin, DistributedType, InitProcessGroupKwargs
from torch import Tensor, nn

from distill.distributed import collectives
from distill.distributed.deepspeed_json import (
    BatchShape,
    check_partition,
    check_precision,
    fill_deepspeed_json,
    json_precision,
    read_deepspeed_json,
)
from distill.distributed.environment import check_environment, uses_deepspeed
from distill.distributed.settings import LaunchSettings
from distill.distributed.tables import whole_tables
from distill.encoders.late_interaction import LateInteractionEncoder
from distill.errors import InputError
from distill.survival.divergence import refuse_non_finite_steps

_ADVICE = "accelerate launch --config_file accelerate_config.yaml distill/train.py RECIPE.yaml"


@dataclass
class Engines:
    """A prepared run: callables of both encoders and what steps the student.

    Attributes:
        student: trains; call it like `LateInteractionEncoder`.
        teacher: frozen, in evaluation mode.
        optimizer: steps the student; a no-op outside gradient accumulation's last step.
        zero_stage: of the student, None without DeepSpeed.
    """

    student: nn.Module
    teacher: nn.Module
    optimizer: Any
    zero_stage: int | None

    @property
    def scales_loss(self) -> bool:
        """Whether the student's losses are scaled, as fp16 needs it; bf16 does not."""
        return self.zero_stage is not None and bool(self.student.fp16_enabled())  # type: ignore[operator]


def check_world(launch: LaunchSettings) -> None:
    """Compare the launcher's number of processes with the recipe's, before they connect.

    Raises:
        InputError: another number of processes than the recipe's, DeepSpeed without JSONs, or a
            launch that accelerate would silently turn into lone processes.
    """
    check_environment()
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    if launch.num_processes is not None and launch.num_processes != world_size:
        raise InputError(
            f"launched with {world_size} processes",
            f"launch.num_processes ({launch.num_processes})",
            f"launch with --num_processes {launch.num_processes} or set "
            f"launch.num_processes={world_size}",
        )
    if uses_deepspeed():
        if launch.teacher_precision != "float32":
            raise InputError(
                f"launch.teacher_precision: {launch.teacher_precision} with DeepSpeed",
                "the precision in the teacher's JSON alone",
                "set launch.teacher_deepspeed=launch/deepspeed/teacher_zero3_bf16.json",
            )
        if os.environ.get("ACCELERATE_USE_CPU", "false").lower() == "true":
            raise InputError(
                "launched with DeepSpeed and --cpu (or use_cpu)",
                "one of them: accelerate drops DeepSpeed without a word",
                f"run {_ADVICE}",
            )
        for name in ("student_deepspeed", "teacher_deepspeed"):
            path = getattr(launch, name)
            if path is None:
                raise InputError(
                    f"launch.{name}: not set, but launched with DeepSpeed",
                    "a DeepSpeed JSON",
                    f"set launch.{name}=launch/deepspeed/"
                    f"{name.split('_', maxsplit=1)[0]}_zero3.json",
                )
            check_precision(path)
            check_partition(path, world_size)


def student_is_partitioned(launch: LaunchSettings) -> bool:
    """Whether the student's engine is ZeRO-3, which partitions its weights as they load."""
    if not uses_deepspeed() or launch.student_deepspeed is None:
        return False
    return read_deepspeed_json(launch.student_deepspeed)["zero_optimization"]["stage"] == 3


def teacher_precision(launch: LaunchSettings) -> torch.dtype | None:
    """What the frozen teacher computes in: by its JSON, or `launch.teacher_precision`.

    None for an engine of float32, which takes weights of no other precision.
    """
    if not uses_deepspeed() or launch.teacher_deepspeed is None:
        dtype: torch.dtype = getattr(torch, launch.teacher_precision)
        return dtype
    precision = json_precision(read_deepspeed_json(launch.teacher_deepspeed))
    return None if precision == torch.float32 else precision


def start_accelerator(launch: LaunchSettings, shape: BatchShape) -> Accelerator:
    """Make the process group and the Accelerator. Every rank calls it once.

    Raises:
        InputError: the processes that connected are not those launched.
    """
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    local_world_size = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    threads = launch.threads_per_process or max(1, (cores or 1) // local_world_size)
    torch.set_num_threads(threads)
    cpu = not torch.cuda.is_available()
    if not cpu:
        torch.set_float32_matmul_precision("high" if launch.tf32 else "highest")
    handlers: list[Any] = []
    if world_size > 1:
        device_type, timeout = "cpu" if cpu else "cuda", timedelta(seconds=launch.timeout_seconds)
        collectives.connect(device_type, timeout)
        # On CPU each rank would take itself for a world of one unless the backend is named.
        backend = collectives.backend_of(device_type)
        handlers.append(InitProcessGroupKwargs(backend=backend, timeout=timeout))
    plugins = None
    if uses_deepspeed():
        if cpu:
            _skip_shared_memory_build()
        plugins = _plugins(launch, shape)
    accelerator = Accelerator(
        # Otherwise ranks on CPU connect but wrap no model in DDP, and each trains for itself. With
        # DeepSpeed the same flag would drop DeepSpeed.
        cpu=cpu and world_size > 1 and plugins is None,
        deepspeed_plugins=plugins,
        kwargs_handlers=handlers,
        # The schedule is stepped once per optimizer step by the training loop.
        step_scheduler_with_optimizer=False,
        gradient_accumulation_steps=1 if plugins else shape.accumulation_steps,
    )
    connected = accelerator.num_processes == world_size == collectives.world_size()
    if not connected or (world_size > 1 and accelerator.distributed_type == DistributedType.NO):
        raise InputError(
            f"{accelerator.num_processes} connected processes of {world_size} launched",
            "one world of all processes",
            f"run {_ADVICE}",
        )
    return accelerator


def _skip_shared_memory_build() -> None:
    # DeepSpeed would compile a shared-memory collective at start, minutes long and impossible
    # without a C++ compiler; gloo serves.
    import deepspeed.ops

    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False


def _plugins(launch: LaunchSettings, shape: BatchShape) -> dict[str, DeepSpeedPlugin]:
    assert launch.student_deepspeed is not None
    assert launch.teacher_deepspeed is not None
    student = fill_deepspeed_json(
        read_deepspeed_json(launch.student_deepspeed), shape, launch.student_deepspeed
    )
    # The teacher's JSON must carry the same accumulation, or the whole Accelerator loses it.
    teacher = fill_deepspeed_json(
        read_deepspeed_json(launch.teacher_deepspeed), shape, launch.teacher_deepspeed
    )
    return {
        "student": DeepSpeedPlugin(hf_ds_config=student),
        "teacher": DeepSpeedPlugin(
            hf_ds_config=teacher,
            zero3_init_flag=teacher["zero_optimization"]["stage"] == 3,
        ),
    }


def prepare(
    accelerator: Accelerator,
    student: LateInteractionEncoder,
    optimizer: torch.optim.Optimizer,
    load_teacher: Callable[[], LateInteractionEncoder],
    teacher_precision: str = "float32",
) -> Engines:
    """Wrap student and optimizer, then load and wrap the frozen teacher. Collective.

    Args:
        load_teacher: called after the teacher's plugin is selected, so that ZeRO-3 partitions the
            weights as they load.
        teacher_precision: of its weights without DeepSpeed.
    """
    plugins = getattr(accelerator.state, "deepspeed_plugins", None)
    if not plugins:
        # DDP reduces gradients over ranks; a model on one process needs no wrapper.
        wrapped, prepared = accelerator.prepare(student, optimizer)
        teacher = load_teacher()
        with whole_tables(teacher):
            teacher = teacher.to(accelerator.device, getattr(torch, teacher_precision))
        teacher = teacher.eval().requires_grad_(False)
        return Engines(wrapped, teacher, prepared, None)
    if plugins["student"].zero_stage == 0:
        refuse_non_finite_steps(optimizer)
    # The student first: Accelerator.backward binds to the first engine prepared.
    with whole_tables(student):
        wrapped, prepared = accelerator.prepare(student, optimizer)
    accelerator.state.select_deepspeed_plugin("teacher")
    teacher = load_teacher().eval().requires_grad_(False)
    with whole_tables(teacher):
        engine = accelerator.prepare(teacher)
    engine.eval()
    accelerator.state.select_deepspeed_plugin("student")
    # Otherwise save_state writes the teacher too, and get_state_dict reads the teacher's stage.
    accelerator._models.remove(engine)
    accelerator.deepspeed_config = plugins["student"].deepspeed_config
    return Engines(wrapped, engine, prepared, plugins["student"].zero_stage)


def engine_grad_norm(engine: Any) -> float:
    """Norm of the gradients that a DeepSpeed engine has just stepped on, before clipping.

    Infinite where the engine left the step out: its own figure is then that of an earlier step.
    """
    if getattr(engine.optimizer, "overflow", False):
        return float("inf")
    norm = engine.get_global_grad_norm()
    return 0.0 if norm is None else float(norm)


def is_partitioned(module: nn.Module) -> bool:
    """Whether ranks hold partitions of the module's weights (ZeRO-3)."""
    return any(hasattr(parameter, "ds_tensor") for parameter in module.parameters())


def resident_elements(parameters: Any) -> int:
    """Elements of `parameters` that this rank holds: its partitions under ZeRO-3, else all."""
    total = 0
    for parameter in parameters:
        partition = getattr(parameter, "ds_tensor", None)
        # A gathered parameter holds its data beside the partition.
        total += parameter.numel() if partition is None else partition.numel()
        if partition is not None and parameter.ds_status.name == "AVAILABLE":
            total += parameter.numel()
    return total


def optimizer_state_elements(optimizer: Any) -> int:
    """Elements of per-parameter optimizer state that this rank holds; 0 before the first step."""
    while hasattr(optimizer, "optimizer"):
        optimizer = optimizer.optimizer
    return sum(
        value.numel()
        for state in optimizer.state.values()
        for value in state.values()
        # A step counter is a scalar of each parameter, no state that sharding could spread.
        if isinstance(value, Tensor) and value.dim() > 0
    )


def unwrap(accelerator: Accelerator, module: nn.Module) -> LateInteractionEncoder:
    """The encoder inside its engine or wrapper; its weights may be partitioned."""
    return accelerator.unwrap_model(module)


def gathered_weights(accelerator: Accelerator, student: nn.Module) -> dict[str, Tensor] | None:
    """The student's full state dict on rank 0, None elsewhere. Collective.

    Names are the encoder's own, whatever wraps or compiles it.
    """
    state = accelerator.get_state_dict(student)
    if collectives.rank() != 0:
        return None
    return {name.replace("_orig_mod.", ""): tensor for name, tensor in state.items()}
