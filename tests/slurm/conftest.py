"""A real Slurm of two logical nodes on this machine, on the loopback address alone."""

from __future__ import annotations

import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol")
_NODES = ("n1", "n2")


def why_not() -> str | None:
    """Why no Slurm can run here, or None."""
    if os.geteuid() != 0:
        return "Slurm's daemons need root"
    missing = [name for name in PROGRAMS if shutil.which(name) is None]
    if missing:
        return f"no {', '.join(missing)} (Debian: slurmctld slurmd slurm-client munge)"
    return None


def _free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return listening.getsockname()[1]


class Cluster:
    """munge, a controller and a daemon for each node, as long as the object is open.

    Args:
        directory: theirs alone; its path must be short, since it holds sockets.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._daemons: list[subprocess.Popen[bytes]] = []
        self._log = (directory / "daemons.log").open("wb")
        key, socket_path = directory / "munge.key", directory / "munge.socket"
        key.write_bytes(secrets.token_bytes(128))
        key.chmod(0o600)
        self.environment = {**os.environ, "SLURM_CONF": str(directory / "slurm.conf")}
        for name in [name for name in self.environment if name.startswith(("SLURM_JOB", "SBATCH"))]:
            del self.environment[name]
        self._write_configuration(socket_path)
        self._start(
            *("munged", "--foreground", "--force", f"--socket={socket_path}"),
            *(f"--key-file={key}", f"--pid-file={directory}/munge.pid", "--origin=127.0.0.1"),
            *(f"--seed-file={directory}/munge.seed", f"--log-file={directory}/munge.log"),
        )
        self._wait(socket_path.exists, "munge's socket")
        self._start("slurmctld", "-D")
        for name in _NODES:
            self._start("slurmd", "-D", "-N", name)
        self._wait(self._nodes_are_up, "the nodes")

    def _write_configuration(self, munge_socket: Path) -> None:
        host, port, directory = socket.gethostname().split(".")[0], _free_port(), self.directory
        (directory / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\n")
        settings = {
            "ClusterName": "test",
            "SlurmctldHost": f"{host}(127.0.0.1)",
            "SlurmctldPort": port,
            "SlurmUser": "root",
            "SlurmdUser": "root",
            "AuthType": "auth/munge",
            "CredType": "cred/munge",
            # A requeued job starts again only when its old credential has expired.
            "AuthInfo": f"socket={munge_socket},cred_expire=5",
            "StateSaveLocation": directory / "state",
            "SlurmdSpoolDir": directory / "spool-%n",
            "SlurmctldPidFile": directory / "slurmctld.pid",
            "SlurmdPidFile": directory / "slurmd-%n.pid",
            "ProctrackType": "proctrack/linuxproc",
            "TaskPlugin": "task/none",
            "JobAcctGatherType": "jobacct_gather/none",
            "AccountingStorageType": "accounting_storage/none",
            "MpiDefault": "none",
            "SwitchType": "switch/none",
            "PropagateResourceLimits": "NONE",
            "SelectType": "select/cons_tres",
            "SelectTypeParameters": "CR_CPU",
            "SlurmdParameters": "config_overrides",
            "SchedulerParameters": "batch_sched_delay=0,sched_interval=1,bf_interval=1",
            "JobRequeue": 1,
            # A node that a test has set down stays so until the test resumes it.
            "ReturnToService": 1,
            "KillWait": 30,
            "MinJobAge": 3600,
            "SlurmdTimeout": 60,
        }
        lines = [f"{name}={value}" for name, value in settings.items()]
        for name in _NODES:
            lines.append(
                f"NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={_free_port()}"
                " CPUs=16 RealMemory=8000 State=UNKNOWN"
            )
        lines.append("PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP")
        (directory / "slurm.conf").write_text("\n".join(lines) + "\n")
        (directory / "state").mkdir()

    def _start(self, *command: str) -> None:
        self._daemons.append(
            subprocess.Popen(
                command, env=self.environment, stdout=self._log, stderr=subprocess.STDOUT
            )
        )

    def _wait(self, condition, what: str, seconds: float = 60) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            dead = [daemon for daemon in self._daemons if daemon.poll() is not None]
            if dead or time.monotonic() > deadline:
                log = (self.directory / "daemons.log").read_text(errors="replace")[-2000:]
                raise RuntimeError(f"{what} did not come up: {log}")
            time.sleep(0.1)

    def _nodes_are_up(self) -> bool:
        result = subprocess.run(
            ["sinfo", "-h", "-N", "-o", "%T"], env=self.environment, capture_output=True, text=True
        )
        return result.returncode == 0 and result.stdout.split() == ["idle"] * len(_NODES)

    def run(self, *command: str) -> str:
        """Standard output of a Slurm command, which must succeed."""
        return subprocess.run(
            command, env=self.environment, capture_output=True, text=True, check=True, timeout=60
        ).stdout

    def jobs(self, job: str) -> list[dict[str, str]]:
        """What Slurm knows of a job, or of each task of an array."""
        lines = self.run("scontrol", "-o", "show", "job", job).splitlines()
        return [dict(re.findall(r"(\w+)=(\S*)", line)) for line in lines if "JobId=" in line]

    def close(self) -> None:
        """End all jobs and daemons."""
        subprocess.run(["scancel", "--user=root"], env=self.environment, check=False, timeout=60)
        deadline = time.monotonic() + 40
        while time.monotonic() < deadline:
            queue = ["squeue", "-h", "-o", "%A"]
            listed = subprocess.run(queue, env=self.environment, capture_output=True, check=False)
            if not listed.stdout.strip():
                break
            time.sleep(0.2)
        for daemon in reversed(self._daemons):
            daemon.terminate()
        for daemon in reversed(self._daemons):
            try:
                daemon.wait(timeout=10)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()
        self._log.close()


@pytest.fixture(scope="session")
def slurm() -> Iterator[Cluster]:
    """A running Slurm whose jobs know this checkout; skips where none can run."""
    reason = why_not()
    if reason:
        pytest.skip(reason)
    # Sockets lie in it: a path of pytest's own would be too long for them.
    directory = Path(tempfile.mkdtemp(prefix="slurm-"))
    directory.chmod(0o755)
    cluster = Cluster(directory)
    site = directory / "site.env"
    site.write_text(
        "SBATCH_PARTITION=main\nSITE_PROCESSES_PER_NODE=1\nSITE_GPUS_PER_NODE=0\n"
        f"SITE_ENVIRONMENT={Path(sys.prefix)}\nGLOO_SOCKET_IFNAME=lo\n"
    )
    cluster.environment.update(
        OPTICAL_SITE=str(site), PYTHONPATH=str(ROOT), OMP_NUM_THREADS="1", TRITON_INTERPRET="1"
    )
    try:
        yield cluster
    finally:
        cluster.close()
        shutil.rmtree(directory)
