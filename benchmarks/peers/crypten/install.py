"""Install CrypTen 0.4.1 into a virtual environment of its own, and mend the two lines that newer torch broke.

    python benchmarks/peers/crypten/install.py

The environment is ``benchmarks/.peer-crypten`` (git ignores it); the last line printed is its interpreter. Nothing is
done if it was installed from the same requirements and patches before. Packages come from pip's configured index.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
import venv
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[1] / ".peer-crypten"
REQUIREMENTS = HERE / "requirements.txt"
CRYPTEN = "crypten==0.4.1"


@dataclass(frozen=True)
class Patch:
    """One replacement in an installed file; the text must occur exactly once."""

    path: str
    old: str
    new: str
    reason: str

    def apply(self, text: str) -> str:
        """``text`` with the replacement made; raises ``ValueError`` if it is not the text the patch is for."""
        if text.count(self.old) != 1:
            raise ValueError(f"{self.path} is not the file that this patch was written for")
        return text.replace(self.old, self.new)


PATCHES = (
    Patch(
        "crypten/nn/onnx_converter.py",
        "    from torch.onnx._internal.registration import registry  # noqa\n",
        "    pass\n",
        "the module has moved within torch; the imported name is used nowhere",
    ),
    Patch(
        "crypten/nn/onnx_converter.py",
        "torch.onnx.export(pytorch_model, dummy_input, f, **kwargs)",
        "torch.onnx.export(pytorch_model, dummy_input, f, dynamo=False, **kwargs)",
        "torch's default exporter is another one now, whose graphs CrypTen cannot read",
    ),
)


def fingerprint() -> str:
    """A hash of everything that an installation depends on."""
    parts = (Path(__file__).read_bytes(), REQUIREMENTS.read_bytes(), sys.version.encode())
    return hashlib.sha256(b"\0".join(parts)).hexdigest()


def site_packages(root: Path) -> Path:
    """Where the environment's packages lie."""
    return root / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"


def interpreter(root: Path = ROOT) -> Path:
    """The environment's Python."""
    return root / "bin" / "python"


def install(root: Path = ROOT) -> Path:
    """Create the environment if it is not there or was made from something else; return its interpreter."""
    stamp = root / ".installed"
    if stamp.exists() and stamp.read_text() == fingerprint():
        return interpreter(root)
    venv.create(root, clear=True, with_pip=True)
    pip = [str(interpreter(root)), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "-r", str(REQUIREMENTS)], check=True)
    subprocess.run([*pip, "--no-deps", CRYPTEN], check=True)
    for patch in PATCHES:
        path = site_packages(root) / patch.path
        path.write_text(patch.apply(path.read_text()))
    stamp.write_text(fingerprint())  # last: an interrupted installation starts again
    return interpreter(root)


if __name__ == "__main__":
    print(install())
