"""No input reaches an interpreter, a shell or a path outside its folder: read from the syntax."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SOURCES = [
    path
    for room in ("distill", "data_shards", "launch", "benchmarks")
    for path in sorted((ROOT / room).rglob("*.py"))
]
#: Calls that run what they are given, or write where an archive says.
FORBIDDEN_CALLS = {"eval", "exec", "os.system", "os.popen", "extractall", "pickle.load"}
FORBIDDEN_CALLS |= {"pipeline", "transformers.pipeline", "torch.hub.load"}
FORBIDDEN_VALUES = {
    "shell": True,
    "weights_only": False,
    "trust_remote_code": True,
    "allow_pickle": True,
}


def name_of(function: ast.expr) -> str:
    if isinstance(function, ast.Attribute):
        return f"{name_of(function.value)}.{function.attr}"
    return function.id if isinstance(function, ast.Name) else ""


#: transformers' loaders: without the keyword they ask on the terminal, and a "y" runs code.
LOADERS = {"from_pretrained", "from_config"}


def refuses_code(call: ast.Call) -> bool:
    """Whether a call says ``trust_remote_code=False``, as it stands there and not by a variable."""
    return any(
        keyword.arg == "trust_remote_code"
        and isinstance(keyword.value, ast.Constant)
        and keyword.value.value is False
        for keyword in call.keywords
    )


def findings(source: str) -> list[str]:
    found = []
    nodes = list(ast.walk(ast.parse(source)))
    careful = {id(node.func) for node in nodes if isinstance(node, ast.Call) and refuses_code(node)}
    for node in nodes:
        if isinstance(node, ast.Attribute) and node.attr in LOADERS and id(node) not in careful:
            found.append(f"line {node.lineno}: {node.attr} without trust_remote_code=False")
        if not isinstance(node, ast.Call):
            continue
        name = name_of(node.func)
        if name in FORBIDDEN_CALLS or name.rsplit(".", 1)[-1] in {"extractall"}:
            found.append(f"line {node.lineno}: {name}")
        for keyword in node.keywords:
            value = keyword.value.value if isinstance(keyword.value, ast.Constant) else None
            if keyword.arg in FORBIDDEN_VALUES and value is FORBIDDEN_VALUES[keyword.arg]:
                found.append(f"line {node.lineno}: {keyword.arg}={value}")
        if name == "torch.load" and not any(each.arg == "weights_only" for each in node.keywords):
            found.append(f"line {node.lineno}: torch.load without weights_only")
    return found


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_file_runs_what_it_reads(path):
    assert findings(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "line",
    [
        "eval(text)",
        "subprocess.run(command, shell=True)",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "AutoModel.from_pretrained(name, trust_remote_code=True)",
        "AutoTokenizer.from_pretrained(name)",
        "AutoConfig.from_pretrained(name, trust_remote_code=trust)",
        "load = AutoModel.from_pretrained",
        "transformers.pipeline('fill-mask')",
        "tarfile.open(path).extractall(folder)",
        "numpy.load(path, allow_pickle=True)",
    ],
)
def test_the_reader_of_the_syntax_finds_what_it_looks_for(line):
    assert findings(line)
