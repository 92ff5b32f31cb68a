"""Names of protocols that PySyft offered, and what runs here when one is asked for.

There is one protocol: additive shares of n workers in the ring of 2**64, with correlated randomness from the crypto
provider. The names are accepted so that programs run unchanged; none of them changes what is computed.
"""

from __future__ import annotations

import logging
import warnings

from syft.exceptions import UnknownProtocolError
from syft.registry import registry

_DEALER = (
    "additive shares of all workers mod 2**64; the crypto provider deals masks and products; comparisons are exact "
    "for the whole ring; any number of workers from 2; semi-honest"
)

#: name -> what runs instead
PROTOCOLS: dict[str, str] = {
    "snn": f"SecureNN (2 workers and a helper) is not run. Instead: {_DEALER}",
    "fss": f"function secret sharing (2 workers, 32 bits) is not run. Instead: {_DEALER}",
    "mpc": _DEALER,
}

_log = logging.getLogger("syft")
_said: set[str] = set()


def check_protocol(name: str) -> None:
    """Accept a known name, saying once what runs; otherwise ``UnknownProtocolError`` with the known names."""
    text = PROTOCOLS.get(name)
    if text is None:
        known = ", ".join(sorted(PROTOCOLS))
        raise UnknownProtocolError(f"protocol {name!r} is not known; known names: {known} (all run the same protocol)")
    say_once(f'protocol="{name}": {text}')


def describe_protocol(name: str) -> str:
    """What runs under a protocol name. Raises ``UnknownProtocolError`` for a name that is not known."""
    check_protocol(name)
    return PROTOCOLS[name]


def say_once(text: str) -> None:
    """Log a remark the first time it is due; as a warning too when the hook is verbose."""
    if text in _said:
        return
    _said.add(text)
    _log.info(text)
    if registry.hook is not None and registry.hook.verbose:
        warnings.warn(text, UserWarning, stacklevel=4)
