"""From a checkpoint of any format to a model.

Every file takes the same steps: read it (`reading`), rename its tensors (`formats`), identify the model (`native`,
`identify`), instantiate it without memory for its tensors, match their names and shapes, fill it (`filling`).
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from upernet.checkpoints.card import ModelCard, check_card
from upernet.checkpoints.classifiers import transfer_classifiers
from upernet.checkpoints.filling import fill, guess_cause, instantiate, match_tensors
from upernet.checkpoints.finding import (
    find_checkpoint,
    find_pretrained,
    missing_weights,
    published_checkpoint,
    recipe_of,
)
from upernet.checkpoints.formats import NamedWeights, read_named
from upernet.checkpoints.header import card_of_header
from upernet.checkpoints.identify import (
    ModelInfo,
    identify_by_recipe,
    identify_by_tensors,
    info_of_recipe,
    same_architecture,
    same_classes,
)
from upernet.checkpoints.native import read_info
from upernet.checkpoints.shapes import compare_shapes, is_optional, shape_error
from upernet.checkpoints.sharing import save_folder, upload
from upernet.checkpoints.terms import refuse_research_weights
from upernet.checkpoints.zoo import zoo_entry
from upernet.errors import UpernetError
from upernet.models import UPerNet as Network
from upernet.recipe import ModelSpec, Recipe, load_recipe
from upernet.taxonomy import Taxonomy


class UPerNet(Network):  # noqa: D101 (the text is that of the network)
    __doc__ = Network.__doc__

    card: ModelCard
    """What a checkpoint says of the model: name, terms, thresholds, scores. `Parser` follows it, and it is saved."""

    def __init__(
        self,
        backbone: str | ModelSpec,
        taxonomy: Taxonomy | str | Path | None = None,
        *,
        classes: int | Sequence[str] | None = None,
        **settings: object,
    ):
        super().__init__(backbone, taxonomy, classes=classes, **settings)
        self.card = ModelCard()

    @staticmethod
    def from_pretrained(
        name_or_path: str | Path,
        *,
        revision: str | None = None,
        token: str | bool | None = None,
        cache_dir: str | Path | None = None,
        local_files_only: bool = False,
    ) -> UPerNet:
        """Return a model from the Hugging Face Hub, a folder or a file, in eval mode on the CPU.

        The checkpoint may have any format that `load_checkpoint` reads. Only weights are downloaded, and the
        `config.json` that names the classes of a model of transformers; no code is, and none runs.

        Args:
            name_or_path: `OWNER/NAME` or `hf://OWNER/NAME[/FILE][@REVISION]`, a repository on the Hub; a folder, such
                as `save_pretrained` writes; a file; or the name of a model.
            revision: Branch, tag or commit of the repository. Default: the main branch.
            token: The token for the repository. Default: that of `hf auth login` or HF_TOKEN. False: none.
            cache_dir: Folder for what is downloaded. Default: the cache of the Hub's client.
            local_files_only: Take only what has been downloaded before.

        Raises:
            UpernetError: There is no such repository, folder or file, the download fails, or the file is not safe or
                not a UPerNet (see `load_checkpoint`).

        Example:
            >>> model = UPerNet.from_pretrained("everyday")
            >>> model.levels
            ('scene', 'object', 'part', 'material', 'texture')
        """
        path = find_pretrained(
            name_or_path, revision, token=token, cache_dir=cache_dir, local_files_only=local_files_only
        )
        return load_named(path, name_or_path)

    def save_pretrained(
        self,
        save_directory: str | Path,
        *,
        card: ModelCard | Mapping[str, object] | None = None,
        half: bool = False,
    ) -> None:
        """Write the model to a folder: `model.safetensors`, in the native format, and a `README.md`.

        `from_pretrained`, `upernet.load` and `upernet parse --model` read the folder. A README.md that somebody has
        written stays as it is.

        Args:
            save_directory: The folder; it is created if it does not exist.
            card: The card, or its keys. Default: `card` of the model.
            half: Store matrices and convolutions as float16.

        Raises:
            UpernetError: The card is not valid, or a file cannot be written; then no file has changed.
        """
        save_folder(Path(save_directory), self, self.card if card is None else check_card(card), half)

    def push_to_hub(
        self,
        repo_id: str,
        *,
        card: ModelCard | Mapping[str, object] | None = None,
        half: bool = False,
        private: bool | None = None,
        token: str | bool | None = None,
        branch: str | None = None,
        create_pr: bool = False,
        commit_message: str = "Upload a model of upernet",
    ) -> str:
        """Upload the files of `save_pretrained` to a repository on the Hugging Face Hub, in one commit.

        The repository is created if it does not exist. A README.md that somebody has written there stays as it is.

        Args:
            repo_id: `OWNER/NAME`, or `NAME` for a repository of the user.
            card: The card, or its keys. Default: `card` of the model.
            half: Store matrices and convolutions as float16.
            private: Whether a new repository is private. Default: as the owner has set it, usually public.
            token: A token that may write. Default: that of `hf auth login` or HF_TOKEN.
            branch: The branch, which must exist. Default: the main branch.
            create_pr: Open a pull request instead of changing the branch.
            commit_message: The first line of the commit.

        Returns:
            The URL of the commit, or of the pull request.

        Raises:
            UpernetError: The card or the name is not valid, the token may not write there, or the connection fails; the
                repository then has all of the earlier files.
        """
        return upload(
            repo_id,
            self,
            self.card if card is None else check_card(card),
            half=half,
            private=private,
            token=token,
            branch=branch,
            create_pr=create_pr,
            commit_message=commit_message,
        )


def load_checkpoint(path: str | Path, recipe: Recipe | None = None) -> tuple[UPerNet, ModelCard]:
    """Return the model of a file, in eval mode on the CPU in float32, and its card.

    The file may be a native one, or UPerNet of InternImage, mmsegmentation (ResNet, Swin, ConvNeXt) or transformers
    (Swin, ConvNeXt), as safetensors or as `torch.save` wrote it. Files of other programs do not describe their network
    in full: what they leave open is taken from the shipped recipe of the same architecture. Their classes are those of
    ADE20K if there are 150, or those that the file names, or `class 0`, `class 1`, ... The model has an auxiliary head
    if the file has one.

    Args:
        path: the file; `find_checkpoint` returns it for a name, a folder or a reference to the Hub.
        recipe: what the model must be; needed for networks of other programs that have no name here.

    Raises:
        UpernetError: the file cannot be read (see `read_weights`), is of an unknown network, or does not fit `recipe`
            or its own description; the message then lists tensors with both shapes. Or its weights are for research
            only, and `UPERNET_NO_RESEARCH_WEIGHTS` is on.
    """
    file = read_named(path)
    info = _identify(file, recipe)
    refuse_research_weights(path, info.card.research_only)
    model = instantiate(file, info, UPerNet)
    tensors = match_tensors(file, info, model)
    fill(model, tensors)
    model.card = info.card
    return model.eval(), info.card


def load_named(path: Path, reference: str | os.PathLike[str]) -> UPerNet:
    """Return the model in the file `path`, which `reference` stands for. Its card has a name, and published terms.

    Raises:
        UpernetError: as `load_checkpoint` raises it.
    """
    model, card = load_checkpoint(path, recipe_of(reference))
    model.card, entry = card.with_default_name(path.stem), zoo_entry(os.fspath(reference))
    if entry is not None:
        model.card = model.card.with_terms(entry.license, entry.research_only)
    return model


def load_model(name: str, checkpoint: str | Path | None = None) -> UPerNet:
    """Return the model of a recipe with its weights, in eval mode.

    Args:
        name: one of `upernet.list_models()`, or the path of a recipe.
        checkpoint: where to take the weights from, as `find_checkpoint` takes it; default: the weights inside the
            package, else the published ones, which are downloaded at first use.

    Raises:
        UpernetError: the name is unknown, there are no weights for it, or the weights do not fit.
    """
    recipe = load_recipe(name)
    path = find_checkpoint(checkpoint) if checkpoint else published_checkpoint(recipe.name)
    if path is None:
        raise missing_weights(name)
    return load_checkpoint(path, recipe)[0]


def initialize_model(model: Network, path: str | Path) -> list[str]:
    """Copy into `model` every tensor of the file at `path` whose name and shape agree; the backbone must fit.

    The file may hold a backbone alone, as InternImage publishes it after training on ImageNet. If a native file has
    other classes than the model, classes of the same name keep their weights (see `transfer_classifiers`).

    Returns:
        The names of the model's tensors that keep their values, all or some of them (in the classifier of a head for
        another taxonomy, for instance, those of the classes that the file lacks).

    Raises:
        UpernetError: the file cannot be read, it has another backbone, or nothing in it fits. Or its weights are for
            research only, and `UPERNET_NO_RESEARCH_WEIGHTS` is on.
    """
    file = read_named(path)
    card = card_of_header(file.metadata, file.path)
    refuse_research_weights(path, card is not None and card.research_only)
    own = model.state_dict()
    fitting = {key: value for key, value in file.tensors.items() if key in own and own[key].shape == value.shape}
    if not fitting:
        raise UpernetError(f"{path}: no tensor fits this model; take a checkpoint with the same backbone and decoder.")
    wrong = {
        key: shapes
        for key, shapes in compare_shapes(file.tensors, own).items()
        if key.startswith("backbone.") and key in own and not is_optional(key)
    }
    if wrong:
        raise shape_error(file.path, "the backbone", wrong, guess_cause(file, model.spec, wrong))
    classifiers = transfer_classifiers(model, file.tensors, read_info(file).taxonomy) if file.is_native else {}
    model.load_state_dict(fitting | classifiers, strict=False)
    return [key for key in own if key not in fitting or key in classifiers]


def _identify(file: NamedWeights, recipe: Recipe | None) -> ModelInfo:
    """Return what the file holds: by its own description, by `recipe`, or by its tensors."""
    if file.is_native:
        info = read_info(file)
        if recipe is not None:
            _check_agreement(file, info, recipe)
        return info
    return identify_by_recipe(file, recipe) if recipe is not None else identify_by_tensors(file)


def _check_agreement(file: NamedWeights, info: ModelInfo, recipe: Recipe) -> None:
    """Raise UpernetError if the native `file`, described by `info`, is not a model of `recipe`."""
    wanted = info_of_recipe(recipe)
    is_same = same_classes(info.taxonomy, wanted.taxonomy)
    if not (is_same and same_architecture(wanted.spec, info.spec)):
        # An error about shapes says more. If all shapes fit, the architectures differ in no more than names.
        match_tensors(file, wanted, instantiate(file, wanted, Network))
    if not is_same:
        raise UpernetError(
            f"{file.path}: of another taxonomy ({info.taxonomy.name}) than {recipe.name}; load it with upernet.load."
        )
