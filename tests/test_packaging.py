"""The wheel: what it holds, and its console command run from it alone."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from distill.__main__ import COMMANDS, main
from distill.errors import EXIT_BAD_INPUT

ROOT = Path(__file__).resolve().parent.parent


def test_every_command_has_a_module(capsys):
    main(["--help"])
    told = capsys.readouterr().out
    for name, (module, _, _) in COMMANDS.items():
        assert name in told
        path = ROOT / module.replace(".", "/")
        assert path.with_suffix(".py").is_file() or (path / "__main__.py").is_file()
    with pytest.raises(SystemExit) as caught:
        main(["fly"])
    assert caught.value.code == EXIT_BAD_INPUT


@pytest.mark.slow
def test_the_wheel_works_outside_the_checkout(tmp_path):
    build = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation"]
    copy = tmp_path / "source"
    subprocess.run(["git", "clone", "--quiet", "--no-hardlinks", str(ROOT), str(copy)], check=True)
    subprocess.run([*build, "--quiet", "-w", str(tmp_path), str(copy)], check=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    sources = {
        path.relative_to(copy).as_posix()
        for room in ("distill", "data_shards")
        for path in (copy / room).rglob("*.py")
    }
    assert sources <= set(names)
    pages = {path.relative_to(copy).as_posix() for path in (copy / "distill").rglob("*.html")}
    assert pages
    assert pages <= set(names)
    assert not [name for name in names if name.startswith(("tests/", "launch/", "benchmarks/"))]
    (entry,) = [name for name in names if name.endswith("entry_points.txt")]
    assert "distill = distill.__main__:main" in zipfile.ZipFile(wheel).read(entry).decode()
    # The wheel first on the path, and the checkout not on it at all.
    program = (
        f"import sys; sys.path[:] = [{str(wheel)!r}] + "
        "[p for p in sys.path if p not in ('', '.') and 'source' not in p]; "
        "import distill; assert '.whl' in distill.__file__, distill.__file__; "
        "from distill.evaluation.report.page import TEMPLATES; "
        "TEMPLATES.get_template('page.html'); "
        "from distill.__main__ import main; main(['export', '--help'])"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", program],
        cwd=tmp_path,
        env={"PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "--onnx" in done.stdout
