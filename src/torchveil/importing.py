"""Weights and models from elsewhere: safetensors files, and ONNX files through onnx2torch. Never pickle.

What comes out is plain: share it with ``session.share_state`` or ``session.encrypt``. An exported program
(``torch.export``) needs nothing of ours: ``session.encrypt(program.module())``.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from torch import Tensor, nn

from torchveil.errors import ConfigurationError, InvalidArgument, SessionStateError
from torchveil.tensor import EncryptedTensor

Path = str | os.PathLike[str]


def load_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, by name: a state for ``load_state_dict`` or ``session.share_state``.

    Raises ``ConfigurationError`` without safetensors, ``InvalidArgument`` for a file that is none.
    """
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load_file
    except ImportError as error:
        raise _missing("safetensors", "safetensors", error) from error
    try:
        found: dict[str, Tensor] = load_file(os.fspath(path))
    except SafetensorError as error:
        raise InvalidArgument(
            f"{os.fspath(path)} is no safetensors file: {error}",
            op="load_weights",
            remedy="write it with torchveil.save_weights or safetensors; pickled files are never read",
        ) from error
    return found


def save_weights(state: Mapping[str, Tensor], path: Path) -> None:
    """Write plain tensors (a ``state_dict``) as a safetensors file; tied ones are written once for each name.

    Raises ``SessionStateError`` when one of them is secret: nothing is revealed by saving.
    """
    secret = [name for name, x in state.items() if isinstance(x, EncryptedTensor)]
    if secret:
        raise SessionStateError(
            f"{len(secret)} of the tensors are secret (the first is {secret[0]!r}): this process holds no clear value",
            op="save_weights",
            remedy="reveal them first: session.decrypt(model), then save model.state_dict()",
        )
    try:
        from safetensors.torch import save_file
    except ImportError as error:
        raise _missing("safetensors", "safetensors", error) from error
    save_file({name: x.detach().clone().contiguous() for name, x in state.items()}, os.fspath(path))


def from_onnx(model: Path | object) -> nn.Module:
    """An ONNX model (a path, or an ``onnx.ModelProto``) as an ``nn.Module`` in evaluation mode, made by onnx2torch.

    Raises ``ConfigurationError`` when onnx2torch cannot be imported, and ``InvalidArgument`` for a model that it cannot
    convert. Its operations may still lack an encrypted form: ``torchveil.check`` says which.
    """
    try:
        from onnx2torch import convert
    except (ImportError, RuntimeError, AttributeError) as error:
        # torchvision, which it needs, raises a RuntimeError when it was built for another torch
        raise _missing("onnx2torch", "torchveil[onnx]", error) from error
    source = os.fspath(model) if isinstance(model, (str, os.PathLike)) else model
    try:
        module: nn.Module = convert(source)
    except (NotImplementedError, ValueError, RuntimeError) as error:
        raise InvalidArgument(
            f"onnx2torch cannot convert the model: {error}",
            op="from_onnx",
            remedy="export it with another opset, or rebuild the module in PyTorch and load its weights",
        ) from error
    return module.eval()


def _missing(package: str, install: str, error: Exception) -> ConfigurationError:
    return ConfigurationError(
        f"{package} cannot be imported: {error}",
        op=package,
        remedy=f"pip install '{install}', with a torchvision built for your torch (same version, CPU or CUDA alike)"
        if package == "onnx2torch"
        else f"pip install {install}",
    )


__all__ = ["from_onnx", "load_weights", "save_weights"]
