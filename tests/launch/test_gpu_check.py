"""The check of a GPU, run in small on a CPU; and what it does with parts that fail."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import psutil
import pytest
import torch
from launches import run
from transformers import BertConfig, BertModel

ROOT = Path(__file__).resolve().parents[2]
HERE = ROOT / "launch/gpu_check"
KEYS = {"case", "metric", "ours", "peer", "peer_value", "ratio", "target", "met"}


@pytest.fixture(scope="module")
def load():
    """Loads a file of the check by its name; `launch/demo` has some of the same names."""
    before, known = list(sys.path), set(sys.modules)
    sys.path.insert(0, str(HERE))

    def loaded(name: str) -> ModuleType:
        specification = importlib.util.spec_from_file_location(
            f"gpu_check_{name}", HERE / f"{name}.py"
        )
        module = importlib.util.module_from_spec(specification)
        sys.modules[specification.name] = module
        specification.loader.exec_module(module)
        return module

    yield loaded
    sys.path[:] = before
    for name in {"parts", "rates", "wheels", "inputs"} - known:
        sys.modules.pop(name, None)


@pytest.fixture(scope="module")
def parts(load):
    return load("parts")


def program(folder: Path, text: str) -> str:
    """A part's program with these lines after its arguments are read."""
    path = folder / "program.py"
    head = f"import sys\nsys.path.insert(0, {str(HERE)!r})\nfrom parts import *\n"
    path.write_text(f"{head}options = part_arguments('').parse_args()\n{text}")
    return str(path)


def test_a_part_that_fails_keeps_its_rows_and_says_why(parts, tmp_path):
    text = "write_rows(options.output, [row(options.case, 'm', 3, 'p', 2)], runs={'a': 1})\n"
    text += "print('launcher: CalledProcessError: Command', file=sys.stderr)\nint('x')\n"
    found = parts.run_part(parts.Part("a b", program(tmp_path, text), 60), tmp_path, True, 60)
    first, last = found["rows"]
    assert (first["case"], first["ratio"], found["runs"]) == ("a b", 1.5, {"a": 1})
    assert last["met"] is False
    assert last["error"] == "ValueError: invalid literal for int() with base 10: 'x'"
    assert set(first) & set(last) >= KEYS


def test_what_a_launcher_says_of_its_workers_is_no_error_of_its_own(parts):
    log = "Traceback:\nRuntimeError: CUDA out of memory\n\nCalledProcessError: Command 'a'\n"
    assert parts.error_line(log) == "RuntimeError: CUDA out of memory"
    assert parts.error_line("[rank0]: KeyError: 'a'\nbye\n") == "[rank0]: KeyError: 'a'"
    assert parts.error_line("killed\n\n") == "killed"


def test_a_part_that_takes_too_long_leaves_no_process(parts, tmp_path):
    child = "import os, sys, time; os.setsid(); print(os.getpid(), flush=True); time.sleep(600)"
    text = f"import subprocess\nsubprocess.run([sys.executable, '-c', {child!r}])\n"
    found = parts.run_part(parts.Part("slow", program(tmp_path, text), 5), tmp_path, True, 5)
    (last,) = found["rows"]
    assert last["met"] is False
    pid = int(last["error"].removeprefix("killed after 5 s; "))
    # The child is reaped by whoever adopts it.
    assert not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def test_a_part_for_which_no_time_is_left_is_not_started(parts, tmp_path):
    found = parts.run_part(parts.Part("late", "none.py", 5), tmp_path, True, 0)
    assert found["rows"][0]["error"] == "no time was left for it"


def test_model_flops_are_those_of_the_modules(load):
    """Counted by torch, on a backbone without a pooler and its projection."""
    from torch.utils.flop_counter import FlopCounterMode

    rates = load("rates")
    config = BertConfig(
        vocab_size=50, hidden_size=32, num_hidden_layers=3, num_attention_heads=4,
        intermediate_size=128, attn_implementation="eager",
    )  # fmt: skip
    backbone = BertModel(config, add_pooling_layer=False)
    projection = torch.nn.Linear(32, 16, bias=False)
    tokens = torch.randint(0, 50, (8, 12))
    with FlopCounterMode(display=False) as counter:
        projection(backbone(tokens).last_hidden_state).sum().backward()
    weights = [*backbone.parameters(), *projection.parameters()]
    size = SimpleNamespace(
        total=sum(weight.numel() for weight in weights if weight.dim() > 1),
        embeddings=sum(
            weight.numel() for weight in backbone.embeddings.parameters() if weight.dim() > 1
        ),
        layers=3,
        hidden=32,
    )
    assert rates.model_flops(size, tokens.numel(), 12, trains=True) == pytest.approx(
        counter.get_total_flops(), rel=0.01
    )
    trained = rates.model_flops(size, 10, 12, trains=True)
    assert trained == 3 * rates.model_flops(size, 10, 12, trains=False)


@pytest.mark.parametrize(
    ("device", "name"),
    [("NVIDIA H200", "H200"), ("NVIDIA A100-SXM4-80GB", "A100"), ("NVIDIA A10", "A10"),
     ("NVIDIA H100 PCIe", "H100 PCIe"), ("NVIDIA L40S", "L40S"), ("NVIDIA GH200 480GB", "GH200")],
)  # fmt: skip
def test_a_device_has_the_peak_of_its_own_name(load, device, name):
    rates = load("rates")
    stated = rates.peak(device, "tf32")
    assert (stated.rate, stated.source) == (rates.PEAKS[name][1] * 1e12, "stated")


def test_a_device_of_no_known_name_is_measured(load):
    assert load("rates").peak("cpu", "float32").source == "measured"


def test_what_is_missing_is_named_and_what_is_there_is_not(load, monkeypatch):
    wheels = load("wheels")
    assert wheels.missing() == []
    version = wheels.metadata.version

    def without(name: str) -> str:
        if name == "deepspeed":
            raise wheels.metadata.PackageNotFoundError
        return "0.1" if name == "webdataset" else version(name)

    monkeypatch.setattr(wheels.metadata, "version", without)
    assert [name.split(">")[0] for name in wheels.missing()] == ["deepspeed", "webdataset"]
    assert "torch" not in wheels.closure()


@pytest.mark.slow
def test_every_part_runs_in_small(load, tmp_path):
    report = tmp_path / "check.json"
    done = run(
        [sys.executable, str(HERE / "run.py"), "--small", "--json", str(report)], timeout=1800
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(report.read_text())
    assert {"date", "hardware", "environment", "rows", "runs", "seconds"} <= set(found)
    assert found["environment"]["packages"]["torch"] == torch.__version__
    check = load("run")
    small = [part for part in check.PARTS if part.name not in check.ONLY_LARGE]
    rows = {(row["case"].split(",")[0], row["metric"]): row for row in found["rows"]}
    assert all(set(row) >= KEYS for row in found["rows"])
    for part in small:
        own = [row for row in found["rows"] if row["case"].startswith(part.name)]
        assert [row["met"] for row in own if row["metric"] == "ran, seconds"] == [True], part.name
        if part.program == "training_step.py":
            figures = {row["metric"]: row for row in own}
            assert figures["pairs a second"]["ours"] > 0
            assert 0 < figures["transport loss, share of a step"]["ours"] < 1
            if "--sharded" not in part.arguments:
                assert figures["seconds of a step"]["peer_value"] > 0
            utilisation = figures["model FLOP utilisation, 10^12 a second"]
            assert 0 < utilisation["ratio"] < 1
            assert figures["rise of memory in a step, MiB"]["peer_value"] > 0
            waits = figures["host waits a step"]
            assert waits["ours"] == 1 or "--sharded" in part.arguments
            assert found["runs"][part.name].startswith("precision: student ")
    assert found["runs"]["ZeRO-2 beside ZeRO-3"].startswith(
        "precision: student bfloat16, teacher bf"
    )
    assert rows["tests on the device", "tests skipped"]["peer_value"] > 10
    if torch.cuda.device_count() < 2:
        assert rows["several devices", "skipped"]["peer"].endswith("--ranks 2 for gloo")


def test_an_unknown_part_is_refused():
    done = run([sys.executable, str(HERE / "run.py"), "--only", "nothing"])
    assert done.returncode == 2
    assert "--only nothing: expected some of environment; inputs" in done.stderr
