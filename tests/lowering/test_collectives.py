"""Refusals of what torch.distributed has and secrets have not; what there is runs in tests/network/test_groups.py."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed import _functional_collectives as functional

from torchveil import Session, UnsupportedOperation


@pytest.fixture
def group() -> Iterator[None]:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.parametrize(
    ("name", "call"),
    [
        ("gather", lambda x: dist.gather(x, [torch.zeros_like(x)], 0)),
        ("scatter", lambda x: dist.scatter(x, [x], 0)),
        ("send", lambda x: dist.isend(x, 0)),
        ("recv", lambda x: dist.recv(x, 0)),
        ("reduce_scatter", lambda x: dist.reduce_scatter(x, [x])),
        ("alltoall", lambda x: dist.all_to_all([x], [x])),
        ("functional collective all_reduce", lambda x: functional.all_reduce(x, "sum", dist.group.WORLD)),
    ],
)
def test_a_collective_that_is_not_there_names_those_that_are(
    group: None, name: str, call: Callable[[Tensor], Any]
) -> None:
    x = Session().share(torch.ones(2))
    with pytest.raises(UnsupportedOperation, match=name) as caught:
        call(x)
    for there in ("all_reduce", "reduce", "broadcast", "all_gather", "all_gather_into_tensor"):
        assert there in caught.value.remedy
    assert "operands of shape" not in str(caught.value)


def test_data_parallel_refuses_an_encrypted_module_when_it_is_built(group: None) -> None:
    model = Session().encrypt(nn.Sequential(nn.Linear(2, 2)))
    with pytest.raises(UnsupportedOperation, match="all_reduce"):
        nn.parallel.DistributedDataParallel(model)
    assert nn.Sequential(model)[0] is model
    plain = nn.parallel.DistributedDataParallel(nn.Linear(2, 1))
    plain(torch.ones(3, 2)).sum().backward()
