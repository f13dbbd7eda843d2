"""Runs ``distill COMMAND`` and ``python -m distill COMMAND``: the one front door.

``distill train`` and ``distill train-teacher`` go through ``accelerate launch``, whose own options
stand in front of ``--``: ``distill train --num_processes 4 -- recipe.yaml key=value``.
"""

from __future__ import annotations

import os
import runpy
import sys

from distill.errors import InputError, one_line_errors

#: Command → module, its first arguments, and what it does.
COMMANDS: dict[str, tuple[str, list[str], str]] = {
    "shards": ("data_shards", [], "build shards from bitext; verify them"),
    "train-teacher": ("distill.train_teacher", [], "train an English teacher"),
    "estimate": ("distill.tools.estimate", [], "estimate memory, time and cost of a recipe"),
    "store-tokens": ("distill.tools.store_tokens", [], "tokenise a recipe's bitext once"),
    "learn-lexicon": ("distill.tools.learn_lexicon", [], "learn lexicons from a recipe's bitext"),
    "train": ("distill.train", [], "distil a query encoder"),
    "evaluate": ("distill.evaluation", ["evaluate"], "search collections and score the runs"),
    "compare": ("distill.evaluation", ["compare"], "test two systems' per-query values"),
    "report": ("distill.evaluation", ["report"], "write the HTML page of an evaluation folder"),
    "convert": ("distill.evaluation", ["convert"], "make a collection from published files"),
    "study": ("distill.studies", [], "train, evaluate and compare the variants of a study"),
    "average": ("distill.tools.average", [], "average a student with its start"),
    "export": ("distill.export", [], "write a run's student for other libraries"),
    "search": ("distill.search", [], "search documents in any language"),
}
_LAUNCHED = ("train", "train-teacher")


def usage() -> str:
    """One line per command."""
    lines = [f"  {name:14} {summary}" for name, (_, _, summary) in COMMANDS.items()]
    return "usage: distill COMMAND [OPTIONS]\n\n" + "\n".join(lines)


def main(arguments: list[str] | None = None) -> None:
    """Run a command's module in this process, or hand over to accelerate's launcher."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if not arguments or arguments[0] in ("-h", "--help"):
        print(usage())
        return
    name, rest = arguments[0], arguments[1:]
    with one_line_errors():
        if name not in COMMANDS:
            raise InputError(f"command {name!r}", f"one of {', '.join(COMMANDS)}", "see --help")
    module, first, _ = COMMANDS[name]
    if name in _LAUNCHED and "--help" not in rest and "-h" not in rest:
        _launch(module, rest)
    sys.argv = [f"distill {name}", *first, *rest]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def _launch(module: str, arguments: list[str]) -> None:
    """Become ``accelerate launch``; this process ends here."""
    options, rest = [], arguments
    if "--" in arguments:
        place = arguments.index("--")
        options, rest = arguments[:place], arguments[place + 1 :]
    launcher = [sys.executable, "-m", "accelerate.commands.launch"]
    sys.stdout.flush()
    os.execv(sys.executable, [*launcher, *options, "-m", module, *rest])


if __name__ == "__main__":
    main()
