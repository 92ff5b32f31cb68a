"""torchveil: PyTorch on secret-shared tensors.

>>> import torch, torchveil
>>> session = torchveil.Session()
>>> x = session.share(torch.tensor([[1.0, 2.0]]))
>>> model = session.encrypt(torch.nn.Linear(2, 1))
>>> y = model(x)          # nobody can read x, the weights or y
>>> y.reveal()            # an explicit, counted reveal
"""

from __future__ import annotations

from torchveil.checking import Report, check
from torchveil.compiling import CompiledFunction, compile
from torchveil.costs import CostReport
from torchveil.errors import (
    CallerError,
    ConfigurationError,
    Desynchronised,
    EncodingError,
    InvalidArgument,
    LabelReused,
    PlainDiverged,
    PlainWrite,
    PlanError,
    PrecisionLoss,
    ProtocolError,
    RangeExceeded,
    RevealRequired,
    SessionMismatch,
    SessionStateError,
    ShapeMismatch,
    TorchveilError,
    UnsupportedOperation,
    WouldBePublished,
)
from torchveil.fixedpoint import FixedPoint
from torchveil.importing import from_onnx, load_weights, save_weights
from torchveil.network.connect import NetworkSession, connect
from torchveil.network.owner_calls import fetch_result, share_data
from torchveil.profiling import LAN, WAN, Network, Profile
from torchveil.public import public
from torchveil.session import Session
from torchveil.tensor import EncryptedTensor
from torchveil.version import VERSION

__version__ = VERSION

__all__ = [
    "LAN",
    "WAN",
    "CallerError",
    "CompiledFunction",
    "ConfigurationError",
    "CostReport",
    "Desynchronised",
    "EncodingError",
    "EncryptedTensor",
    "FixedPoint",
    "InvalidArgument",
    "LabelReused",
    "Network",
    "NetworkSession",
    "PlainDiverged",
    "PlainWrite",
    "PlanError",
    "PrecisionLoss",
    "Profile",
    "ProtocolError",
    "RangeExceeded",
    "Report",
    "RevealRequired",
    "Session",
    "SessionMismatch",
    "SessionStateError",
    "ShapeMismatch",
    "TorchveilError",
    "UnsupportedOperation",
    "WouldBePublished",
    "check",
    "compile",
    "connect",
    "fetch_result",
    "from_onnx",
    "load_weights",
    "public",
    "save_weights",
    "share_data",
]
