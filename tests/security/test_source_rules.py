"""Rules about the source itself: one place for randomness, no pickle, no assert, imports that point downward."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

SRC = Path(__file__).resolve().parents[2] / "src"
FILES = sorted(SRC.rglob("*.py"))

#: The only modules that may draw randomness: the secret one and the one whose draws are public by design.
SECRET_RANDOMNESS = "torchveil/randomness.py"
PUBLIC_RANDOMNESS = "torchveil/public_randomness.py"

BANNED_MODULES = {"random", "secrets", "numpy.random", "torch.random"}
TORCH_RANDOM = {
    "rand",
    "rand_like",
    "randint",
    "randint_like",
    "randn",
    "randn_like",
    "randperm",
    "normal",
    "bernoulli",
    "multinomial",
    "poisson",
    "manual_seed",
    "seed",
    "Generator",
    "default_generator",
    "set_rng_state",
    "get_rng_state",
    "random",
}
#: Methods that fill a tensor from torch's generator.
RANDOM_METHODS = {
    "bernoulli_",
    "cauchy_",
    "exponential_",
    "geometric_",
    "log_normal_",
    "normal_",
    "random_",
    "uniform_",
}
PICKLES = {"pickle", "cPickle", "dill", "cloudpickle", "shelve", "marshal"}

#: Layers from top to bottom: a module imports from its own layer or from those below.
LAYERS: tuple[tuple[str, ...], ...] = (
    ("syft",),
    ("torchveil.cli", "torchveil", "torchveil.testing"),
    ("torchveil.checking",),
    ("torchveil.network.connect", "torchveil.network.owner_calls", "torchveil.network.commands"),
    ("torchveil.compiling",),
    ("torchveil.session", "torchveil.guards", "torchveil.importing"),
    ("torchveil.modules", "torchveil.profiling", "torchveil.checkpoints"),
    ("torchveil.tensor",),
    ("torchveil.lowering", "torchveil.composites"),
    ("torchveil.functions", "torchveil.public"),
    ("torchveil.engine",),
    ("torchveil.recording",),
    ("torchveil.handle", "torchveil.costs"),
    ("torchveil.network",),
    ("torchveil.drivers",),
    ("torchveil.gates",),
    ("torchveil.roles",),
    ("torchveil.program",),
    ("torchveil.kernels",),
    ("torchveil.storage",),
    ("torchveil.randomness", "torchveil.public_randomness"),
    ("torchveil.participants",),
    ("torchveil.fixedpoint",),
    ("torchveil.errors",),
    ("torchveil.where", "torchveil.version"),
)


def name_of(path: Path) -> str:
    """The dotted name of a source file."""
    parts = list(path.relative_to(SRC).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def layer(module: str) -> int | None:
    """The place of a module's layer, 0 at the top; the longest matching name wins."""
    found: tuple[int, int] | None = None
    for depth, names in enumerate(LAYERS):
        for name in names:
            inside = module == name or (name != "torchveil" and module.startswith(name + "."))
            if inside and (found is None or len(name) > found[0]):
                found = len(name), depth
    return None if found is None else found[1]


def imports(tree: ast.AST, module: str, *, package: bool = False) -> Iterator[tuple[str, int]]:
    """Every module that is imported at run time, with its line; ``if TYPE_CHECKING`` blocks do not run."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            for other in node.orelse:
                yield from imports(other, module, package=package)
        elif isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node.lineno
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = module.split(".")
                keep = len(parts) - node.level + (1 if package else 0)
                base = ".".join([*parts[:keep], *([base] if base else [])])
            for alias in node.names:
                yield f"{base}.{alias.name}", node.lineno
        else:
            yield from imports(node, module, package=package)


def dotted(node: ast.AST) -> str:
    """``a.b.c`` for a chain of attributes on a name, else an empty string."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        base = dotted(node.value)
        return f"{base}.{node.attr}" if base else ""
    return ""


def _aliases(tree: ast.AST) -> dict[str, str]:
    """Local name -> what was imported under it."""
    out: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                out[alias.asname or alias.name.split(".")[0]] = alias.name if alias.asname else alias.name.split(".")[0]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            for alias in node.names:
                out[alias.asname or alias.name] = f"{node.module}.{alias.name}"
    return out


def random_draws(tree: ast.AST) -> list[tuple[str, int]]:
    """What draws or seeds randomness, with its line."""
    aliases = _aliases(tree)
    out = []
    for name, line in imports(tree, ""):
        if any(name == banned or name.startswith(banned + ".") for banned in BANNED_MODULES):
            out.append((name, line))
    called = {id(part) for node in ast.walk(tree) if isinstance(node, ast.Call) for part in ast.walk(node.func)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            if dotted(node).startswith("aten.") and id(node) not in called:
                continue  # the name of an operation, as a key of a table
            head, _, rest = dotted(node).partition(".")
            full = f"{aliases.get(head, head)}.{rest}"
            parts = full.split(".")
            if (
                full in ("os.urandom", "os.getrandom")
                or full.startswith("numpy.random")
                or (parts[0] == "torch" and (parts[-1] in TORCH_RANDOM or "rand" in parts[-1].split("_")))
                or node.attr in RANDOM_METHODS
            ):
                out.append((full if rest else node.attr, node.lineno))
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
            full = aliases.get(node.id, "")
            head, _, last = full.rpartition(".")
            if full in ("os.urandom", "os.getrandom") or (head == "torch" and last in TORCH_RANDOM):
                out.append((full, node.lineno))
    return out


@pytest.fixture(scope="module", params=FILES, ids=lambda path: str(path.relative_to(SRC)))
def source(request: pytest.FixtureRequest) -> tuple[Path, ast.Module]:
    path: Path = request.param
    return path, ast.parse(path.read_text())


def test_the_source_was_found() -> None:
    assert SRC / SECRET_RANDOMNESS in FILES


def test_randomness_is_drawn_in_one_place(source: tuple[Path, ast.Module]) -> None:
    path, tree = source
    if str(path.relative_to(SRC)) in (SECRET_RANDOMNESS, PUBLIC_RANDOMNESS):
        return
    assert random_draws(tree) == []


def test_secret_randomness_draws_from_the_operating_system_only() -> None:
    draws = random_draws(ast.parse((SRC / SECRET_RANDOMNESS).read_text()))
    assert {name for name, _ in draws} == {"os.urandom"}


def test_public_randomness_never_meets_keys_or_streams() -> None:
    path = SRC / PUBLIC_RANDOMNESS
    if path.exists():
        names = {name for name, _ in imports(ast.parse(path.read_text()), "torchveil.public_randomness")}
        assert not any(
            name.startswith(("torchveil.randomness", "torchveil.roles", "torchveil.gates")) for name in names
        )


def test_no_secret_layer_uses_public_randomness(source: tuple[Path, ast.Module]) -> None:
    path, tree = source
    module = name_of(path)
    if module.startswith(("torchveil.gates", "torchveil.roles", "torchveil.drivers", "torchveil.kernels")):
        assert not any("public_randomness" in name for name, _ in imports(tree, module))


def test_nothing_is_pickled(source: tuple[Path, ast.Module]) -> None:
    path, tree = source
    assert not [(name, line) for name, line in imports(tree, name_of(path)) if name.split(".")[0] in PICKLES]
    calls = [dotted(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)]
    assert not {"torch.load", "torch.save"} & set(calls)


def test_no_assert_statements(source: tuple[Path, ast.Module]) -> None:
    """They vanish under ``python -O``: what must hold is checked and raises a typed error."""
    assert [node.lineno for node in ast.walk(source[1]) if isinstance(node, ast.Assert)] == []


def test_every_module_has_a_layer(source: tuple[Path, ast.Module]) -> None:
    assert layer(name_of(source[0])) is not None, "put the module into a row of LAYERS"


def test_imports_point_downward(source: tuple[Path, ast.Module]) -> None:
    path, tree = source
    module = name_of(path)
    here = layer(module)
    assert here is not None
    upward = []
    for name, line in imports(tree, module, package=path.name == "__init__.py"):
        if name.split(".")[0] not in ("torchveil", "syft"):
            continue
        # `from torchveil.x import y`: y may be a module or a name inside x
        known = SRC.joinpath(*name.split("."))
        target = name if known.is_dir() or known.with_suffix(".py").exists() else name.rpartition(".")[0]
        there = layer(target)
        if there is None or there < here:
            upward.append((name, line))
    assert upward == []


# --- the rules see what they forbid ----------------------------------------------------------------------------------

BAD_DRAWS = [
    "import random",
    "from random import randint",
    "import secrets",
    "import numpy as np\nnp.random.default_rng()",
    "from numpy import random",
    "from numpy.random import default_rng",
    "import torch\ntorch.rand(3)",
    "import torch as t\nt.randint(3, (2,))",
    "import torch\ntorch.manual_seed(0)",
    "import torch\ntorch.cuda.manual_seed(0)",
    "from torch import randn\nrandn(3)",
    "import torch\nx = torch.empty(3).uniform_()",
    "import torch\naten = torch.ops.aten\naten.uniform_.default(x)",
    "import os\nos.urandom(3)",
    "from os import urandom\nurandom(3)",
    "import torch\ntorch.Generator()",
]


@pytest.mark.parametrize("text", BAD_DRAWS)
def test_a_planted_draw_is_seen(text: str) -> None:
    assert random_draws(ast.parse(text))


def test_layers_are_read_as_meant() -> None:
    assert layer("torchveil.gates.opening") == layer("torchveil.gates")
    assert layer("torchveil.unknown") is None
    upward, here = layer("torchveil.session"), layer("torchveil.drivers.lockstep")
    assert upward is not None and here is not None and upward < here
    relative = list(imports(ast.parse("from . import x\nfrom ..roles import wires"), "torchveil.gates.opening"))
    assert relative == [("torchveil.gates.x", 1), ("torchveil.roles.wires", 2)]
