"""Models in two files: `encoder_epoch_N.pth` and `decoder_epoch_N.pth` of CSAILVision/unifiedparsing.

Either file, or their folder, stands for the model. A half is recognized by its tensors; the other half is the file
beside it whose name has `decoder` in place of `encoder`.
"""

from __future__ import annotations

from pathlib import Path

from upernet.checkpoints.formats.unifiedparsing import DECODER, ENCODER, is_decoder, is_encoder
from upernet.checkpoints.reading import Weights, read_weights
from upernet.errors import UpernetError

HALVES = ("encoder", "decoder")


def other_half(path: Path) -> Path | None:
    """Return the name that the other half of a model has; None if `path` is not named as a half."""
    for own, other in (HALVES, HALVES[::-1]):
        if path.name.startswith(own):
            return path.with_name(other + path.name.removeprefix(own))
    return None


def encoder_in(folder: Path, files: list[Path]) -> Path | None:
    """Return the encoder of the only model in two files among the `files` of `folder`; None if there are no halves.

    Raises:
        UpernetError: There are several such models, or the halves do not belong together.
    """
    halves = [file for file in files if other_half(file) is not None]
    encoders = [file for file in halves if file.name.startswith(HALVES[0]) and other_half(file) in halves]
    if len(encoders) == 1 or not halves:
        return next(iter(encoders), None)
    if encoders:
        names = ", ".join(file.name for file in encoders)
        raise UpernetError(f"{folder}: holds several models ({names}); give the encoder of one.")
    names = ", ".join(file.name for file in halves)
    raise UpernetError(
        f"{folder}: holds no encoder and decoder of the same epoch (found: {names}); add the file that is missing."
    )


def join_halves(weights: Weights) -> Weights:
    """Return the tensors of both halves if `weights` is one of them, else `weights`.

    An encoder that is not named as a half is a backbone alone.

    Raises:
        UpernetError: The other half is missing, cannot be read, or is not one.
    """
    holds_encoder = is_encoder(weights.tensors)
    if not holds_encoder and not is_decoder(weights.tensors):
        return weights
    path = weights.path
    own, other = HALVES if holds_encoder else HALVES[::-1]
    partner = other_half(path)
    if partner is None:
        if holds_encoder:
            return weights
        raise UpernetError(
            f"{path}: a decoder alone; name it decoder_epoch_N.pth, and put encoder_epoch_N.pth beside it."
        )
    if not path.name.startswith(own):
        held = "an encoder" if holds_encoder else "a decoder"
        raise UpernetError(f"{path}: holds {held}, in spite of its name; name the files after what they hold.")
    if not partner.is_file():
        raise UpernetError(f"{path}: the {own} of a model whose {other} is missing; put {partner.name} beside it.")
    second = read_weights(partner)
    if not (is_decoder if holds_encoder else is_encoder)(second.tensors):
        raise UpernetError(f"{partner}: not the {other} that {path.name} needs; fetch or write it again.")
    encoder, decoder = (weights, second) if holds_encoder else (second, weights)
    tensors = {f"{ENCODER}{key}": value for key, value in encoder.tensors.items()}
    tensors |= {f"{DECODER}{key}": value for key, value in decoder.tensors.items()}
    return Weights(path, tensors, {})
