"""The transport loss against POT, geomloss and a naive Sinkhorn, at the same marginal error.

    python benchmarks/transport.py [--quick] [--json FILE] [--threads N] [--device cpu|cuda]
        [--clock wall|cpu] [--pairs 64,256] [--shapes 32x32,ragged]

Every contender starts from the token vectors and ends at the loss of each pair, or at the
student's gradient. Each gets as many iterations as it needs until no pair's plan misplaces more
than `TOLERANCE` of its mass (L1 over rows and columns), found before the clock starts. Times are
the best of several rounds in which the contenders take turns; memory is what the peak of the
process rose by, in a process of its own. Parity is against the reference, our solver in plain
tensor operations, at equal iterations. Ratios above 1 say how much ours is better. On a machine
that others use too, `--clock cpu --threads 1` counts this process's CPU time instead.

Targets: on CPU 3 times the best of the others on ragged batches and 1.5 times on full ones, a
quarter of POT's memory; on CUDA 10 times the eager reference and a quarter of the time that the
exponentials of log-domain iterations take at least; 5 % of a training step.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import torch
from peak_memory import rise_of_peak
from transport_peers import Batch, Contender, contenders, make_batch

from distill.transport.problem import marginal_error

TOLERANCE = 1e-3
#: Largest difference of a loss, and of a gradient relative to its largest number, by a fused way.
PARITY = 1e-4
#: Tried in this order until the error is reached.
ITERATIONS = (2, 3, 5, 8, 12, 18, 26, 40, 60, 90, 140, 200, 300, 500, 1000, 2000)
#: A contender that has not reached it by then is left out.
PATIENCE_SECONDS = 20
#: GiB a graph may take.
GRAPH_LIMIT = 3
SHAPES = {
    "16x16": (16, 16, False),
    "32x32": (32, 32, False),
    "32x180": (32, 180, False),
    "128x128": (128, 128, False),
    "ragged": (180, 180, True),
}
#: Exponentials a multiprocessor does in a clock cycle (compute capability 8 and 9).
EXPONENTIALS_PER_CYCLE = 16


def iterations_needed(contender: Contender, batch: Batch, stops: bool) -> int | None:
    """The least of `ITERATIONS` that reaches the tolerance; contenders that stop get the most."""
    a, b = batch.marginals
    start = time.perf_counter()
    for iterations in ITERATIONS[-1:] if stops else ITERATIONS:
        if time.perf_counter() - start > PATIENCE_SECONDS:
            return None
        with torch.no_grad():
            _, plans = contender(batch, iterations, TOLERANCE if stops else 0, True)
        if plans is None:
            raise TypeError("a contender gave no plan")
        if float(marginal_error(plans.float(), a, b).max()) <= TOLERANCE:
            return iterations
    return None


def work(contender: Contender, batch: Batch, iterations: int, stops: bool, backward: bool) -> None:
    """One forward pass, or one forward and backward pass."""
    tolerance = TOLERANCE if stops else 0
    if not backward:
        with torch.no_grad():
            contender(batch, iterations, tolerance, False)
        return
    batch.student.grad = None
    contender(batch, iterations, tolerance, False)[0].sum().backward()


def graph_gibibytes(batch: Batch, iterations: int) -> float:
    """What autograd keeps of the naive solver: some two matrices per half-iteration."""
    cells = batch.student_mask.numel() * batch.teacher_mask.shape[1]
    return 4 * iterations * 4 * cells / (1 << 30)


def seconds(run: Callable[[], None], clock: Callable[[], float]) -> float:
    start = clock()
    run()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return clock() - start


def best_times(runs: dict[str, Callable[[], None]], arguments: argparse.Namespace) -> dict:
    """The best time of each in turns; what takes long gets fewer turns."""
    clock = {"wall": time.perf_counter, "cpu": time.process_time}[arguments.clock]
    best = {name: min(seconds(run, clock) for _ in range(2)) for name, run in runs.items()}
    for turn in range(arguments.rounds):
        for name, run in runs.items():
            if turn < 2 or best[name] * arguments.rounds < 4:
                best[name] = min(best[name], seconds(run, clock))
    return best


def measure_memory(num_pairs: int, shape: str, device: str, threads: int) -> dict[str, float]:
    """Peaks by contender, forward and backward, each case in a process of its own."""
    command = [sys.executable, __file__, "--memory-of", f"{num_pairs},{shape}"]
    command += ["--device", device, "--threads", str(threads)]
    # Every tensor its own mapping, so that what is freed is given back and seen.
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def memory_of(case: str, device: str) -> None:
    num_pairs, shape = case.split(",")
    batch = make_batch(int(num_pairs), *SHAPES[shape], device)
    mine, others, _ = contenders(device)
    peaks = {}
    for name, contender in (mine | others).items():
        # The number of iterations does not matter to memory, but for autograd through them.
        peaks[name] = rise_of_peak(partial(work, contender, batch, 20, False, True), device)
    print(json.dumps(peaks))


def row(case, metric, ours, peer, peer_value, target=None, higher_is_better=False) -> dict:
    """One line of the table; the ratio says how many times better ours is."""
    ratio = None
    if ours and peer_value:
        ratio = ours / peer_value if higher_is_better else peer_value / ours
    met = None if target is None or ratio is None else bool(ratio >= target)
    return {
        "case": case, "metric": metric, "ours": ours, "peer": peer, "peer_value": peer_value,
        "ratio": ratio, "target": target, "met": met,
    }  # fmt: skip


def compare(num_pairs: int, shape: str, arguments: argparse.Namespace) -> list[dict]:
    """All rows of one batch."""
    device, case = arguments.device, f"B={num_pairs} {shape}"
    batch = make_batch(num_pairs, *SHAPES[shape], device)
    mine, others, _ = contenders(device)
    needed = {}
    for name, contender in (mine | others).items():
        stops = name in mine
        iterations = iterations_needed(contender, batch, stops)
        if iterations is None:
            print(f"{case}: {name} does not reach {TOLERANCE} within reach, and is left out")
        else:
            needed[name] = (contender, batch, iterations, stops)
    rows = parity(case, batch, mine)
    for backward, metric in ((False, "forward"), (True, "forward+backward")):
        runs = {
            name: partial(work, *given, backward)
            for name, given in needed.items()
            if not (backward and name == "naive" and graph_gibibytes(batch, given[2]) > GRAPH_LIMIT)
        }
        times = best_times(runs, arguments)
        fastest = min((name for name in times if name in mine), key=times.__getitem__)
        rivals = sorted((name for name in times if name not in mine), key=times.__getitem__)
        if "naive" in needed and "naive" not in runs:
            print(f"{case}: naive is left out: its graph takes more than {GRAPH_LIMIT} GiB")
        for name in [*rivals, *(name for name in mine if name in times and name != fastest)]:
            target = None
            if device == "cpu" and name == rivals[0]:
                target = 3.0 if shape == "ragged" else 1.5
            if device == "cuda" and name == "reference":
                target = 10.0
            label = f"{name} ({needed[name][2]} it.)" if name not in mine else f"ours, {name}"
            ours, theirs = (1e6 * times[key] / num_pairs for key in (fastest, name))
            rows.append(row(case, f"{metric}, us per pair", ours, label, theirs, target))
    if not arguments.no_memory:
        rows += memory_rows(case, num_pairs, shape, arguments)
    if device == "cuda":
        rows.append(against_exponentials(case, batch, mine, arguments))
    return rows


def parity(case: str, batch: Batch, mine: dict[str, Contender]) -> list[dict]:
    """How far losses and gradients of each of our fast ways are from the reference's."""

    def results(contender: Contender) -> tuple[torch.Tensor, torch.Tensor]:
        batch.student.grad = None
        losses, _ = contender(batch, 30, 0, False)
        losses.sum().backward()
        return losses.detach(), batch.student.grad

    losses, gradient = results(mine["reference"])
    rows = []
    for name in (name for name in mine if name != "reference"):
        found = results(mine[name])
        far = {
            "loss": (found[0] - losses).abs().max(),
            "gradient": (found[1] - gradient).abs().max() / gradient.abs().max(),
        }
        rows += [
            # No distance at all is given as one that float32 does not resolve.
            row(case, f"{what}, distance from the reference's", max(float(distance), 1e-9),
                f"limit, {name}", PARITY, target=1.0)
            for what, distance in far.items()
        ]  # fmt: skip
    return rows


def memory_rows(case: str, num_pairs: int, shape: str, arguments: argparse.Namespace) -> list[dict]:
    peaks = measure_memory(num_pairs, shape, arguments.device, arguments.threads)
    fast = next(name for name in ("triton", "numba", "bucketed") if name in peaks)
    peer = "POT batch sinkhorn"
    # A rise below what the measure resolves is given as that.
    ours = None if peaks[fast] is None else max(peaks[fast], 0.25)
    return [row(case, "peak memory, MiB", ours, peer, peaks[peer], target=4.0)]


def against_exponentials(
    case: str, batch: Batch, mine: dict[str, Contender], arguments: argparse.Namespace
) -> dict:
    """Share of the speed at which the chip could do the log domain's exponentials alone."""
    iterations = 50
    run = partial(work, mine["triton"], batch, iterations, False, False)
    took = best_times({"triton": run}, arguments)["triton"]
    processors = torch.cuda.get_device_properties(0).multi_processor_count
    per_second = processors * EXPONENTIALS_PER_CYCLE * highest_clock()
    cells = (batch.student_mask.sum(1) * batch.teacher_mask.sum(1)).sum()
    bound = 2 * iterations * float(cells) / per_second
    return row(case, "speed, share of exponentials' bound", bound / took, "bound", 1.0, 0.25, True)


def highest_clock() -> float:
    """Hertz of the first device's multiprocessors at most; CUDA 13 does not tell programs."""
    query = ["nvidia-smi", "--id=0", "--query-gpu=clocks.max.sm", "--format=csv,noheader,nounits"]
    done = subprocess.run(query, capture_output=True, text=True, check=True)
    return 1e6 * float(done.stdout)


def training_step(arguments: argparse.Namespace) -> list[dict]:
    """The loss beside a step of a 12-layer student of width 384 on 64 x 32 tokens."""
    from transformers import BertConfig, BertModel

    device = arguments.device
    config = BertConfig(
        vocab_size=1000, hidden_size=384, num_hidden_layers=12, num_attention_heads=12,
        intermediate_size=1536,
    )  # fmt: skip
    student = BertModel(config).to(device)
    optimizer = torch.optim.AdamW(student.parameters())
    tokens = torch.randint(0, 1000, (64, 32), device=device)

    def step() -> None:
        student(tokens).last_hidden_state.square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()

    batch = make_batch(64, 32, 32, False, device)
    mine, _, _ = contenders(device)
    fast = next(name for name in ("triton", "numba", "bucketed") if name in mine)
    given = (mine[fast], batch, 100, True, True)
    times = best_times({"step": step, "loss": partial(work, *given)}, arguments)
    share = times["loss"] / times["step"]
    name = f"loss ({fast}) as a share of a training step"
    return [row("B=64 32x32", name, share, "limit", 0.05, target=1.0)]


def print_table(rows: list[dict]) -> None:
    def number(value) -> str:
        return "-" if value is None else f"{value:.3g}"

    for line in rows:
        verdict = {None: "", True: "met", False: "MISSED"}[line["met"]]
        target = f"target {line['target']:g}" if line["target"] else ""
        print(
            f"{line['case']:>15}  {line['metric']:<42} ours {number(line['ours']):>8}  "
            f"{line['peer']:<32} {number(line['peer_value']):>8}  "
            f"ratio {number(line['ratio']):>6}  {target:<10} {verdict}",
            flush=True,
        )


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line; prepares this process for it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="two batch sizes, fewer rounds")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows there")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall")
    parser.add_argument("--no-memory", action="store_true", help="leave out peaks of memory")
    parser.add_argument("--no-step", action="store_true", help="leave out a training step")
    parser.add_argument("--pairs", help="pairs of a batch, with commas, in place of the usual ones")
    parser.add_argument("--shapes", help=f"some of {','.join(SHAPES)}")
    parser.add_argument("--memory-of", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    options.rounds = 4 if options.quick else 12
    return options


def measure(arguments: argparse.Namespace) -> Iterator[list[dict]]:
    """Rows of a training step, then of one batch size after another."""
    sizes = [(64, shape) for shape in SHAPES] + [(256, "32x32"), (256, "ragged")]
    if not arguments.quick:
        sizes = [(num_pairs, shape) for num_pairs in (64, 256, 1024) for shape in SHAPES]
    if arguments.pairs or arguments.shapes:
        pairs = [int(part) for part in (arguments.pairs or "64,256").split(",")]
        shapes = (arguments.shapes or ",".join(SHAPES)).split(",")
        sizes = [(num_pairs, shape) for num_pairs in pairs for shape in shapes]
    if not arguments.no_step:
        yield training_step(arguments)
    for num_pairs, shape in sizes:
        yield compare(num_pairs, shape, arguments)


def main() -> None:
    arguments = parse()
    if arguments.memory_of:
        memory_of(arguments.memory_of, arguments.device)
        return
    _, _, missing = contenders(arguments.device)
    for line in missing:
        print(f"missing, {line}")
    if arguments.device == "cpu":
        print("not measured here, for want of a CUDA device: the fused kernels")
    print(
        f"{arguments.device}, {arguments.threads} threads, {arguments.clock} time, "
        f"every plan within {TOLERANCE:g}"
    )
    rows = []
    for found in measure(arguments):
        print_table(found)
        rows += found
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
