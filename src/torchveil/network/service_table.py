"""The table of services: which daemon answers what."""

from __future__ import annotations

from typing import Any

from torchveil.network.certificates import Identity
from torchveil.network.consent.services import HANDLERS
from torchveil.network.datasets_service import DATASET_SERVICES
from torchveil.network.health import HEALTH_SERVICES
from torchveil.network.results import RESULT_SERVICES
from torchveil.network.services import Body, Service


def _ping(_daemon: Any, _peer: Identity, _arguments: bytes, _body: memoryview) -> tuple[bytes, Body]:
    """Says nothing: whoever asks learns that it was let in."""
    return b"", ()


#: What every daemon answers,
COMMON: dict[str, Service] = {"ping": Service(_ping), **HEALTH_SERVICES}

#: and what a party answers besides.
OF_PARTIES: dict[str, Service] = {
    **DATASET_SERVICES,
    **RESULT_SERVICES,
    **{name: Service(handler, who) for name, (handler, who) in HANDLERS.items()},
}

SERVICES: dict[str, dict[str, Service]] = {"party": {**COMMON, **OF_PARTIES}, "provider": COMMON}
