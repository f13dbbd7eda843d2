"""Which packages a machine without a network lacks, and how to carry them there as wheels.

On the machine without a network, in the clone:

    python launch/gpu_check/wheels.py --list > have.txt

On one with a network, where the project is installed, with that file and that machine's Python:

    python launch/gpu_check/wheels.py --have have.txt --into wheels --python-version 3.12

and back there, with the folder carried along:

    python -m pip install --no-index --no-deps wheels/*.whl

Torch, Triton and NVIDIA's packages are left to that machine: they belong to its driver. What has no
wheel is built from source: DeepSpeed's extensions are compiled later, if at all, so that its wheel
serves any Python.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
#: What belongs to a machine's driver.
_OF_THE_DRIVER = re.compile(r"^(torch|triton|nvidia-|cuda-)")
_PLATFORMS = ("manylinux_2_28", "manylinux_2_27", "manylinux_2_17", "manylinux2014", "manylinux1")


def needed() -> list[Requirement]:
    """The project's own requirements, and pytest, which runs the tests on the device."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    # One requirement a line, so that no TOML reader is needed (tomllib is Python 3.11's).
    section = text[text.index("\ndependencies = [") :]
    lines = re.findall(r'^    "(.+)",$', section[: section.index("\n]")], flags=re.M)
    return [Requirement(line) for line in [*lines, "pytest"]]


def closure() -> dict[str, tuple[str | None, Requirement]]:
    """Name → the version installed here, None if none serves, and the requirement it was asked by;
    with needs of needs."""
    found: dict[str, tuple[str | None, Requirement]] = {}
    waiting = needed()
    while waiting:
        requirement = waiting.pop()
        name = canonicalize_name(requirement.name)
        if name in found or _OF_THE_DRIVER.match(name):
            continue
        version = installed(requirement)
        found[name] = version, requirement
        if version is not None:
            asked = map(Requirement, metadata.requires(name) or [])
            waiting += [part for part in asked if not part.marker or part.marker.evaluate()]
    return found


def installed(requirement: Requirement) -> str | None:
    """The version installed here, where it is one that `requirement` takes."""
    try:
        version = metadata.version(requirement.name)
    except metadata.PackageNotFoundError:
        return None
    return version if requirement.specifier.contains(version, prereleases=True) else None


def missing() -> list[str]:
    """Requirements that nothing installed here meets; needs of what is missing are not known."""
    return sorted(str(asked) for version, asked in closure().values() if version is None)


def carry(have: set[str], into: Path, python_version: str) -> list[Path]:
    """Put wheels of all that is needed and not in `have` into a folder.

    Args:
        have: canonical names.
        into: the folder.
        python_version: of the machine that they are for, such as 3.12.
    """
    into.mkdir(parents=True, exist_ok=True)
    for name, (version, _) in sorted(closure().items()):
        if name in have or version is None:
            continue
        pinned = f"{name}=={version}"
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
        target = ["--python-version", python_version, "--implementation", "cp"]
        platforms = [part for name in _PLATFORMS for part in ("--platform", f"{name}_x86_64")]
        wheel = [*target, *platforms, "--only-binary=:all:", "-d", str(into), pinned]
        fetched = subprocess.run(
            [*pip, "download", "--no-deps", *wheel], capture_output=True, check=False
        )
        if fetched.returncode != 0:
            # No wheel is published: made here, from its source.
            subprocess.run([*pip, "wheel", "--no-deps", "-w", str(into), pinned], check=True)
        print(pinned, flush=True)
    return sorted(into.glob("*.whl"))


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--list", action="store_true", help="print what serves here")
    parser.add_argument("--have", type=Path, help="that machine's list")
    parser.add_argument("--into", type=Path, help="folder for wheels")
    parser.add_argument("--python-version", default=f"{sys.version_info[0]}.{sys.version_info[1]}")
    options = parser.parse_args()
    if options.list:
        names = {canonicalize_name(part.metadata["Name"]) for part in metadata.distributions()}
        unmet = {name for name, (version, _) in closure().items() if version is None}
        print("\n".join(sorted(names - unmet)))
    elif options.into:
        text = options.have.read_text(encoding="utf-8") if options.have else ""
        wheels = carry(set(text.split()), options.into, options.python_version)
        size = sum(path.stat().st_size for path in wheels) / (1 << 20)
        print(f"{len(wheels)} wheels, {size:.0f} MiB in {options.into}")
    else:
        print("\n".join(missing()) or "nothing is missing")


if __name__ == "__main__":
    main()
