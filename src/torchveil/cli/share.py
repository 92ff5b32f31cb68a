"""Split a file between the parties of a cluster: each gets a share that tells nothing by itself.

    torchveil share data.csv --as hospital-a/x [--to cluster.toml] [--columns age,dose --target ill --whole target]
    torchveil share x.npy --as hospital-a/x [--to cluster.toml] [--digits 20] [--pad-rows 1000]

Exit status: 0, or 2 if nothing was shared.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from torchveil.cli.owners import add_certificate, add_file, caller_as
from torchveil.cli.usage import UsageError
from torchveil.fixedpoint import FixedPoint
from torchveil.network.datasets import MASK, check_base, owner_of, prepare
from torchveil.network.names import Role
from torchveil.network.owner import parties_of, share_parts
from torchveil.network.reading import READERS, Choice, read


def add(parser: argparse.ArgumentParser) -> None:
    """Its arguments."""
    argument = parser.add_argument
    argument("file", type=Path, help=f"{', '.join(READERS)}; a CSV file has a header")
    argument("--as", dest="name", required=True, help="owner/name, the first part your role's name: hospital-a/x")
    add_file(parser, "--to", "--cluster")
    add_certificate(parser, "owner-NAME.pem")
    argument("--columns", default="", help="names of columns, or of a safetensors file's tensors; default: all others")
    argument("--target", default="", help="names that are shared apart, as NAME.target")
    argument(
        "--whole",
        action="append",
        default=[],
        choices=("columns", "target"),
        help="these are whole numbers, kept exactly (integers of .npy and .safetensors files always are)",
    )
    argument(
        "--one-hot",
        action="append",
        default=[],
        metavar="COLUMN=A,B,...",
        help="a column of text becomes a column of 0 and 1 for each of its categories, which you name",
    )
    argument("--digits", type=int, default=FixedPoint().digits, help="binary digits behind the point")
    argument(
        "--pad-rows", type=int, help="add rows of zeros up to this number, and share which rows count as NAME.mask"
    )
    argument("--no-schema", action="store_true", help="tell nobody the names of columns")


def run(options: argparse.Namespace) -> int:
    """Share; say what others can see of it."""
    role = Role.parse(owner_of(options.name))
    check_base(options.name, str(role))
    caller = caller_as(options, role)
    choice = Choice(
        _listed(options.columns),
        _listed(options.target),
        "columns" in options.whole,
        "target" in options.whole,
        _one_hot(options.one_hot),
    )
    parts = prepare(
        read(options.file, choice),
        FixedPoint(2, options.digits),
        pad_rows=options.pad_rows,
        tell_columns=not options.no_schema,
    )
    share_parts(caller, options.name, parts)
    parties = [str(party) for party in parties_of(caller.cluster)]
    print(f"shared with {', '.join(parties)}; the cluster's parties and controllers see:")
    for part in parts:
        schema = part.schema(options.name, parties)
        shape = " x ".join(map(str, schema.shape)) or "one number"
        columns = "" if schema.columns is None or part.suffix == MASK else f", columns {', '.join(schema.columns)}"
        kind = f"{schema.digits} binary digits" if schema.digits else "whole numbers"
        print(f"  {schema.name}: {shape}, {kind}{columns}")
    return 0


def _listed(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",")) if text else ()


def _one_hot(texts: Sequence[str]) -> dict[str, tuple[str, ...]]:
    out: dict[str, tuple[str, ...]] = {}
    for text in texts:
        name, categories = _categories(text)
        if name in out:
            raise UsageError(f"--one-hot names {name!r} twice: write its categories once, COLUMN=A,B")
        out[name] = categories
    return out


def _categories(text: str) -> tuple[str, tuple[str, ...]]:
    name, equals, categories = text.partition("=")
    if not equals:
        raise UsageError(f"--one-hot {text!r} names no categories: write COLUMN=A,B")
    return name, _listed(categories)
