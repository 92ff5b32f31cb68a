"""Names of roles: what is one and what is not."""

from __future__ import annotations

import pytest

from torchveil.errors import ConfigurationError
from torchveil.network.names import KINDS, Role


@pytest.mark.smoke
@pytest.mark.parametrize("kind", KINDS)
def test_a_role_is_what_it_prints(kind: str) -> None:
    role = Role.parse(f"{kind}/hospital-a.2_B")
    assert role == Role(kind, "hospital-a.2_B") and str(role) == f"{kind}/hospital-a.2_B"
    assert Role.parse(str(role)) == role and hash(Role.parse(str(role))) == hash(role)


def test_letters_of_different_case_differ() -> None:
    assert Role.parse("party/alice") != Role.parse("party/Alice")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "alice",
        "party",
        "party/",
        "/alice",
        "Party/alice",
        "worker/alice",
        "party/alice/bob",
        "party/.alice",
        "party/..",
        "party/a..b",
        "party/a b",
        "party/a\n",
        "party/a\x00",
        "party/älice",
        "party/\u0661",  # a digit, in Arabic
        "party/" + "a" * 65,
        "party/../provider/james",
        "party/a%2fb",
    ],
)
def test_what_is_no_role(text: str) -> None:
    with pytest.raises(ConfigurationError):
        Role.parse(text)


def test_an_error_quotes_no_more_than_a_name() -> None:
    with pytest.raises(ConfigurationError) as raised:
        Role.parse("party/" + "x" * 10_000)
    assert len(str(raised.value)) < 1000


def test_the_longest_name() -> None:
    assert Role.parse("party/" + "a" * 64).name == "a" * 64


def test_a_role_that_is_made_without_parsing_is_checked_too() -> None:
    for kind, name in (("party", "a/b"), ("ca", "alice"), ("party", "")):
        with pytest.raises(ConfigurationError):
            Role(kind, name)
