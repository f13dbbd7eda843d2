"""The tests marked `gpu`, as pytest counts them; on a CPU they are found and skip."""

from __future__ import annotations

import os
import subprocess
import sys
from xml.etree import ElementTree

from parts import ROOT, part_arguments, row, write_rows


def main() -> None:
    """Run pytest on the files that have such tests."""
    options = part_arguments(__doc__).parse_args()
    files = [
        str(path)
        for path in sorted((ROOT / "tests").rglob("test_*.py"))
        if "mark.gpu" in path.read_text(encoding="utf-8")
    ]
    report = options.folder / "device-tests.xml"
    command = ["-m", "pytest", "-m", "gpu", "-q", "-p", "no:cacheprovider", f"--junitxml={report}"]
    done = subprocess.run([sys.executable, *command, *files], cwd=ROOT, env=os.environ, check=False)
    suite = next(ElementTree.parse(report).iter("testsuite"))
    number = {name: int(suite.get(name, 0)) for name in ("tests", "errors", "failures", "skipped")}
    passed = number["tests"] - number["errors"] - number["failures"] - number["skipped"]
    wanted = number["tests"] - number["skipped"]
    rows = [
        row(options.case, "tests passed", passed, "run", wanted, target=1.0, met=passed == wanted),
        row(options.case, "tests skipped", number["skipped"], "found", number["tests"]),
    ]
    write_rows(options.output, rows)
    for failure in (*suite.iter("failure"), *suite.iter("error")):
        print(f"Error: {failure.get('message', '')}".splitlines()[0])
    sys.exit(done.returncode)


if __name__ == "__main__":
    main()
