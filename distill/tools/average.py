"""Averages a student with its start: ``distill average START STUDENT OUT``.

Training on bitext takes back some of what a student could do before: names that no bitext has,
questions. Weights on the line between the two points often keep most of both (WiSE-FT: Wortsman et
al., CVPR 2022, arXiv 2109.01903).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from distill.disks import path_argument
from distill.distributed.process import prepare_process
from distill.encoders.directory import is_late_interaction, load_encoder, save_encoder
from distill.encoders.late_interaction import LateInteractionEncoder
from distill.encoders.text import TextEncoder
from distill.errors import InputError, one_line_errors


def average(start: Path, student: Path, share: float) -> tuple[LateInteractionEncoder, TextEncoder]:
    """``(1 - share) * start + share * student`` of every weight, in float32; no gradient.

    Args:
        start: the encoder directory that the student began from.
        student: the trained one; its tokenizer and text settings are kept.
        share: of the student, from 0 to 1.

    Raises:
        InputError: a share outside, a directory that is no late-interaction encoder, or two whose
            weights or vocabularies do not correspond, as where one did not begin from the other.
    """
    if not 0 <= share <= 1:
        raise InputError(f"--share {share}", "from 0, the start, to 1, the student", "correct it")
    for path in (start, student):
        if not path.is_dir() or not is_late_interaction(str(path)):
            raise InputError(
                f"{path}: no encoder with a projection",
                "directories of late-interaction encoders",
                "where a run made its own projection, there is none to average with",
            )
    encoder, text = load_encoder(str(student))
    first, first_text = load_encoder(str(start))
    before = first.state_dict()
    after = encoder.state_dict()
    shapes = [{name: tuple(weight.shape) for name, weight in s.items()} for s in (before, after)]
    if shapes[0] != shapes[1] or first_text.tokenizer.get_vocab() != text.tokenizer.get_vocab():
        raise InputError(
            f"{start} and {student}: other weights or another vocabulary",
            "a student and what it was trained from",
            "name the student.model of its recipe, or its teacher; a pruned vocabulary has none",
        )
    with torch.no_grad():
        for name, weight in after.items():
            if weight.is_floating_point():
                weight.lerp_(before[name], 1 - share)
    return encoder, text


def parse_arguments(arguments: Sequence[str]) -> argparse.Namespace:
    """The command line's options."""
    parser = argparse.ArgumentParser(
        prog="distill average", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument(
        "start", type=path_argument, help="encoder directory that the student began from"
    )
    parser.add_argument(
        "student", type=path_argument, help="encoder directory, such as RUN/student"
    )
    parser.add_argument("output", type=path_argument, help="directory to write")
    parser.add_argument(
        "--share", type=float, default=0.7, help="of the student, from 0 to 1; 0.7 by default"
    )
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    """Command line."""
    options = parse_arguments(sys.argv[1:] if arguments is None else arguments)
    prepare_process()
    with one_line_errors():
        if options.output.exists() and any(options.output.iterdir()):
            raise InputError(f"{options.output}: not empty", "a new directory", "name another")
        save_encoder(options.output, *average(options.start, options.student, options.share))
        print(f"{options.share:g} of {options.student}: {options.output}")


if __name__ == "__main__":
    main()
