"""Communicates between ranks; the only direct caller of ``torch.distributed``.

Every function that communicates must be called by all ranks in the same order; with one
process they return their argument's own value, so code reads the same for any number of ranks.
"""

from __future__ import annotations

import atexit
import os
import sys
import time
import uuid
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

T = TypeVar("T")


def is_initialized() -> bool:
    """Whether a process group exists."""
    return dist.is_available() and dist.is_initialized()


def rank() -> int:
    """This process's rank, 0 without a process group."""
    return dist.get_rank() if is_initialized() else 0


def world_size() -> int:
    """Number of processes, 1 without a process group."""
    return dist.get_world_size() if is_initialized() else 1


def backend_of(device_type: str) -> str:
    """Backend of a process group that serves tensors of the host and of the device alike.

    What only the host knows (a stop signal, a shape, an unreadable batch) is agreed on over gloo:
    over NCCL the host would have to wait until the device has done all its work so far.
    """
    return "cpu:gloo,cuda:nccl" if device_type == "cuda" else "gloo"


def connect(device_type: str, timeout: timedelta) -> None:
    """Make the process group from the launcher's environment. Collective.

    On GPUs a process takes its own one first: NCCL would connect all of a node to the first.

    An elastic agent (``--rdzv_backend c10d``, ``torchrun --standalone``) keeps one store for all
    restarts of a job. What the ranks of an earlier one wrote there is in it still, and one that
    comes back before its peer has would connect to the address of a process that is dead. So the
    ranks of each restart agree on a name first, and keep what they write under it.
    """
    backend = backend_of(device_type)
    if device_type == "cuda":
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        dist.init_process_group(backend, timeout=timeout)
        return
    own, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    address = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    store = dist.TCPStore(*address, is_master=False, timeout=timeout)
    life = _agree_on_life(store, own, world, timeout)
    dist.init_process_group(
        backend,
        store=dist.PrefixStore(life, store),
        rank=own,
        world_size=world,
        timeout=timeout,
    )


def _agree_on_life(store: dist.Store, own: int, world: int, timeout: timedelta) -> str:
    """A name that only the processes running now know: each is in the list that rank 0 makes.

    Raises:
        TimeoutError: rank 0 did not come, or a torch error where another rank did not.
    """
    token, deadline = uuid.uuid4().hex, time.monotonic() + timeout.total_seconds()
    if own == 0:
        store.set("life", token)
        members = [store.get(f"{token}/{other}").decode() for other in range(1, world)]
        store.set(f"{token}/members", ",".join(members))
        return token
    while time.monotonic() < deadline:
        # May be that of an earlier life, whose list does not have this process.
        life = store.get("life").decode()
        store.set(f"{life}/{own}", token)
        listed = f"{life}/members"
        if store.check([listed]) and token in store.get(listed).decode().split(","):
            return life
        time.sleep(0.05)
    raise TimeoutError(f"rank {own}: rank 0 did not connect in {timeout.total_seconds():.0f} s")


def barrier() -> None:
    """Wait until all ranks are here. Collective."""
    if world_size() > 1:
        dist.barrier()


def sum_over_ranks(tensor: Tensor) -> Tensor:
    """Elementwise sum over ranks, a new tensor; no gradient flows. Collective."""
    total = tensor.detach().clone()
    if world_size() > 1:
        dist.all_reduce(total)
    return total


def gather_padded(tensor: Tensor) -> tuple[Tensor, int]:
    """Rows (B, N, ...) of all ranks, padded with zeros to the longest N, and this rank's first row.

    Ranks may differ in B and N, in nothing else. No gradient flows. Collective.
    """
    if world_size() == 1:
        return tensor, 0
    # Sizes are the host's, and the device need not be waited for.
    sizes = [torch.empty(2, dtype=torch.int64) for _ in range(world_size())]
    dist.all_gather(sizes, torch.tensor(tensor.shape[:2]))
    shapes = [(int(size[0]), int(size[1])) for size in (part.numpy() for part in sizes)]
    rows, width = max(shape[0] for shape in shapes), max(shape[1] for shape in shapes)
    padded = tensor.new_zeros((rows, width, *tensor.shape[2:]))
    padded[: tensor.shape[0], : tensor.shape[1]] = tensor.detach()
    # Booleans travel as bytes: not every backend reduces or gathers them.
    sent = padded.to(torch.uint8) if tensor.dtype == torch.bool else padded
    received = [torch.empty_like(sent) for _ in shapes]
    dist.all_gather(received, sent)
    kept = [part[: shape[0]] for part, shape in zip(received, shapes, strict=True)]
    first_row = sum(shape[0] for shape in shapes[: rank()])
    return torch.cat(kept).to(tensor.dtype), first_row


def any_rank(flag: bool) -> bool:
    """Whether `flag` is true on at least one rank. Collective of the hosts."""
    return bool(max_over_ranks(int(flag)))


def max_over_ranks(number: int) -> int:
    """The largest `number` of all ranks. Collective of the hosts: no device is waited for."""
    if world_size() == 1:
        return number
    value = torch.tensor(number)
    dist.all_reduce(value, op=dist.ReduceOp.MAX)
    return int(value.numpy())


def gather_objects(value: T) -> list[T]:
    """`value` of every rank, in order of rank, on every rank. Collective."""
    if world_size() == 1:
        return [value]
    gathered: list[Any] = [None] * world_size()
    dist.all_gather_object(gathered, value)
    return gathered


def gather_on_main(value: T) -> list[T] | None:
    """`value` of every rank, in order of rank, on rank 0; None elsewhere. Collective."""
    if world_size() == 1:
        return [value]
    gathered: list[Any] | None = [None] * world_size() if rank() == 0 else None
    dist.gather_object(value, gathered, dst=0)
    return gathered


def broadcast_object(value: T) -> T:
    """Rank 0's `value` on every rank. Collective."""
    if world_size() == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def default_store() -> Any:
    """The process group's key-value store, for what may take longer than a collective's timeout."""
    return dist.distributed_c10d._get_default_store()


def shut_down(status: int = 0) -> None:
    """Leave the process group and end this process with `status`; without a group, do nothing.

    The last line of every program that may be one of several ranks. What `atexit` knows runs and
    what was printed comes out, but the interpreter is not taken apart: Gloo's threads outlive the
    group wherever a library keeps it (DeepSpeed's engines, default arguments of
    `torch.distributed.nn`), and one that lets go of a tensor in a dying interpreter aborts the
    process, after all its work is done.
    """
    if not is_initialized():
        return
    dist.destroy_process_group()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
