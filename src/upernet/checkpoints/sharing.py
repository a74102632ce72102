"""Saving a model as a folder with a README.md, and uploading it to the Hugging Face Hub.

The folder holds the native file, `model.safetensors`, and nothing that other parts of upernet do not read.
"""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

from upernet.checkpoints.card import ModelCard
from upernet.checkpoints.native import save_checkpoint
from upernet.checkpoints.readme import GENERATED, readme
from upernet.checkpoints.terms import BUNDLED, BUNDLED_TEXT, text_of_bundled_terms
from upernet.errors import UpernetError
from upernet.files import atomic_path, read_limited
from upernet.models import UPerNet

WEIGHTS = "model.safetensors"
README = "README.md"
MAX_README_BYTES = 2**22


def save_folder(folder: Path, model: UPerNet, card: ModelCard, half: bool, repository: str | None = None) -> list[Path]:
    """Write `model` with its auxiliary head, its README.md and, for the bundled weights, their terms.

    A README.md that somebody has written stays as it is. No file changes unless all of them can be written.

    Returns:
        The files.

    Raises:
        UpernetError: The folder or a file in it cannot be written.
    """
    if folder.exists() and not folder.is_dir():
        raise UpernetError(f"{folder}: is a file; give a folder.")
    page, terms, weights = folder / README, folder / BUNDLED_TEXT, folder / WEIGHTS
    files = [weights]
    with ExitStack() as stack:
        new_weights = stack.enter_context(atomic_path(weights))
        save_checkpoint(new_weights, model, card, half, auxiliary=True)
        if BUNDLED in card.license:
            stack.enter_context(atomic_path(terms)).write_text(text_of_bundled_terms(), encoding="utf-8")
            files.append(terms)
        if is_generated(page):
            text = readme(model, card, new_weights.stat().st_size, repository)
            stack.enter_context(atomic_path(page)).write_text(text, encoding="utf-8")
            files.append(page)
    return files


def is_generated(page: Path) -> bool:
    """Return whether a README.md may be written: there is none, or upernet has written it."""
    try:
        return GENERATED in read_limited(page, MAX_README_BYTES).decode("utf-8", errors="replace")
    except FileNotFoundError:
        return True
    except OSError as error:
        raise UpernetError(f"{page}: cannot be read ({error.strerror}); move it away.") from error


def upload(
    repository: str,
    model: UPerNet,
    card: ModelCard,
    *,
    half: bool,
    private: bool | None,
    token: str | bool | None,
    branch: str | None,
    create_pr: bool,
    commit_message: str,
) -> str:
    """Create the repository if it does not exist, upload what `save_folder` writes in one commit, and return its URL.

    A README.md that somebody has written there stays as it is. See `UPerNet.push_to_hub` for the arguments.

    Raises:
        UpernetError: The name is not OWNER/NAME or NAME, the token may not write there, or the connection fails; the
            repository then has all of the earlier files.
    """
    from huggingface_hub import CommitOperationAdd, HfApi  # imported here because the Hub's client is slow to import

    from upernet.checkpoints.hub import HUB_ERRORS, explain, hf_hub_download, is_offline

    if is_offline():
        raise UpernetError(f"{repository}: not uploaded, because UPERNET_OFFLINE is on; unset it.")
    api = HfApi(token=token)
    with TemporaryDirectory(prefix="upernet-") as temporary:
        folder = Path(temporary)
        try:
            full_name = str(api.create_repo(repository, private=private, exist_ok=True).repo_id)
            if api.file_exists(full_name, README, revision=branch):
                hf_hub_download(full_name, README, revision=branch, local_dir=folder, token=token)
            files = save_folder(folder, model, card, half, full_name)
            commit = api.create_commit(
                full_name,
                [CommitOperationAdd(file.name, file) for file in files],
                commit_message=commit_message,
                revision=branch,
                create_pr=create_pr,
            )
        except (*HUB_ERRORS, RuntimeError) as error:
            raise UpernetError(f"{repository}: not uploaded: {explain(error)}.") from None
    return str(commit.pr_url or commit.commit_url)
