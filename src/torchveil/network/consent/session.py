"""Consent in one session at one party: follows the stream, and decides on what is to be revealed."""

from __future__ import annotations

from collections.abc import Callable

from torchveil.network.consent.grants import upper_bound_bits
from torchveil.network.consent.policy import Consent, Decision, Release
from torchveil.network.consent.provenance import Provenance
from torchveil.program import instructions as ins


class SessionConsent:
    """``provenance`` is to follow all that the session carries out; ``allow`` is to be asked before any release.

    session: its id in hexadecimal, for the log; released: called after each release that is allowed; returns at once.
    """

    def __init__(
        self, consent: Consent, session: str, controller: str, released: Callable[[], None] = lambda: None
    ) -> None:
        self._released = released
        self.provenance = Provenance()
        self._consent = consent
        self._session = session
        self._controller = controller
        consent.log.append("session start", session=session, receiver=controller)

    def allow(self, i: ins.Reveal, number: int, receiver: str, fingerprint: bytes) -> Decision:
        """Decide on giving the wire of ``i`` to ``receiver``, whose certificate has this SHA-256.

        The controller, who asks for every release of its session, has thereby agreed to what it shared itself.
        The number format is no property of a wire, so a grant that names digits fits no release of a session. Raises
        ``ConsentRequired``, and ``ProtocolError`` for a wire of unknown origin.
        """
        # the controller asks for it, with its certificate: what it shared itself it lets go
        owners = self.provenance.of(i.x) - {self._controller}
        plan, slot = self.provenance.origin(i.x) or (None, None)
        decision = self._consent.decide(
            Release(
                receiver=receiver,
                fingerprint=fingerprint,
                owners=owners,
                shape=i.shape,
                digits=None,
                bits=upper_bound_bits(i.shape),
                plan=plan,
                slot=slot,
                session=self._session,
                number=number,
            )
        )
        self._released()
        return decision

    def decline(self, i: ins.Reveal, number: int) -> None:
        """This party cannot give the wire of ``i`` to its receiver, whatever was granted; other parties may."""
        owners = self.provenance.of(i.x) - {self._controller}
        self._consent.log.append(
            "refusal", session=self._session, number=number, receiver=i.receiver, owners=owners, shape=i.shape
        )

    def end(self, number: int) -> None:
        """The session is over; ``number``: of the first instruction that was not begun."""
        self._consent.log.append("session end", session=self._session, number=number, receiver=self._controller)
        self.provenance.forget()


__all__ = ["SessionConsent"]
