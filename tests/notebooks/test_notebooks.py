"""Every notebook is stored without outputs and runs from top to bottom in a kernel of this very interpreter."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))

# The cells of the tutorial that must run unchanged (PySyft 0.2, part 12), comments aside.
TUTORIAL = [
    "import syft as sy",
    "hook = sy.TorchHook(torch)",
    'alice = sy.VirtualWorker(id="alice", hook=hook)',
    'bob = sy.VirtualWorker(id="bob", hook=hook)',
    'james = sy.VirtualWorker(id="james", hook=hook)',
    "data = torch.tensor([[0,0],[0,1],[1,0],[1,1.]])",
    "target = torch.tensor([[0],[0],[1],[1.]])",
    "        super(Net, self).__init__()",
    "        self.fc1 = nn.Linear(2, 2)",
    "        self.fc2 = nn.Linear(2, 1)",
    "        x = F.relu(x)",
    "model = Net()",
    "data = data.fix_precision().share(bob, alice, crypto_provider=james, requires_grad=True)",
    "target = target.fix_precision().share(bob, alice, crypto_provider=james, requires_grad=True)",
    "model = model.fix_precision().share(bob, alice, crypto_provider=james, requires_grad=True)",
    "print(data)",
    "opt = optim.SGD(params=model.parameters(),lr=0.1).fix_precision()",
    "for iter in range(20):",
    "    opt.zero_grad()",
    "    pred = model(data)",
    "    loss = ((pred - target)**2).sum()",
    "    loss.backward()",
    "    opt.step()",
    "    print(loss.get().float_precision())",
]


def read(path: Path) -> nbformat.NotebookNode:
    return nbformat.read(path, as_version=4)


@pytest.fixture(scope="module")
def kernel_manager_class() -> Iterator[type[AsyncKernelManager]]:
    """Kernels of sys.executable: no specification is read from the machine, none has to be registered.

    They listen on sockets in a folder of their own, so that workers of xdist do not meet; the name of a socket may have
    no more than about a hundred letters, hence not pytest's folder.
    """
    with tempfile.TemporaryDirectory(prefix="kernel-") as folder:
        specs = KernelSpecManager(kernel_dirs=[folder], ensure_native_kernel=True)

        class OwnKernel(AsyncKernelManager):
            def __init__(self, **options: object) -> None:
                super().__init__(
                    kernel_spec_manager=specs, connection_file=f"{folder}/kernel.json", transport="ipc", **options
                )

        yield OwnKernel


@pytest.fixture
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel finds the package where this process does, and leaves nothing in the user's home."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")]))
    for name in ("IPYTHONDIR", "JUPYTER_RUNTIME_DIR", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR"):
        monkeypatch.setenv(name, str(tmp_path / name.lower()))


def execute(path: Path, manager: type[AsyncKernelManager]) -> nbformat.NotebookNode:
    """Run all cells, after one more that makes the initial parameters of models the same in every run."""
    notebook = read(path)
    notebook.cells.insert(0, nbformat.v4.new_code_cell("import torch; torch.manual_seed(1)"))
    client = NotebookClient(
        notebook,
        timeout=120,
        kernel_name="python3",
        kernel_manager_class=manager,
        resources={"metadata": {"path": str(ROOT)}},
    )
    return client.execute()


def printed(cell: nbformat.NotebookNode) -> str:
    return "".join(output.get("text", "") for output in cell.get("outputs", []) if output.output_type == "stream")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_stored_without_outputs(path: Path) -> None:
    notebook = read(path)
    nbformat.validate(notebook)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert cell.outputs == []
            assert cell.execution_count is None
    assert notebook.metadata.kernelspec.name == "python3"


def test_part_12_keeps_the_tutorials_cells() -> None:
    lines = [line for cell in read(ROOT / "notebooks/part-12.ipynb").cells for line in cell.source.split("\n")]
    assert [line for line in TUTORIAL if line not in lines] == []


@pytest.mark.usefixtures("environment")
def test_part_12_runs(kernel_manager_class: type[AsyncKernelManager]) -> None:
    notebook = execute(ROOT / "notebooks/part-12.ipynb", kernel_manager_class)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert cells

    chain = next(printed(cell) for cell in cells if cell.source == "print(data)")
    assert chain.startswith("(Wrapper)>AutogradTensor>FixedPrecisionTensor>[AdditiveSharingTensor]")
    assert "-> [PointerTensor | me:" in chain and "*crypto provider: james*" in chain

    training = next(printed(cell) for cell in cells if "print(loss.get()" in cell.source)
    losses = [float(number) for number in re.findall(r"tensor\(([-0-9.e]+)", training)]
    assert len(losses) == 20
    assert losses[-1] < losses[0] / 2

    found = {}
    for cell in cells:
        for words, number in re.findall(r"(\w+)[^\n]*largest difference[^\n]* ([0-9.]+)\n", printed(cell)):
            found[words] = float(number)
    assert found["2"] <= 0.20
    assert found["3"] <= 0.02
    assert found["4"] <= 0.01
    assert found["four"] <= 0.02
