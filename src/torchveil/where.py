"""Where in the user's program are we? Found by walking the stack, formatted only when asked."""

from __future__ import annotations

import linecache
import os
import sys
from types import CodeType
from typing import Any

import torch

_OURS = os.path.dirname(os.path.abspath(__file__)) + os.sep
_SYFT = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "syft") + os.sep
_STDLIB = os.path.dirname(os.path.abspath(os.__file__)) + os.sep
_TORCH = f"{os.sep}torch{os.sep}"
_foreign: dict[str, bool] = {}


def _is_users(filename: str) -> bool:
    known = _foreign.get(filename)
    if known is None:
        known = not (
            filename.startswith((_OURS, _SYFT))
            or f"site-packages{_TORCH}" in filename
            or filename.startswith("<frozen")
            or (filename.startswith(_STDLIB) and "site-packages" not in filename)
        )
        _foreign[filename] = known
    return known


def user_frame() -> tuple[CodeType, int] | None:
    """The innermost (code, line number) outside torch and this library; about a microsecond."""
    frame = sys._getframe(1)
    while frame is not None:
        code = frame.f_code
        # a dataclass's own __init__ comes from "<string>", and so does the program of `python -c`
        if _is_users(code.co_filename) and (code.co_name != "__init__" or code.co_filename != "<string>"):
            return frame.f_code, frame.f_lineno
        frame = frame.f_back  # type: ignore[assignment]
    return None


def user_line() -> str:
    """``file:line: source`` of the user's program, or an empty string."""
    found = user_frame()
    return "" if found is None else shown(*found)


def shown(code: CodeType, number: int) -> str:
    """A place in a program as ``file:line: source``."""
    source = linecache.getline(code.co_filename, number).strip()
    return f"{code.co_filename}:{number}: {source}" if source else f"{code.co_filename}:{number}"


#: The key under which a module's path is noted on the nodes of its autograd graph.
MODULE_KEY = "torchveil.module"


def backward_module_path() -> str:
    """The path of the module whose gradient is being computed, or an empty string."""
    node: Any = torch._C._current_autograd_node()
    return "" if node is None else str(node.metadata.get(MODULE_KEY, ""))


def line_of(error: BaseException) -> str:
    """``file:line: source`` of the innermost frame of the user's program that an error passed through."""
    found: tuple[CodeType, int] | None = None
    traceback = error.__traceback__
    while traceback is not None:
        code = traceback.tb_frame.f_code
        if _is_users(code.co_filename):
            found = code, traceback.tb_lineno
        traceback = traceback.tb_next
    return "" if found is None else shown(*found)
