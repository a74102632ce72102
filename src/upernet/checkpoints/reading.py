"""Reading files of weights, safetensors or written by `torch.save`, as tensors by name.

Formats are recognized by content, not by name; no code in a file is executed.
"""

from __future__ import annotations

import os
import pickle
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from upernet.errors import UpernetError
from upernet.files import refuse_special_file

WRAPPERS = ("state_dict_ema", "model_ema", "state_dict", "model", "ema_state_dict")
"""Keys under which training programs store a state dict. The first one in a file is taken, so moving averages (EMA)
come before last weights. `ema_state_dict` comes last: mmengine, which writes it, has the averages in `state_dict`."""
EXPORTED = {"onnx": ".onnx", "openvino": ".xml", "torch": ".pt2"}
"""Format of an exported network, which is a graph rather than a state dict -> suffix of its file."""
PREFIXES = ("module.", "_orig_mod.", "model.")
"""Prefixes that wrappers of a network (DistributedDataParallel, torch.compile, Lightning) put before every name."""


@dataclass(frozen=True)
class Weights:
    """The content of a file."""

    path: Path
    tensors: dict[str, Tensor]
    """Dense, finite, on the CPU, floating-point ones in float32. They may be views of the mapped file."""
    metadata: dict[str, object]
    """Metadata in the header of safetensors, or `meta` beside the state dict."""


class _Extra(dict[Any, Any]):
    """Stand-in for an object that is not a tensor: it holds what the file puts into it, whatever its class."""

    def __init__(self, *_: Any) -> None:
        super().__init__()

    def __setstate__(self, _: Any) -> None:
        pass


EXTRAS = (
    "argparse.Namespace",
    "pathlib.PosixPath",
    "pathlib.WindowsPath",
    "pathlib._local.PosixPath",
    "pathlib._local.WindowsPath",
    "numpy.dtype",
    "numpy.ndarray",
    "numpy.core.multiarray._reconstruct",
    "numpy.core.multiarray.scalar",
    "numpy._core.multiarray._reconstruct",
    "numpy._core.multiarray.scalar",
    "yacs.config.CfgNode",
    "addict.addict.Dict",
    "mmcv.utils.config.ConfigDict",
    "mmengine.config.config.ConfigDict",
    "mmengine.logging.history_buffer.HistoryBuffer",
    "builtins.getattr",
)
"""Classes and functions that training programs store beside weights (options, scores, logs). They become `_Extra`
objects; nothing of these names is imported or called. A file that needs any other name is refused."""
_STAND_INS: list[Any] = [
    type(name.rpartition(".")[2], (_Extra,), {"__module__": name.rpartition(".")[0]}) for name in EXTRAS
]


def exported_suffix(path: str | os.PathLike[str]) -> str:
    """Return the suffix of a file that holds an exported network; "": `path` is anything else."""
    suffix = Path(path).suffix.lower()
    return suffix if suffix in EXPORTED.values() else ""


def read_weights(path: str | Path) -> Weights:
    """Return the tensors of a file.

    Raises:
        UpernetError: the file is missing, is not a file of weights, is cut off or damaged, needs code to be read, or
            has tensors that are not dense, not finite, or larger than the file.
    """
    path = Path(path)
    refuse_special_file(path)
    if not os.path.isfile(path):
        what = "a folder; give the file in it" if os.path.isdir(path) else "no such checkpoint file"
        raise UpernetError(f"{path}: {what}.")
    if exported_suffix(path):
        raise UpernetError(
            f"{path}: an exported network, which `upernet parse` runs; give the checkpoint that it was exported from."
        )
    try:
        with open(path, "rb") as file:
            start = file.read(64)
        size = path.stat().st_size
        if start[8:9] == b"{" and start[6:8] == b"\0\0":  # length of the header, 8 bytes; the header, JSON
            tensors, metadata = _read_safetensors(path)
        elif start.startswith((b"PK\x03\x04", b"\x80")):
            tensors, metadata = _read_torch(path, is_zip=start.startswith(b"PK"))
        else:
            raise UpernetError(f"{path}: {_explain_content(start)}.")
    except OSError as error:
        raise UpernetError(f"{path}: cannot be read ({error.strerror or error}).") from error
    if not tensors:
        raise UpernetError(f"{path}: holds no tensors; give a file with a state dict (names with tensors).")
    return Weights(path, {key: _check_tensor(path, key, value, size) for key, value in tensors.items()}, metadata)


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    try:
        with cast(Any, safe_open)(path, framework="pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except SafetensorError as error:
        raise UpernetError(f"{path}: not a readable safetensors file, {_damage(str(error))}.") from error


def _read_torch(path: Path, is_zip: bool) -> tuple[dict[str, Tensor], dict[str, Any]]:
    try:
        if is_zip:
            with zipfile.ZipFile(path) as archive:
                entries = archive.infolist()
            if not any(entry.filename.endswith("/data.pkl") for entry in entries):
                raise UpernetError(f"{path}: a zip archive without weights of torch; unpack it.")
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
                raise UpernetError(f"{path}: a compressed archive, which torch does not write; save it again.")
        mapped = is_zip and path.suffix.lower() != ".safetensors"  # torch.load goes by the suffix of a path
        with torch.serialization.safe_globals(_STAND_INS), open(path, "rb") as file:
            content = torch.load(path if mapped else file, map_location="cpu", weights_only=True, mmap=mapped)
    except (UpernetError, OSError):
        raise
    except pickle.UnpicklingError as error:
        message = str(error)
        asked = re.search(r"GLOBAL (\S+)|whose module (\S+) is blocked", message)
        if asked is None and "can only" not in message.lower() and "reduce" not in message:
            raise UpernetError(f"{path}: {_damage('no whole pickle')}.") from error
        name = next(filter(None, asked.groups())) if asked else "an object"
        raise UpernetError(
            f"{path}: refused because reading it would run code ({name}), which could do anything; if you trust it, "
            "load it with the program that wrote it and save the state dict alone with torch.save."
        ) from error
    except Exception as error:  # torch raises many types for damaged files
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UpernetError(f"{path}: {_damage(reason)}.") from error
    if not isinstance(content, dict):
        raise UpernetError(
            f"{path}: not a state dict (names with tensors); save it with torch.save(model.state_dict())."
        )
    values = cast(dict[object, object], content)
    meta = values.get("meta")
    return _state_dict(values), cast(dict[str, Any], meta) if isinstance(meta, dict) else {}


def _state_dict(content: dict[Any, Any]) -> dict[str, Tensor]:
    """Return the tensors of the state dict in `content`, or of `content` itself, without prefixes that all share."""
    inside = (_tensors(content.get(key)) for key in WRAPPERS)
    tensors = next(filter(None, inside), None) or _tensors(content)
    while prefix := next((p for p in PREFIXES if _all_begin_with(p, tensors)), None):
        tensors = {key.removeprefix(prefix): value for key, value in tensors.items()}
    return tensors


def _tensors(content: Any) -> dict[str, Tensor]:
    if not isinstance(content, Mapping):
        return {}
    items = cast(Mapping[object, object], content).items()
    return {key: value for key, value in items if isinstance(key, str) and isinstance(value, Tensor)}


def _all_begin_with(prefix: str, tensors: dict[str, Tensor]) -> bool:
    """Return whether all names begin with `prefix`, apart from scalars: counters of a training program."""
    keys = [key for key, value in tensors.items() if value.ndim]
    return bool(keys) and all(key.startswith(prefix) for key in keys)


def _check_tensor(path: Path, key: str, value: Tensor, file_size: int) -> Tensor:
    """Return `value` in float32 if it is a floating-point tensor; refuse what no network can use."""
    value = value.detach()
    if value.layout != torch.strided or value.is_meta or value.is_quantized:
        raise UpernetError(f"{path}: tensor {key} is not a plain tensor; save the float32 network.")
    if value.numel() * value.element_size() > file_size:
        raise UpernetError(f"{path}: tensor {key} claims to be larger than the file; fetch or write it again.")
    if value.is_floating_point():
        value = value.float()
        if value.numel() and not all(map(torch.isfinite, value.aminmax())):
            raise UpernetError(f"{path}: tensor {key} has values that are not finite; write or train it again.")
    return value


def _damage(reason: str) -> str:
    return f"cut off or damaged ({reason.rstrip('.')}); fetch or write it again"


def _explain_content(start: bytes) -> str:
    """Return what a file without weights is, by its first bytes, and what to do."""
    if not start:
        return "empty; fetch or write it again"
    if start.startswith(b"version https://git-lfs"):
        return "a pointer of Git LFS instead of weights; run `git lfs pull` in its folder"
    text = start.decode("utf-8", errors="replace").strip()
    if text.startswith("<") or ("\ufffd" not in text[:-3] and text.isprintable()):
        return f"text instead of weights (it begins with {text[:24]!r}); download it again and check the URL"
    return "not weights that upernet can read (safetensors, or written by torch.save)"
