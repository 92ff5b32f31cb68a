"""What is wrong with a cluster, and what to do: names, ports, certificates, clocks, versions, agreement, links.

Every check ends in a ``Check``: ok, a warning, or failed with a remedy. What depends on something that failed is not
tried, so that one fault shows once. Links are measured by their own ends: every role is asked to probe its peers.

The prediction takes the slowest link between parties for rounds and sent bytes (in one round all have to hear from all)
and the slowest link from the provider for what is dealt. It is the network's time alone unless the work of the machines
is given.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import permutations
from types import MappingProxyType
from typing import Protocol

from torchveil.errors import (
    CertificateError,
    DeadlineExceeded,
    LimitExceeded,
    MalformedMessage,
    PeerLost,
    PeerRejected,
    TorchveilError,
)
from torchveil.gates.base import Cost
from torchveil.network.commands.reach import Reach
from torchveil.network.commands.status import expiry
from torchveil.network.health import Link, Status, ask_measure, ask_status, measure_link, one_line
from torchveil.network.inspection import WARN_DAYS
from torchveil.network.links import look_up, open_tcp
from torchveil.profiling.network import Estimate, Network, estimate
from torchveil.profiling.units import duration, size

OK, WARNING, FAILED = "ok", "warning", "failed"
CLOCK_WARNING_S = 1.0
CLOCK_FAILED_S = 30.0
PORT_TIMEOUT_S = 5.0


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at: its name, the role or link, how it is, what was seen, what to do."""

    name: str
    subject: str
    state: str
    seen: str
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """All checks, and the links that could be measured, by their two ends; "here" is this machine."""

    checks: tuple[Check, ...]
    links: Mapping[tuple[str, str], Link]

    @property
    def ok(self) -> bool:
        """Whether nothing failed; warnings may remain."""
        return not self.failed

    @property
    def failed(self) -> tuple[Check, ...]:
        """What has to be mended."""
        return tuple(check for check in self.checks if check.state == FAILED)


#: What an error of a first question to a daemon means: error -> (check, what to do unless the error says it).
_MEANING: Mapping[type[TorchveilError], tuple[str, str]] = MappingProxyType(
    {
        PeerRejected: (
            "identity",
            "compare the certificates of both ends (torchveil certs show): one authority, one cluster, the right role",
        ),
        CertificateError: ("identity", "look for what is wrong with torchveil certs check, and issue it anew"),
        PeerLost: (
            "service",
            "something listens there and hangs up: see whether it is this role's daemon, and read its log",
        ),
        DeadlineExceeded: ("service", "the daemon takes connections and does not answer: read its log, restart it"),
        MalformedMessage: ("service", "run the same version of torchveil on all machines"),
        LimitExceeded: ("service", "the daemon is full: end sessions, or raise its limits"),
    }
)

Resolve = Callable[[str, int], object]
Connect = Callable[[str, int], None]


def resolve_name(host: str, port: int) -> object:
    """Whether the name has an address; raises ``OSError``."""
    return look_up(host, port, PORT_TIMEOUT_S)


def open_port(host: str, port: int) -> None:
    """Whether a connection is accepted; raises ``OSError``."""
    open_tcp(host, port, PORT_TIMEOUT_S).close()


def examine(
    reach: Reach,
    *,
    resolve: Resolve = resolve_name,
    connect: Connect = open_port,
    now: Callable[[], float] = time.time,
) -> Diagnosis:
    """Look at everything, one role after the other; some MiB cross every link. Raises nothing about what it finds."""
    checks = [_expiry("here", reach.expires_at_s, now())]
    links: dict[tuple[str, str], Link] = {}
    alive: dict[str, Status] = {}
    for role in reach.roles:
        found, reply = _reached(reach, role, resolve, connect)
        checks += found
        if reply is not None:
            alive[role] = reply
            checks += _agreement(reach, role, reply)
            checks.append(_expiry(role, reply.certificate_expires_at_s, now()))
            links["here", role] = measure_link(reach.ask, role)
    for role in alive:
        for peer in alive:
            if peer != role:
                links[role, peer] = ask_measure(reach.ask, role, peer)
    checks += [_link(role, link) for (role, _), link in links.items()]
    good = {ends: link for ends, link in links.items() if not link.code}
    checks += _clocks([link for (role, _), link in good.items() if role == "here"])
    return Diagnosis(tuple(checks), MappingProxyType(good))


# --- one role ---------------------------------------------------------------------------------------------------------


def _reached(reach: Reach, role: str, resolve: Resolve, connect: Connect) -> tuple[list[Check], Status | None]:
    address = reach.addresses[role]
    host, _, port = address.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    try:
        resolve(host, int(port))
    except OSError as error:
        remedy = f"correct the address of {role} in the cluster's file, or the name server of this machine"
        return [Check("name", role, FAILED, f"{host} is not known: {_reason(error)}", remedy)], None
    checks = [Check("name", role, OK, host)]
    try:
        connect(host, int(port))
    except OSError as error:
        remedy = f"start {role}, see that it listens at this port, and let the port through firewalls on the way"
        return [*checks, Check("port", role, FAILED, f"{address} takes no connection: {_reason(error)}", remedy)], None
    checks.append(Check("port", role, OK, address))
    try:
        reply = ask_status(reach.ask, role)
    except TorchveilError as error:
        name, remedy = _meaning(error)
        return [*checks, Check(name, role, FAILED, f"{error.code}: {one_line(error)}", remedy)], None
    return [*checks, Check("identity", role, OK, "of this cluster's authority, for this role")], reply


def _meaning(error: TorchveilError) -> tuple[str, str]:
    for kind, (name, remedy) in _MEANING.items():
        if isinstance(error, kind):
            return name, error.remedy or remedy
    return "service", error.remedy or f"torchveil explain {error.code}"


def _reason(error: OSError) -> str:
    return error.strerror or type(error).__name__


def _agreement(reach: Reach, role: str, reply: Status) -> Iterator[Check]:
    if reply.version == reach.version:
        yield Check("version", role, OK, reply.version)
    else:
        seen = f"{role} runs {reply.version}, this machine {reach.version}"
        yield Check("version", role, FAILED, seen, "install the same version of torchveil everywhere")
    if reply.config_digest == reach.config_digest:
        yield Check("configuration", role, OK, reply.config_digest[:16])
    else:
        seen = f"{role} has the digest {reply.config_digest[:16]}, this machine {reach.config_digest[:16]}"
        agreed = "name, roles in order, ranks, deadline_s"
        remedy = f"give all roles the same cluster file ({agreed}) and authority, and restart them"
        yield Check("configuration", role, FAILED, seen, remedy)


def _expiry(role: str, at_s: float, now_s: float) -> Check:
    seen = expiry(at_s, now_s)
    remedy = f"issue a new certificate for {'yourself' if role == 'here' else role} (torchveil certs issue)"
    if at_s <= now_s:
        return Check("expiry", role, FAILED, "the certificate has expired", remedy)
    if at_s - now_s < WARN_DAYS * 86400:
        return Check("expiry", role, WARNING, f"the certificate ends {seen}", remedy)
    return Check("expiry", role, OK, seen)


# --- links ------------------------------------------------------------------------------------------------------------


def _link(role: str, link: Link) -> Check:
    subject = f"{role} -> {link.peer}"
    if not link.code:
        seen = f"{duration(link.one_way_s)} each way, {size(int(link.sent_bytes_per_s))}/s"
        return Check("link", subject, OK, seen)
    remedy = f"see that {role} reaches the address of {link.peer}: name, firewall, certificate; "
    return Check("link", subject, FAILED, f"{link.code}: {link.message}", remedy + f"torchveil explain {link.code}")


def _clocks(links: Sequence[Link]) -> Iterator[Check]:
    """Every clock against the middle one, ours included; of a difference half a round trip is uncertain."""
    ahead = {"here": (0.0, 0.0), **{link.peer: (link.clock_ahead_s, link.round_trip_s / 2) for link in links}}
    middle = statistics.median_low(seconds for seconds, _ in ahead.values())
    for role, (seconds, uncertain_s) in ahead.items():
        off_s = seconds - middle
        seen = f"{duration(abs(off_s))} {'ahead of' if off_s > 0 else 'behind'} the middle one"
        certain_s = max(abs(off_s) - uncertain_s, 0.0)
        if certain_s < CLOCK_WARNING_S:
            yield Check("clock", role, OK, seen)
        else:
            remedy = f"let the machine of {role} take its time from a time server (chrony, systemd-timesyncd)"
            yield Check("clock", role, FAILED if certain_s >= CLOCK_FAILED_S else WARNING, seen, remedy)


# --- prediction -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Speed:
    """The network of a cluster as the estimate takes it: between parties, and from the provider."""

    parties: Network
    dealing: Network


def speed(diagnosis: Diagnosis, roles: Sequence[str]) -> Speed | None:
    """The slowest link of each kind, or None if one of them could not be measured."""
    parties = [role for role in roles if role.startswith("party/")]
    between = list(permutations(parties, 2))
    dealing = [(role, party) for role in roles if role.startswith("provider/") for party in parties]
    if not (between and dealing and diagnosis.links.keys() >= {*between, *dealing}):
        return None
    return Speed(_slowest(diagnosis, between, "between parties"), _slowest(diagnosis, dealing, "from the provider"))


def _slowest(diagnosis: Diagnosis, ends: Sequence[tuple[str, str]], name: str) -> Network:
    links = [diagnosis.links[pair] for pair in ends]
    return Network(max(link.one_way_s for link in links), min(link.sent_bytes_per_s for link in links), name)


@dataclass(frozen=True, slots=True)
class Prediction:
    """What one phase of a program costs, and the seconds it would take on the measured links."""

    phase: str
    cost: Cost
    estimate: Estimate


class Phase(Protocol):
    """A part of a program with its exact cost, as ``torchveil.check`` finds them."""

    @property
    def name(self) -> str: ...

    @property
    def cost(self) -> Cost: ...


def predictions(
    diagnosis: Diagnosis, roles: Sequence[str], phases: Iterable[Phase], compute_s: float = 0.0
) -> tuple[Prediction, ...]:
    """One for each phase; none if not all links were measured. ``compute_s``: a party's own work in a phase."""
    measured = speed(diagnosis, roles)
    if measured is None:
        return ()
    return tuple(Prediction(phase.name, phase.cost, predict(measured, phase.cost, compute_s)) for phase in phases)


def predict(measured: Speed, cost: Cost, compute_s: float = 0.0) -> Estimate:
    """Seconds of something that costs ``cost``; of the network alone unless the parties' work is given."""
    parties = estimate(measured.parties, cost, compute_s, 0.0)
    return replace(parties, dealing_s=estimate(measured.dealing, cost, 0.0, 0.0).dealing_s)
