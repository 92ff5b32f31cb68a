"""A profile of the session behind pointers: its words are the core's, and nothing of the surface changes."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn

import syft as sy


@pytest.mark.parametrize("profiled", [False, True])
def test_a_program_in_syfts_words_is_the_same_under_a_profile(people: SimpleNamespace, profiled: bool) -> None:
    x = torch.tensor([[1.0, -2.0]]).fix_precision().share(people.bob, people.alice, crypto_provider=people.james)
    net = nn.Linear(2, 1)
    with torch.no_grad():
        net.weight.copy_(torch.tensor([[0.5, 0.25]]))
        net.bias.zero_()
    net.fix_precision().share(people.bob, people.alice, crypto_provider=people.james)
    before = repr(x), x.session.cost().total
    if not profiled:
        y = net(x)
    else:
        with x.session.profile() as profile:
            y = net(x)
        assert profile.total.cost.sent == x.session.cost().total.sent - before[1].sent > 0
        assert {"Linear"} <= {name for (name,) in profile.figures("modules")}
        assert all("test_profile.py" in line for (line,) in profile.figures("lines"))
    assert repr(x) == before[0]
    assert y.get().float_precision().tolist() == [[0.0]]
    assert "profile" not in dir(sy)
