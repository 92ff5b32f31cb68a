"""What a measured computation would take between machines, from its rounds and bytes.

The model, for a network with one-way latency l and bandwidth b of every role's own link:

    parties      compute + rounds * l + (sent + outside) / b
    provider     its own work + dealt / b
    overlapped   max(parties, provider)     the provider deals ahead of the parties: it waits for nobody's message
    sequential   parties + provider         the provider deals first, then the parties run

``compute`` is the work of one party's machine: in every instruction the slowest party, what roles share in one process
(combining messages), and Python. In one round every party sends and then all have received: one one-way latency.
``sent`` are the bytes that one party sends to all others, through its own link; ``outside`` are inputs and reveals,
which pass their owner's or receiver's link.

Not in the model: the start of a connection, headers, other traffic, messages that wait in a queue, the serialisation of
messages, machines that are slower or faster than the measuring one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from torchveil.errors import InvalidArgument
from torchveil.gates.base import Cost


@dataclass(frozen=True, slots=True)
class Network:
    """A network between roles: one-way latency in seconds, bandwidth of each role's link in bytes per second.

    Raises ``InvalidArgument`` unless the latency is finite and not negative and the bandwidth positive (it may be
    infinite).
    """

    latency_s: float
    bandwidth_bytes_per_s: float
    name: str = "network"

    def __post_init__(self) -> None:
        if not (0 <= self.latency_s < math.inf and self.bandwidth_bytes_per_s > 0):
            raise InvalidArgument(
                f"no network has a latency of {self.latency_s} s and {self.bandwidth_bytes_per_s} bytes per second",
                op="estimate",
                remedy="give a latency of zero or more and a bandwidth above zero",
            )


#: 0.1 ms each way, 1 Gbit/s.
LAN = Network(0.0001, 125e6, "LAN")
#: 20 ms each way, 100 Mbit/s.
WAN = Network(0.02, 12.5e6, "WAN")


@dataclass(frozen=True, slots=True)
class Estimate:
    """Seconds on a network, part by part; the header of this file has the formulas.

    compute_s    work of a party's machine, with Python
    latency_s    rounds, each one one-way latency
    transfer_s   what a party sends to the others, and inputs and reveals
    provider_s   work of the provider
    dealing_s    what the provider sends
    """

    network: Network
    compute_s: float
    latency_s: float
    transfer_s: float
    provider_s: float
    dealing_s: float

    @property
    def online_s(self) -> float:
        """The parties' part."""
        return self.compute_s + self.latency_s + self.transfer_s

    @property
    def offline_s(self) -> float:
        """The provider's part."""
        return self.provider_s + self.dealing_s

    @property
    def overlapped_s(self) -> float:
        """The provider works ahead of the parties: the lower bound. Of several rows it does not add up."""
        return max(self.online_s, self.offline_s)

    @property
    def sequential_s(self) -> float:
        """The provider deals first: the upper bound. Of several rows it adds up."""
        return self.online_s + self.offline_s


def estimate(network: Network, cost: Cost, compute_s: float, provider_s: float) -> Estimate:
    """For what takes ``compute_s`` on a party's machine, ``provider_s`` on the provider's, and costs ``cost``."""
    bandwidth = network.bandwidth_bytes_per_s
    return Estimate(
        network,
        compute_s=compute_s,
        latency_s=cost.rounds * network.latency_s,
        transfer_s=(cost.sent + cost.outside) / bandwidth,
        provider_s=provider_s,
        dealing_s=cost.dealt / bandwidth,
    )
