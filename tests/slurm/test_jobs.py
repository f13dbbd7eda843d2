"""The job files as shipped, on a real Slurm of two logical nodes."""

from __future__ import annotations

import json
import re
import subprocess
import time
from pathlib import Path

import pytest

from distill.checkpoints.checkpoint import checkpoints_in, read_state

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
#: Enough that a run is not over before a test has seen its first checkpoint.
STEPS = 24
ENDED = {"COMPLETED", "CANCELLED", "FAILED", "TIMEOUT", "NODE_FAIL"}


class Job:
    """A submitted job file."""

    def __init__(self, cluster, directory: Path, file: str, *arguments: str, options=()):
        self.cluster, self.directory = cluster, directory
        self.log = directory / "job.log"
        submit = [str(ROOT / "launch/slurm/submit"), f"--output={self.log}", *options]
        answer = cluster.run(*submit, f"launch/slurm/{file}", *arguments)
        self.id = re.findall(r"\d+", answer)[-1]

    def state(self) -> dict[str, str]:
        return self.cluster.jobs(self.id)[0]

    def text(self) -> str:
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def wait_until(self, condition, what: str, seconds: float = 900) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, f"{what}: {self.state()}\n{self.text()[-5000:]}"
            time.sleep(0.2)

    def wait_for_end(self) -> None:
        self.wait_until(lambda: self.state()["JobState"] in ENDED, "the end")


def training(world, name: str, *overrides: str) -> list[str]:
    return [
        str(world.recipe),
        f"name={name}",
        f"max_steps={STEPS}",
        "evaluation.collections=[]",
        "checkpoint.every_steps=2",
        *overrides,
    ]


def checkpoints(world, name: str) -> list[Path]:
    return checkpoints_in(world.root / "runs" / name / "checkpoints")


@pytest.fixture(scope="module")
def endless(slurm, tiny_world, tmp_path_factory):
    """Two jobs that do not end by themselves, at once, since most of their time is the start."""
    return {
        name: Job(
            slurm,
            tmp_path_factory.mktemp(name),
            "train.sbatch",
            *training(tiny_world, name, "max_steps=100000"),
            options=[f"--nodelist={node}"],
        )
        for name, node in (("lost_node", "n2"), ("cancelled", "n1"))
    }


def test_a_run_on_two_nodes_is_stopped_requeued_and_finished(slurm, tiny_world, tmp_path):
    arguments = training(tiny_world, "two_nodes")
    job = Job(slurm, tmp_path, "train.sbatch", *arguments, options=["--nodes=2"])
    job.wait_until(lambda: checkpoints(tiny_world, "two_nodes"), "a first checkpoint")
    # What --signal=B:USR1@300 sends, which here would come at the end of a day.
    slurm.run("scancel", "--batch", "--signal=USR1", job.id)
    job.wait_for_end()
    state, text = job.state(), job.text()
    assert state["JobState"] == "COMPLETED", text[-5000:]
    assert state["Restarts"] == "1"
    assert "restart 0, 2 node(s)" in text
    assert "(SIGUSR1); run the same command to go on" in text
    assert "requeued" in text
    stopped = int(re.search(r"stopped after step (\d+)", text)[1])
    # The second start appends to the same log and goes on where the first stopped.
    second = text.split("restart 1, 2 node(s)")[1]
    assert f"step {stopped} of {STEPS}" in second
    assert stopped < STEPS
    last = read_state(checkpoints(tiny_world, "two_nodes")[-1])
    assert (last.step, last.world_size) == (STEPS, 2)


def test_a_cancelled_job_keeps_a_checkpoint_and_is_not_requeued(endless, slurm, tiny_world):
    job = endless["cancelled"]
    job.wait_until(lambda: checkpoints(tiny_world, "cancelled"), "a first checkpoint")
    slurm.run("scancel", job.id)
    job.wait_for_end()
    assert job.state()["JobState"] == "CANCELLED"
    assert job.state()["Restarts"] == "0"
    job.wait_until(lambda: "stopped after step" in job.text(), "the last step")
    stopped = int(re.search(r"stopped after step (\d+) \(SIGTERM\)", job.text())[1])
    assert read_state(checkpoints(tiny_world, "cancelled")[-1]).step == stopped
    assert "requeued" not in job.text()


def test_a_job_whose_node_goes_down_runs_on_elsewhere(endless, slurm, tiny_world):
    job = endless["lost_node"]
    job.wait_until(lambda: checkpoints(tiny_world, "lost_node"), "a first checkpoint")
    slurm.run("scontrol", "update", "NodeName=n2", "State=DOWN", "Reason=test")
    try:
        pending = ("1", "PENDING")
        job.wait_until(
            lambda: (job.state()["Restarts"], job.state()["JobState"]) == pending, "the requeue"
        )
        # It may go anywhere when it starts again, which Slurm lets only a pending job be told.
        slurm.run("scontrol", "update", f"JobId={job.id}", "ReqNodeList=")
        job.wait_until(lambda: "restart 1, 1 node(s): n1" in job.text(), "a start on n1")
        job.wait_until(lambda: "resumed from" in job.text(), "the resume")
    finally:
        slurm.run("scontrol", "update", "NodeName=n2", "State=RESUME")
    resumed = int(re.search(r"resumed from .*step-(\d+)", job.text())[1])
    job.wait_until(
        lambda: read_state(checkpoints(tiny_world, "lost_node")[-1]).step > resumed, "more steps"
    )
    slurm.run("scancel", job.id)
    job.wait_for_end()


def test_an_array_trains_once_for_each_seed(slurm, tiny_world, tmp_path):
    options = ["--array=0-2", "--job-name=seeds", f"--output={tmp_path}/%a.log"]
    few = training(tiny_world, "unused", "max_steps=3")
    job = Job(slurm, tmp_path, "array.sbatch", "seed=5,7", *few, options=options)
    job.wait_until(lambda: all(task["JobState"] in ENDED for task in slurm.jobs(job.id)), "the end")
    states = {task["ArrayTaskId"]: task["JobState"] for task in slurm.jobs(job.id)}
    logs = {path.stem: path.read_text() for path in tmp_path.glob("*.log")}
    assert states == {"0": "COMPLETED", "1": "COMPLETED", "2": "FAILED"}, logs
    assert "submit with --array=0-1" in logs["2"]
    for seed in (5, 7):
        config = (tiny_world.root / f"runs/seeds-{seed}/config.yaml").read_text()
        assert f"seed: {seed}" in config
        assert (tiny_world.root / f"runs/seeds-{seed}/student/model.safetensors").is_file()


def test_shards_are_built_and_an_encoder_is_evaluated_by_jobs(slurm, tiny_world, tmp_path):
    bitext = tiny_world.root / "bitext/sw-en.tsv"
    shards = tmp_path / "shards"
    (tmp_path / "build").mkdir()
    build = ["build_shards.sbatch", str(shards), "--pair", f"sw-en={bitext}"]
    building = Job(slurm, tmp_path / "build", *build)
    evaluating = Job(
        slurm,
        tmp_path,
        "evaluate.sbatch",
        *(str(tiny_world.collection), "--teacher", str(tiny_world.teacher)),
        *("--pairs", "sw-en", "--output", str(tmp_path / "evaluation")),
    )
    for job in (building, evaluating):
        job.wait_for_end()
        assert job.state()["JobState"] == "COMPLETED", job.text()
    assert json.loads((shards / "manifest.json").read_text())["pairs"]
    assert list((tmp_path / "evaluation").rglob("results.json"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cp launch/slurm/site.env.example launch/slurm/site.env"),
        ("SBATCH_PARTITION=nowhere\n", "expected one of main: correct it"),
        ("SITE_ENVIRONMENT=/nowhere\n", "expected a virtual environment"),
        ("SITE_PROCESSES_PER_NODE=all\n", "expected a number above 0"),
        ("SITE_GPUS_PER_NODE=some\n", "expected a number, 0 for none"),
        ("if then\n", "expected shell assignments"),
    ],
)
def test_a_wrong_site_file_is_refused_before_anything_is_submitted(
    content, message, slurm, tmp_path
):
    site = tmp_path / "site.env"
    if content is not None:
        site.write_text(content)
    before = slurm.run("squeue", "-h")
    result = subprocess.run(
        [str(ROOT / "launch/slurm/submit"), "launch/slurm/train.sbatch", "recipe.yaml"],
        env={**slurm.environment, "OPTICAL_SITE": str(site)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 2
    assert message in result.stderr
    assert str(site) in result.stderr
    assert slurm.run("squeue", "-h") == before


def test_a_missing_module_ends_the_job_with_a_line_that_says_so(slurm, tiny_world, tmp_path):
    site = tmp_path / "site.env"
    text = Path(slurm.environment["OPTICAL_SITE"]).read_text()
    site.write_text(text + 'SITE_MODULES="no-such-module"\n')
    environment = {**slurm.environment, "OPTICAL_SITE": str(site)}
    command = [str(ROOT / "launch/slurm/submit"), f"--output={tmp_path}/job.log"]
    answer = subprocess.run(
        [*command, "launch/slurm/train.sbatch"], env=environment, capture_output=True, text=True
    )
    job = re.findall(r"\d+", answer.stdout)[-1]
    deadline = time.monotonic() + 60
    while slurm.jobs(job)[0]["JobState"] not in ENDED:
        assert time.monotonic() < deadline
        time.sleep(0.2)
    assert slurm.jobs(job)[0]["JobState"] == "FAILED"
    assert (
        "module no-such-module, expected one that `module avail` lists"
        in (tmp_path / "job.log").read_text()
    )
