"""Publishes the exported directory on the Hugging Face hub (`push`): private, only asked twice."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, HTTPError
from huggingface_hub.utils import validate_repo_id

from distill.errors import InputError


def check_push(repository: str, really: bool) -> None:
    """Refuse before any work what could not be pushed after it.

    Args:
        repository: ``USER/NAME``.
        really: also ask the hub whether it can be reached and knows the token.

    Raises:
        InputError: no such name, no connection, or no token that may write.
    """
    try:
        validate_repo_id(repository)
    except HFValidationError as error:
        raise InputError(f"--push {repository}: {error}", "USER/NAME", "correct it") from error
    if repository.count("/") != 1:
        raise InputError(f"--push {repository}", "USER/NAME", "name the user or organisation, too")
    if really:
        try:
            HfApi().whoami()
        except (HTTPError, OSError) as error:
            raise _refused(repository, error) from error


def push(output: Path, repository: str, *, public: bool, really: bool) -> list[str]:
    """Upload the directory as a model, its README.md as the card; or say what would be uploaded.

    Args:
        public: let everybody read it.
        really: upload; without it nothing leaves this machine.

    Returns:
        Lines that tell what was done.

    Raises:
        InputError: the hub refused, or the connection was lost.
    """
    files = sorted(path for path in output.rglob("*") if path.is_file())
    mebibytes = sum(path.stat().st_size for path in files) / (1 << 20)
    what = f"{len(files)} files, {mebibytes:.1f} MiB, {'public' if public else 'private'}"
    if not really:
        names = "\n".join(f"  {path.relative_to(output).as_posix()}" for path in files)
        return [
            f"would push to {repository}: {what}\n{names}",
            "nothing was uploaded: add --no-dry-run to do it",
        ]
    api = HfApi()
    try:
        api.create_repo(repository, private=not public, exist_ok=True)
        if not public and not api.model_info(repository).private:
            raise InputError(
                f"--push {repository}: that repository is public",
                "a private one, or --public",
                "add --public, or choose another name",
            )
        info = api.upload_folder(
            repo_id=repository, folder_path=output, commit_message="Exported by optical-distill"
        )
    except (HTTPError, OSError) as error:
        raise _refused(repository, error) from error
    return [f"pushed to {repository}: {what}", str(info.commit_url)]


def _refused(repository: str, error: Exception) -> InputError:
    if isinstance(error, HfHubHTTPError):
        return InputError(
            f"--push {repository}: {error}", "a token that may write", "run hf auth login"
        )
    if type(error).__name__ == "LocalTokenNotFoundError":
        return InputError(f"--push {repository}: no token", "a login", "run hf auth login")
    return InputError(
        f"--push {repository}: the hub cannot be reached ({error})",
        "a connection, and no HF_HUB_OFFLINE",
        "push from a machine that has one, or leave --no-dry-run out",
    )
