"""The decision: may this party release its share of a value to this receiver. The default is no.

A value made of nothing but the receiver's own data, or of public constants alone, needs nobody's consent. For any other
every owner but the receiver must have a fitting grant: one for the output of a plan rather than a bit budget, and of
those the one that ends first. Their quotas go down together, all or none, and are on disk before the release: a crash
may lose a release, it never gives one twice. Every decision is in the log before anybody learns of it.

If somebody's grant is missing, the release is filed as a request, under a name that is the same at all parties. An
owner who denies a request has refused it whatever else was granted: only a grant that answers this request passes.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from torchveil.errors import ConsentRequired, GrantInvalid
from torchveil.network.consent.audit import AuditLog, Kind
from torchveil.network.consent.grants import Grant, Request, SignedGrant, check_fields, upper_bound_bits, verify
from torchveil.network.consent.identities import Recognise
from torchveil.network.consent.store import Asked, State, Store


@dataclass(frozen=True, slots=True)
class Release:
    """A value that is about to be given to ``receiver``, whose certificate has the SHA-256 ``fingerprint``.

    owners: its provenance; shape, digits: of the value; bits: what it can tell at most, ``upper_bound_bits(shape)``
    unless the parties know better; plan, slot: the digest of the plan of which it is an output, None for none;
    session, number: where it happened.
    """

    receiver: str
    fingerprint: bytes
    owners: frozenset[str]
    shape: tuple[int, ...]
    digits: int | None
    bits: int
    plan: bytes | None
    slot: int | None
    session: str
    number: int


@dataclass(frozen=True, slots=True)
class Decision:
    """Why a release is allowed: which grants paid for it; none if it needed none."""

    grants: tuple[bytes, ...]


class Consent:
    """Grants, requests and decisions of one party, shared by all of its sessions.

    directory: where the party remembers them (0700); recognise: certificates of the cluster's owners; log: where every
    decision is written; rank: of this machine, if the party is a group. Owners deal with rank 0, and only that one
    releases what needs a grant.
    """

    def __init__(
        self,
        party: str,
        directory: Path,
        *,
        cluster: str,
        recognise: Recognise,
        log: AuditLog,
        clock: Callable[[], float] = time.time,
        rank: int = 0,
    ) -> None:
        self.party = party
        self.cluster = cluster
        self._rank = rank
        self._recognise = recognise
        self._log = log
        self._clock = clock
        self._store = Store(directory)

    def decide(self, release: Release) -> Decision:
        """Allow a release and count it, or raise ``ConsentRequired``.

        The error names the owners who have not granted it, the request that waits for them, and what to do; nothing
        else. Raises ``StorageError`` if the decision cannot be remembered.
        """
        others = release.owners - {release.receiver}
        request = self._request(release)
        if not others:
            self._write("reveal", release)
            return Decision(())
        if self._rank:
            # quotas are counted in one place
            self._write("refusal", release, request=request.id)
            raise ConsentRequired(
                f"rank {self._rank} of {self.party} holds no grants of {', '.join(sorted(others))}",
                op="reveal",
                remedy="reveal it on rank 0: combine the ranks' values first (all_reduce, broadcast)",
            )
        now = self._clock()
        with self._store.change() as state:
            state.forget_expired(now)
            chosen = {owner: self._choose(state, owner, request, now) for owner in sorted(others)}
            missing = [owner for owner, grant in chosen.items() if grant is None]
            paying = [grant for grant in chosen.values() if grant is not None]
            if missing:
                denied = [owner for owner in missing if owner in state.denied(request)]
                filed = state.file_request(request, missing, now) is not None
            else:
                for grant in paying:
                    state.used[grant.nonce] = state.used.get(grant.nonce, 0) + grant.price(request)
                state.asked.pop(request.id, None)
        if missing:
            self._write("refusal", release, request=request.id)
            raise _refusal(request, missing, denied, filed)
        nonces = tuple(grant.nonce for grant in paying)
        self._write("reveal", release, grants=nonces)
        return Decision(nonces)

    def _choose(self, state: State, owner: str, request: Request, now: float) -> Grant | None:
        """The grant of an owner that pays: answers before what was given ahead, plans before budgets, then by end."""
        denied = owner in state.denied(request)
        fitting = (
            signed.grant
            for signed in state.grants.values()
            if signed.grant.owner == owner
            and signed.grant.fits(request)
            and (signed.grant.request is not None or not denied)
            and signed.grant.valid_at(now)
            and state.left(signed.grant) >= signed.grant.price(request)
            and self._still_good(signed, now)
        )
        return min(fitting, key=_order, default=None)

    def _still_good(self, signed: SignedGrant, now: float) -> bool:
        """Checked again at each use: the owner's certificate may have ended since, the file may have been edited."""
        try:
            verify(signed, self._recognise, self.cluster, now)
        except GrantInvalid:
            return False
        return True

    def _request(self, release: Release) -> Request:
        if release.bits < (1 if upper_bound_bits(release.shape) else 0):
            raise GrantInvalid(f"a release of {release.bits} bits")
        if (release.plan is None) != (release.slot is None):
            raise GrantInvalid("a release names a plan and which of its outputs, or neither")
        request = Request(
            cluster=self.cluster,
            receiver=release.receiver,
            fingerprint=release.fingerprint,
            owners=tuple(sorted(release.owners)),
            shape=release.shape,
            digits=release.digits,
            bits=release.bits,
            plan=release.plan,
            slot=release.slot,
        )
        check_fields(request)  # what is kept has to be readable again
        return request

    @property
    def recognise(self) -> Recognise:
        """How this party knows the certificates of its cluster."""
        return self._recognise

    @property
    def log(self) -> AuditLog:
        """The log of every decision."""
        return self._log

    # --- what owners do ----------------------------------------------------------------------------------------------

    def add(self, signed: SignedGrant) -> None:
        """Take a grant. Taking the same one again changes nothing, least of all what is left of it.

        Raises ``GrantInvalid`` if it is forged, expired, withdrawn, of another cluster, or another grant under a nonce
        that is known; ``LimitExceeded`` if this party holds too many.
        """
        now = self._clock()
        grant = verify(signed, self._recognise, self.cluster, now)
        with self._store.change() as state:
            state.forget_expired(now)
            known = state.grants.get(grant.nonce)
            if known is not None and known.grant == grant:
                return
            if known is not None or grant.nonce in state.used or grant.nonce in state.revoked:
                raise GrantInvalid("a grant under a nonce that was used or withdrawn", remedy="sign a new grant")
            state.add_grant(signed)
            state.answer(grant)
            # before it is in force: no release is under a grant that the log does not have
            self._log.append(
                "grant",
                receiver=grant.receiver,
                owners=(grant.owner,),
                shape=grant.shape,
                digits=grant.digits,
                bits=grant.quota if grant.budget else None,
                plan=grant.plan,
                slot=grant.slot,
                grants=(grant.nonce,),
                request=grant.request or "",
            )

    def requests(self, owner: str) -> list[Asked]:
        """What waits for an answer of ``owner``, the oldest first."""
        return [entry for entry in self._store.look().asked.values() if owner in entry.waiting]

    def denials(self, owner: str) -> list[Asked]:
        """What ``owner`` refused, the oldest first."""
        return [entry for entry in self._store.look().asked.values() if owner in entry.denied]

    def deny(self, owner: str, request_id: str) -> None:
        """``owner`` refuses a request: repeating it fails at once until the owner approves it after all.

        An answer that the owner gave to it earlier is dead, and no grant that was given ahead pays for it. Raises
        ``GrantInvalid`` if no such request is about the owner's data.
        """
        with self._store.change() as state:
            entry = state.asked.get(request_id)
            if entry is None or owner not in entry.request.owners:
                raise GrantInvalid(f"no request {request_id} about data of {owner}", remedy="see torchveil requests")
            entry.waiting = [other for other in entry.waiting if other != owner]
            entry.denied = sorted({*entry.denied, owner})
            request = entry.request
            answers = [signed.grant for signed in state.grants.values() if signed.grant.request == request_id]
            for nonce in [grant.nonce for grant in answers if grant.owner == owner]:
                state.revoked.add(nonce)
                del state.grants[nonce]
        self._log.append(
            "denial",
            receiver=request.receiver,
            owners=(owner,),
            shape=request.shape,
            digits=request.digits,
            bits=request.bits,
            plan=request.plan,
            slot=request.slot,
            request=request_id,
        )

    def withdraw(self, owner: str, nonce: bytes) -> None:
        """A grant of ``owner`` is dead from here on, also if it comes back. Raises ``GrantInvalid`` for others' grants.

        A nonce that this party has not seen yet cannot be withdrawn: nobody could tell whose it is.
        """
        with self._store.change() as state:
            signed = state.grants.get(nonce)
            if signed is None or signed.grant.owner != owner:
                raise GrantInvalid(f"{owner} has no grant {nonce.hex()} here", remedy="see torchveil requests --grants")
            state.revoked.add(nonce)
            del state.grants[nonce]
        self._log.append("withdrawal", receiver=signed.grant.receiver, owners=(owner,), grants=(nonce,))

    def grants(self, owner: str) -> list[tuple[Grant, int]]:
        """The grants of ``owner`` in force here, with what is left of each."""
        state, now = self._store.look(), self._clock()
        mine = [signed.grant for signed in state.grants.values() if signed.grant.owner == owner]
        return [(grant, state.left(grant)) for grant in mine if now < grant.expires]

    def _write(self, kind: Kind, release: Release, *, grants: tuple[bytes, ...] = (), request: str = "") -> None:
        self._log.append(
            kind,
            session=release.session,
            number=release.number,
            receiver=release.receiver,
            owners=release.owners,
            shape=release.shape,
            digits=release.digits,
            bits=release.bits,
            plan=release.plan,
            slot=release.slot,
            grants=grants,
            request=request,
        )


def _order(grant: Grant) -> tuple[bool, bool, int, bytes]:
    return grant.request is None, grant.budget, grant.expires, grant.nonce


def _refusal(request: Request, missing: list[str], denied: list[str], filed: bool) -> ConsentRequired:
    """The error that the receiver gets: who, not what."""
    waiting = [owner for owner in missing if owner not in denied]
    said = [f"{', '.join(denied)} denied it"] if denied else []
    said += [f"{', '.join(waiting)} did not grant it"] if waiting else []
    remedy = f"ask them to run: torchveil approve {request.id}"
    if not filed:
        said += ["so many requests were denied that this one was not kept"]
        remedy = "ask them to approve one of those, or to grant this one ahead"
    return ConsentRequired(
        f"{request.receiver} may not see this value: {'; '.join(said)} (request {request.id})",
        remedy=remedy,
    )


__all__ = ["Consent", "Decision", "Release"]
