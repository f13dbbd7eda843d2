"""Experiment trackers beside TensorBoard: those that accelerate knows, by name.

`distill.monitoring.Curves` writes TensorBoard's files itself: it hides the points of steps that are
trained again, and takes pictures. The others get every scalar and the recipe.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from accelerate.tracking import LOGGER_TYPE_TO_CLASS, GeneralTracker, get_available_trackers

from distill.errors import InputError
from distill.recipe.files import shown_settings
from distill.recipe.recipe import Recipe

TENSORBOARD = "tensorboard"
#: Left alone, W&B stores the command line, and with it what a shard's URL or command may hide.
_WANDB = {"settings": {"x_disable_meta": True}}


def check_trackers(names: Sequence[str]) -> None:
    """Refuse a tracker that accelerate does not know, or whose package is not here.

    Raises:
        InputError: see above.
    """
    available = {str(name) for name in get_available_trackers()}
    for name in names:
        if name not in LOGGER_TYPE_TO_CLASS:
            raise InputError(
                f"trackers: {name}", f"some of {', '.join(sorted(LOGGER_TYPE_TO_CLASS))}", "drop it"
            )
        if name not in available:
            raise InputError(
                f"trackers: {name}, whose package is not installed",
                "one that is",
                f"pip install {name.replace('_', '-')}",
            )


def start_trackers(recipe: Recipe) -> list[GeneralTracker]:
    """Start the recipe's trackers but TensorBoard, and give them the recipe; on rank 0 only.

    A tracker finds its server and its key where its own library looks for them, in the environment
    or in the home directory; nothing of them is read here.

    Raises:
        InputError: a tracker that does not start, for example without a key.
    """
    directory, started = recipe.run_directory, []
    for name in recipe.trackers:
        if name == TENSORBOARD:
            continue
        kind = LOGGER_TYPE_TO_CLASS[name]
        options: dict[str, Any] = {}
        if kind.requires_logging_directory:
            options = {"logging_dir": str(directory)}
        elif name == "wandb":
            options = {"dir": str(directory), **_WANDB}
        try:
            tracker = kind(recipe.name, **options)
            tracker.start()
            tracker.store_init_configuration(flat(shown_settings(recipe)))
        except Exception as error:  # Each service has exceptions of its own.
            raise InputError(
                f"trackers: {name} does not start: {error}",
                "one that does",
                "log in to it, set its offline mode (WANDB_MODE=offline), or drop it",
            ) from error
        started.append(tracker)
    return started


def flat(settings: dict, prefix: str = "") -> dict[str, str | int | float | bool]:
    """Nested settings with dotted names, as trackers take them; lists as text."""
    values: dict[str, str | int | float | bool] = {}
    for name, value in settings.items():
        if isinstance(value, dict):
            values.update(flat(value, f"{prefix}{name}."))
        else:
            plain = isinstance(value, str | int | float | bool)
            values[prefix + name] = value if plain else str(value)
    return values
