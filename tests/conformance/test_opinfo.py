"""torch's own samples on shares: none differs silently, and what the published record lists as passing passes.

Some samples of every operator, spread over all of its; ``make conformance`` runs all and writes the record anew.
"""

from __future__ import annotations

import json

import pytest
import torch

from conformance.judge import Cotangents, Outcome, Result, Verdict, compare, judge
from conformance.opinfo import Operator, Sample, operators
from conformance.page import page
from conformance.run import PAGE, RECORD, torch_version, verdicts
from torchveil import Session, errors

RECORDED = json.loads(RECORD.read_text())
ROWS = {row["name"]: row for row in RECORDED["operators"]}
AT_MOST = 2
BUGS = (Outcome.DIFFERS, Outcome.BROKE)


@pytest.mark.parametrize("name", ROWS)
def test_samples_end_as_published(name: str) -> None:
    found = verdicts(name, RECORDED["bits"], AT_MOST)
    assert [(k, v) for k, v in found.items() if v.outcome in BUGS] == []
    if torch_version() == RECORDED["torch"]:
        letters = ROWS[name]["samples"]
        assert [(k, v) for k, v in found.items() if letters[k] == "P" and v.outcome is not Outcome.PASS] == []


def test_the_record_holds_no_bugs_and_the_page_is_its() -> None:
    assert not set("".join(row["samples"] for row in ROWS.values())) & {outcome.value[0] for outcome in BUGS}
    assert PAGE.read_text() == page(RECORDED)


def test_what_does_not_pass_is_refused_as_unsupported() -> None:
    """Of the published record: every sample that gave no result raised ``UnsupportedOperation`` or a kind of it."""
    raised = {
        error
        for row in RECORDED["operators"]
        for outcome, error, _, _ in row["why"]
        if outcome == Outcome.UNSUPPORTED.value
    }
    assert raised and all(issubclass(getattr(errors, error), errors.UnsupportedOperation) for error in raised), raised


# --- the judge itself ------------------------------------------------------------------------------------------------


def sample(*args: object, grad: bool = True) -> Sample:
    tensors = [
        x.requires_grad_() if isinstance(x, torch.Tensor) and x.is_floating_point() and grad else x for x in args
    ]
    return Sample(tuple(tensors), {}, lambda out: out)


def operator(function: object) -> Operator:
    return Operator("planted", function, True, None)  # type: ignore[arg-type]


def points() -> torch.Tensor:
    return torch.linspace(-2, 2, 9, dtype=torch.float64)


def secretly(wrong: object) -> object:
    """A function that is x * x in the clear and something else on shares."""
    return lambda x: x * x if type(x) is torch.Tensor else wrong(x)  # type: ignore[operator]


@pytest.mark.parametrize(
    ("wrong", "what"),
    [
        (lambda x: x * x + 0.01, "result 0"),
        (lambda x: (x * x).detach() + 0 * x, "gradient 0"),
        (lambda x: (x * x).unsqueeze(0), "shape"),
        (lambda x: x > 0, "differentiates"),
    ],
)
def test_planted_differences_are_found(wrong: object, what: str) -> None:
    verdict = judge(operator(secretly(wrong)), sample(points()), Session())
    assert verdict.outcome is Outcome.DIFFERS
    assert what in verdict.what


def test_truth_values_are_no_numbers() -> None:
    verdict = judge(operator(secretly(lambda x: x > 0)), sample(points(), grad=False), Session())
    assert verdict == Verdict(Outcome.DIFFERS, "result 0: torch.bool in place of torch.float64")


def test_planted_errors_are_sorted() -> None:
    def broken(x: torch.Tensor) -> torch.Tensor:
        raise KeyError("planted")

    assert judge(operator(secretly(broken)), sample(points()), Session()).outcome is Outcome.BROKE
    missing = judge(operator(secretly(torch.special.bessel_j0)), sample(points(), grad=False), Session())
    assert (missing.outcome, missing.error) == (Outcome.UNSUPPORTED, "UnsupportedOperation")
    assert judge(operator(secretly(lambda x: x * x)), sample(points()), Session()).outcome is Outcome.PASS


@pytest.mark.parametrize(
    ("function", "x", "reason"),
    [
        (torch.log, -points(), "the result is not finite"),
        (torch.exp, points() * 10, "numbers beyond 2^15"),
        (lambda x: (x * 1e6) * 1e-6, points(), "numbers beyond 2^15"),
        (torch.relu, points() / 0, "inputs that are not finite"),
        (torch.relu, points().to_sparse(), "sparse layout"),
        (lambda x: torch.complex(x, x), points(), "complex result"),
        (torch.rand_like, points(), "draws random numbers"),
    ],
)
def test_what_is_skipped_is_known_from_the_clear_run(function: object, x: torch.Tensor, reason: str) -> None:
    skipped = judge(operator(function), sample(x, grad=False), Session())
    assert skipped == Verdict(Outcome.SKIPPED, reason)


@pytest.mark.parametrize(
    "name",
    ["nn_functional_pad_circular", "nn_functional_ctc_loss", "nn_functional_linear_cross_entropy_chunked_none"],
)
def test_what_memory_held_before_skips_no_sample(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """These allocate a tensor, write it piece by piece, and show or leave what they have not written."""
    monkeypatch.setattr("conformance.judge.secret_run", None)  # so that what is not skipped ends as BROKE
    session, seen = Session(), []
    for call in operators()[name].samples()[:20]:
        blocks = [torch.full((n,), 1e300, dtype=torch.float64) for n in range(1, 300) for _ in range(2)]
        del blocks
        seen.append(judge(operators()[name], call, session).what)
    assert "numbers beyond 2^15" not in seen and any("not callable" in what for what in seen)
    assert not torch.are_deterministic_algorithms_enabled()


def test_ill_conditioned_numbers_get_the_error_that_float64_would_make_of_units() -> None:
    """1000 (x^2 - x^2 + x): off by some units times 1000, and not by more."""

    def cancelling(x: torch.Tensor) -> torch.Tensor:
        return 1000 * (x * x - (x * x - x / 7))

    call, session, unit = sample(points(), grad=False), Session(), 2.0**-16
    cotangents = Cotangents(2**16)
    wanted = cancelling(points())
    for error, differs in ((1000 * unit, False), (1000 * 100 * unit, True)):
        found = Result([session.share(wanted + error)], None)
        said = compare(operator(cancelling), call, session, cotangents, Result([wanted], None), found)
        assert bool(said) == differs


def test_the_database_is_the_same_every_time() -> None:
    linear = operators()["nn_functional_linear"]
    for a, b in zip(linear.samples(), linear.samples(), strict=True):
        assert all(torch.equal(x, y) for x, y in zip(a.tensors(), b.tensors(), strict=True))
