"""What a program of an owner calls: ``share_data`` and ``fetch_result``, by the files that an owner has."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from torchveil.errors import TorchveilError
from torchveil.fixedpoint import FixedPoint
from torchveil.network import owner, results
from torchveil.network.config import ClusterConfig, read_cluster
from torchveil.network.connect import find_credentials
from torchveil.network.services import Caller


def share_data(
    cluster: str | Path | ClusterConfig,
    name: str,
    tensor: Tensor,
    *,
    target: Tensor | None = None,
    fixed_point: FixedPoint | None = None,
    columns: Sequence[str] | None = None,
    pad_rows: int | None = None,
    certificate: str | Path | None = None,
    key: str | Path | None = None,
) -> None:
    """Share a tensor of an owner as ``name``, and ``target`` as ``name.target``: one share to each party.

    cluster: the cluster's file. name: ``hospital-a/x``, the first part the name in the owner's certificate. columns,
    pad_rows: see ``torchveil.network.owner.share``, which also says what is raised. certificate, key: the owner's;
    without them the only ``owner-NAME.pem`` beside the authority's certificate, with ``owner-NAME.key``.

    All parties have it, or none. A name that was shared before is replaced.
    """
    config = _read(cluster)
    credentials = find_credentials(config, certificate, key, "owner")
    owner.share(
        config,
        credentials,
        name,
        tensor,
        target=target,
        fixed_point=fixed_point,
        columns=columns,
        pad_rows=pad_rows,
    )


def fetch_result(
    cluster: str | Path | ClusterConfig,
    name: str,
    *,
    keep: bool = True,
    certificate: str | Path | None = None,
    key: str | Path | None = None,
) -> Tensor:
    """What a controller delivered to this owner as ``name`` (``session.deliver``): float64 numbers, or bools.

    Each party's sealed share is fetched and opened here; nobody else can. keep: False has the parties forget it, once
    all of it is here; who cannot be told so is named in a warning. certificate, key: as of ``share_data``. Raises
    ``DataNotFound`` if there is no such result.
    """
    config = _read(cluster)
    caller = Caller(config, find_credentials(config, certificate, key, "owner"))
    fetched = results.fetch(caller, name)
    if not keep:
        try:
            results.forget(caller, fetched)
        except TorchveilError as error:  # the numbers are here, and perhaps nowhere else
            warnings.warn(f"not every party has forgotten {name!r}: {error.message}", stacklevel=2)
    return fetched.value


def _read(cluster: str | Path | ClusterConfig) -> ClusterConfig:
    return cluster if isinstance(cluster, ClusterConfig) else read_cluster(cluster)


__all__ = ["fetch_result", "share_data"]
