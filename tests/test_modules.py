"""What no tool says of modules: they are short, the core is bare, and tests are whole."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LONGEST = 320
"""Lines of a module that can still be read in one go."""
MOST_WORDS = 12
"""Words of a test's name that can still be read in one go."""
MODULES = sorted((ROOT / "bot").rglob("*.py"))
BARE = [path for path in MODULES if path.relative_to(ROOT).parts[1] in {"core", "chat", "services"}]
"""What needs nothing but the standard library and the bot itself."""
TESTS = sorted(path for path in (ROOT / "tests").rglob("*.py") if "node_modules" not in path.parts)


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


@pytest.mark.parametrize("path", TESTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_the_names_of_tests_have_twelve_words_at_most(path: Path) -> None:
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    names = [
        node.name for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, functions)
    ]
    tests = [name.removeprefix("test_") for name in names if name.startswith("test_")]
    assert [name for name in tests if len(name.split("_")) > MOST_WORDS] == []


@pytest.mark.parametrize("path", TESTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_a_test_that_lacks_something_fails_and_is_not_skipped(path: Path) -> None:
    nodes = list(ast.walk(ast.parse(path.read_text())))
    used = {node.attr for node in nodes if isinstance(node, ast.Attribute)}
    assert not used & {"skip", "skipif", "importorskip", "xfail"}
