"""A controller that does as it likes with honest roles: what it tells them ends the session or changes nothing, and in
no case does it get what is not its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import pytest
import torch

from tests.security.attacks.lying import SECRET, Liar, Views, found_in, needles, watched
from torchveil.errors import ConsentRequired, Desynchronised, LimitExceeded, TorchveilError
from torchveil.gates import Nature
from torchveil.kernels.linear_maps import LinearMap
from torchveil.network import messages as m
from torchveil.network.connect import connect
from torchveil.program import instructions as ins
from torchveil.program.encoding import encode, encode_plan
from torchveil.program.plan import Plan, scheduled
from torchveil.storage import Checkpoint
from torchveil.testing.clusters import LocalCluster

EVERYBODY = ("alice", "bob", "james")
PARTIES = ("alice", "bob")
Items = Sequence[ins.Instruction | m.Message]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[LocalCluster, Views]]:
    with watched(tmp_path_factory.mktemp("controllers")) as found:
        yield found


@pytest.fixture
def cluster(world: tuple[LocalCluster, Views]) -> LocalCluster:
    return world[0]


@pytest.fixture
def liar(cluster: LocalCluster) -> Iterator[Liar]:
    made = Liar(cluster)
    yield made
    made.close()


def answer(liar: Liar, *roles: str, told: Items = ()) -> TorchveilError:
    """The first error that a role tells of, once all were ``told`` this; raises ``AssertionError`` if there is none."""
    try:
        for name in EVERYBODY if told else ():
            liar.tell(name, *told)
        for name in roles:
            frame = liar.hear(name)
            if frame.kind == m.Kind.REFUSED:
                return m.told(m.parse(frame, m.Failure))
    except TorchveilError as error:
        return error
    raise AssertionError("nobody minded")


# --- what roles find out about each other ----------------------------------------------------------------------------


def test_another_instruction_for_each_party(liar: Liar) -> None:
    x, w = liar.secret(), liar.own()
    liar.tell("alice", ins.Open((x,), ((3,),)))
    liar.tell("bob", ins.Open((w,), ((3,),)))
    liar.tell("james", ins.Open((x,), ((3,),)))
    error = answer(liar, *PARTIES)
    assert isinstance(error, Desynchronised) and "carries out another stream" in error.message


def test_another_public_tensor_for_each_party(liar: Liar) -> None:
    """The provider sees no difference: the parties compare everything with each other."""
    x = liar.secret()
    for name, number in zip(PARTIES, (1, 2), strict=True):
        value = torch.full((3,), number, dtype=torch.int64)
        liar.tell(name, ins.AddPublic(900, x, value + torch.arange(3)), ins.Open((900,), ((3,),)))
    liar.tell("james", ins.AddPublic(900, x, torch.zeros(3, dtype=torch.int64)), ins.Open((900,), ((3,),)))
    assert isinstance(answer(liar, *PARTIES), Desynchronised)


def plan(*instructions: ins.Instruction, inputs: tuple[int, ...] = (-1,), outputs: tuple[int, ...] = (-2,)) -> Plan:
    return scheduled(instructions, inputs, outputs, Nature(2), 1 << 20)


def defined(key: int, made: Plan) -> m.Define:
    structure, buffers = encode_plan(made)
    assert not buffers
    return m.Define(key, structure)


def test_another_plan_for_each_party(liar: Liar) -> None:
    x = liar.secret()
    opening = ins.Open((-1,), ((3,),))
    one = plan(opening, ins.Truncate(-2, -1, None, 2, (3,)))
    other = plan(opening, ins.Truncate(-2, -1, None, 4, (3,)))
    for name in EVERYBODY:
        liar.tell(name, defined(7, one if name == "alice" else other), m.RunPlan(7, (x,), (900,)))
    assert isinstance(answer(liar, *PARTIES), Desynchronised)


def test_a_message_of_another_number(liar: Liar) -> None:
    x = liar.secret()
    liar.tell("alice", ins.Open((x,), ((3,),)), first=liar.number + 1)
    assert isinstance(answer(liar, "alice"), Desynchronised)


def test_one_label_is_never_used_twice(liar: Liar, world: tuple[LocalCluster, Views]) -> None:
    """Opening again takes a fresh mask: two openings of one value have nothing in common."""
    x = liar.secret()
    liar.open(x)
    liar.own()
    liar.mine.reveal()  # until alice is there
    first = world[1].roles["alice"].wires[x].opening.clone()
    liar.session.submit(ins.Open((x,), ((3,),), True))
    liar.own()
    liar.mine.reveal()
    second = world[1].roles["alice"].wires[x].opening
    assert not bool((first == second).any())


# --- instructions that are none --------------------------------------------------------------------------------------


def unknown_wire(liar: Liar) -> Items:
    return [ins.Open((987654,), ((3,),))]


def wire_of_another_session(liar: Liar) -> Items:
    with connect(liar.session.cluster) as other:
        other.new_id = iter(range(5000, 9000)).__next__  # type: ignore[method-assign]
        mine = other.share(torch.ones(3))
        mine.reveal()
        return [ins.Open((mine.handle.id,), ((3,),))]


def not_opened(liar: Liar) -> Items:
    return [ins.Truncate(900, liar.secret(), None, 2, (3,))]


def opened_twice(liar: Liar) -> Items:
    x = liar.secret()
    return [ins.Open((x,), ((3,),)), ins.Open((x,), ((3,),))]


def opened_twice_at_once(liar: Liar) -> Items:
    x = liar.secret()
    return [m.Alias(900, x), ins.Open((x, 900), ((3,), (3,)))]


def opened_in_another_shape(liar: Liar) -> Items:
    return [ins.Open((liar.secret(),), ((1,),))]


def opened_in_few_bits(liar: Liar) -> Items:
    return [ins.Open((liar.secret(),), ((3,),), False, (8,))]


def input_without_a_share(liar: Liar) -> Items:
    return [ins.Input(900, (3,))]


def share_of_no_input(liar: Liar) -> Items:
    return [m.Share(encode(ins.Free((1,)))[0])]


def share_for_the_wrong_party(liar: Liar) -> Items:
    return [m.Share(encode(ins.Input(900, (3,)))[0])]


def name_that_is_taken(liar: Liar) -> Items:
    x = liar.secret()
    return [m.Alias(x, x)]


def name_of_a_slot(liar: Liar) -> Items:
    return [m.Alias(-1, liar.secret())]


def plan_that_is_not_there(liar: Liar) -> Items:
    return [m.RunPlan(99, (), ())]


def plan_defined_twice(liar: Liar) -> Items:
    made = defined(7, plan(ins.Refresh(-2, -1, (3,))))
    return [made, made]


def plan_with_too_few_wires(liar: Liar) -> Items:
    return [defined(7, plan(ins.Refresh(-2, -1, (3,)))), m.RunPlan(7, (), (900,))]


def plan_over_a_wire(liar: Liar) -> Items:
    """Its result takes the name of the owner's data."""
    x, w = liar.secret(), liar.own()
    return [defined(7, plan(ins.Refresh(-2, -1, (3,)))), m.RunPlan(7, (w,), (x,))]


def plan_on_a_slot(liar: Liar) -> Items:
    return [defined(7, plan(ins.Refresh(-2, -1, (3,)))), m.RunPlan(7, (-1,), (900,))]


def data_over_a_wire(liar: Liar) -> Items:
    """The owner's data take the name of data of the controller."""
    w = liar.own()
    entry = liar.session.datasets()["hospital-a/x"]
    from torchveil.network.owner import find

    return [m.Dataset("hospital-a/x", w, entry.shape, find(liar.session._caller, "hospital-a/x").id)]


def bytes_that_are_no_instruction(liar: Liar) -> Items:
    return [m.Do(b"\xc1" * 20)]


def reveal_to_somebody(liar: Liar) -> Items:
    return [ins.Reveal(liar.own(), "party/bob", (3,))]


def reveal_to_the_provider(liar: Liar) -> Items:
    return [ins.Reveal(liar.own(), "james", (3,))]


def reveal_of_another_shape(liar: Liar) -> Items:
    return [ins.Reveal(liar.own(), "controller", (1,))]


def lift_of_many_bits(liar: Liar) -> Items:
    x = liar.secret()
    return [ins.Round(900, x, 20, (3,)), ins.Open((900,), ((3,),), False, (44,)), ins.Lift(901, 900, None, 20, (3,))]


ODD = [
    unknown_wire,
    wire_of_another_session,
    not_opened,
    opened_twice,
    opened_twice_at_once,
    opened_in_another_shape,
    opened_in_few_bits,
    input_without_a_share,
    share_of_no_input,
    share_for_the_wrong_party,
    name_that_is_taken,
    name_of_a_slot,
    plan_that_is_not_there,
    plan_defined_twice,
    plan_with_too_few_wires,
    plan_over_a_wire,
    plan_on_a_slot,
    data_over_a_wire,
    bytes_that_are_no_instruction,
    reveal_to_somebody,
    reveal_to_the_provider,
    reveal_of_another_shape,
    lift_of_many_bits,
]


@pytest.mark.parametrize("attack", ODD, ids=lambda attack: attack.__name__)
def test_instructions_that_are_none_end_the_session(liar: Liar, attack: Callable[[Liar], Items]) -> None:
    error = answer(liar, *PARTIES, told=attack(liar))
    assert error.code in ("TV401", "TV403", "TV501", "TV504"), error
    assert not found_in(str(error).encode(), needles(SECRET))


# --- sizes -----------------------------------------------------------------------------------------------------------

HUGE = 1 << 40


def huge_constant(liar: Liar) -> list[ins.Instruction]:
    return [ins.Constant(900, (HUGE,), 0)]


def huge_product(liar: Liar) -> list[ins.Instruction]:
    x = liar.own()
    return [ins.Map(900, x, LinearMap("expand", (HUGE, 3)))]


def huge_opening(liar: Liar) -> list[ins.Instruction]:
    return [ins.Open((liar.own(),), ((HUGE,),))]


def huge_pad(liar: Liar) -> list[ins.Instruction]:
    return [ins.Map(900, liar.own(), LinearMap("pad", ((HUGE >> 9, HUGE >> 9),)))]


@pytest.mark.parametrize(
    "attack", [huge_constant, huge_product, huge_opening, huge_pad], ids=lambda attack: attack.__name__
)
def test_huge_shapes_are_refused_before_memory_is_taken(
    liar: Liar, attack: Callable[[Liar], list[ins.Instruction]]
) -> None:
    items = attack(liar)
    liar.tell("alice", *items)
    error = answer(liar, "alice")
    assert error.code in ("TV401", "TV504", "TV505"), error


def test_a_plan_with_a_table_of_gigabytes(liar: Liar) -> None:
    """What goes into what is a bit for each input and output: a quadratic table."""
    inputs = tuple(range(-1, -10_001, -1))
    liar.tell("alice", defined(7, plan(inputs=inputs, outputs=inputs)))
    assert isinstance(answer(liar, "alice"), LimitExceeded)


# --- checkpoints -----------------------------------------------------------------------------------------------------


def test_a_checkpoint_with_forged_entries(liar: Liar) -> None:
    """Another scale, shape or name than was saved: nothing is loaded, and the session goes on."""
    nothing = Checkpoint("none", 1, 0, "ff", 0, {})
    assert answer(liar, "alice", told=[m.Load(nothing, {})]).code == "TV701"


# --- what it got -----------------------------------------------------------------------------------------------------


def test_counting_bits(liar: Liar) -> None:
    """How many of the owner's numbers are above a threshold: a function of them like any other."""
    x = liar.secret()
    session = liar.session
    session.submit(ins.Open((x,), ((3,),)))
    session.submit(ins.Compare((900,), x, False, (0,), (((0,), False),), (3,)))
    session.submit(ins.WeighBits(901, (900,), (1,), 0))
    session.submit(ins.Map(902, 901, LinearMap("sum", ((0,), False))))
    with pytest.raises(ConsentRequired):
        session.submit(ins.Reveal(902, "controller", ()))


def test_a_name_that_was_free_again(liar: Liar) -> None:
    """Free the controller's data, give the owner's its name: the name's past does not count."""
    w, x = liar.own(), liar.secret()
    session = liar.session
    session.submit(ins.Combine(900, ((w, 1),)))
    session.submit(ins.Free((900,)))
    session.submit(ins.Combine(900, ((x, 1),)))
    with pytest.raises(ConsentRequired):
        session.submit(ins.Reveal(900, "controller", (3,)))


def test_out_of_a_plan(liar: Liar) -> None:
    x = liar.secret()
    made = plan(ins.Refresh(-2, -1, (3,)))
    liar.session._remote.run_plan(made, (x,), (900,))
    with pytest.raises(ConsentRequired):
        liar.session.submit(ins.Reveal(900, "controller", (3,)))


def test_through_openings_of_a_part_of_the_bits(liar: Liar) -> None:
    """Values that are no multiples of 2^16 are opened as if they were, lifted, completed: what comes out is wrong, it
    is still the owner's, and what travelled is no part of it."""
    x = liar.secret()
    session = liar.session
    session.submit(ins.Open((x,), ((3,),), False, (48,)))
    session.submit(ins.Lift(900, x, None, 16, (3,)))
    session.submit(ins.Open((900,), ((3,),), False, (16,)))
    with pytest.raises(ConsentRequired):
        session.submit(ins.Reveal(900, "controller", (3,)))


def test_through_a_checkpoint(liar: Liar, cluster: LocalCluster, tmp_path) -> None:  # type: ignore[no-untyped-def]
    liar.secret()
    liar.session.save(tmp_path / "run", {"x": liar.held})
    with connect(cluster.file) as other:
        loaded = other.load(tmp_path / "run")["x"]
        with pytest.raises(ConsentRequired):
            loaded.reveal()


def test_to_another_owner(liar: Liar) -> None:
    """A result for the owner of the data needs no grant; the same for somebody else does."""
    liar.secret()
    with pytest.raises(TorchveilError) as caught:
        liar.session.deliver(liar.held, "owner/hospital-b", "stolen")
    assert caught.value.code in ("TV601", "TV702")


def test_the_controller_and_the_provider_were_sent_nothing_of_it(world: tuple[LocalCluster, Views]) -> None:
    """After all of the attacks above."""
    seen = world[1]
    kinds = m.Kind
    for who, may in (
        (
            "controller/scientist",
            {
                kinds.WELCOME,
                kinds.READY,
                kinds.REVEALED,
                kinds.PROGRESS,
                kinds.DONE,
                kinds.WAITING,
                kinds.REFUSED,
                kinds.ABORT,
                kinds.REPLY,
                kinds.CLOSE,
            },
        ),
        ("provider/james", {kinds.HELLO, kinds.BEGIN, kinds.STREAM, kinds.CLOSE, kinds.ABORT, kinds.WAITING}),
    ):
        frames = [frame for to, frame in seen.frames if to == who]
        assert {frame.kind for frame in frames} <= may, who
        data = b"".join(frame.meta + bytes(frame.body) for frame in frames)
        assert len(data) > 1000 and not found_in(data, needles(SECRET)), who


def test_the_daemons_have_stayed(cluster: LocalCluster) -> None:
    with connect(cluster.file) as session:
        assert session.share(torch.ones(2)).reveal().tolist() == [1.0, 1.0]
