"""What the import contracts in pyproject.toml cannot say: modules are short, the core is bare."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LONGEST = 320
"""Lines of a module that can still be read in one go."""
MODULES = sorted((ROOT / "bot").rglob("*.py"))
BARE = [path for path in MODULES if path.relative_to(ROOT).parts[1] in {"core", "chat", "services"}]
"""What needs nothing but the standard library and the bot itself."""


def packages(path: Path) -> set[str]:
    """Return the top-level packages that a module imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"a relative import in line {node.lineno}"
            found.add(str(node.module).partition(".")[0])
    return found


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_a_module_can_be_read_in_one_go(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= LONGEST


@pytest.mark.parametrize("path", BARE, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_what_decides_needs_the_standard_library_only(path: Path) -> None:
    assert packages(path) <= sys.stdlib_module_names | {"bot"}
