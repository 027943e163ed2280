"""The layers hold: what every module imports, read from its syntax tree."""

from __future__ import annotations

import ast
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LONGEST = 320
"""Lines of a module that can still be read in one go."""

LAYERS = {
    "core": {
        "model",
        "allowance",
        "durations",
        "power",
        "timeline",
        "events",
        "wayback",
        "walk",
        "pending",
        "policy",
        "schedule",
        "due",
        "commands",
        "words",
        "report",
        "recovery_key",
        "pace",
        "addresses",
        "succession",
        "defaults",
        "proxies",
    },
    "edge": {"store", "matrix", "config"},
    "services": {
        "clock",
        "worker",
        "pages",
        "reading",
        "hearing",
        "judging",
        "late",
        "deciding",
        "kin",
        "sweeper",
        "ratchet",
        "intake",
        "lost_rooms",
        "backfill",
        "redactor",
        "selection",
        "notices",
        "speaker",
        "rooms",
        "invitations",
        "departures",
        "disputes",
        "housekeeping",
        "identity",
        "patience",
    },
    "shell": {
        "__init__",
        "__main__",
        "app",
        "cli",
        "checks",
        "logs",
        "demo",
        "custody",
        "rebuild",
        "limits",
        "registration",
        "findings",
        "lock",
        "surroundings",
        "attachments",
        "upgrades",
        "timekeeper",
    },
}
SHARED = {
    "selection",
    "clock",
    "worker",
    "reading",
    "hearing",
    "judging",
    "notices",
    "pages",
    "lost_rooms",
}
"""The services that other services may import."""

OUTSIDE = {
    "aiosqlite": {"store"},
    "sqlite3": {"store"},
    "nio": {"matrix", "checks", "demo"},
    "peewee": {"matrix"},
    "vodozemac": {"matrix", "checks", "demo"},
    "Crypto": {"matrix"},
    "aiohttp": {"matrix", "checks", "demo"},
    "signedjson": {"matrix"},
    "canonicaljson": {"matrix"},
    "unpaddedbase64": {"matrix"},
    "yaml": {"config"},
    "pydantic": {"config"},
    "pydantic_core": {"config"},
    "typer": {"cli"},
    "rich": {"cli", "checks", "demo"},
    "synapse": {"demo"},
}
"""The only parts of the bot that know each outside thing."""


def dotted(path: Path) -> str:
    name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    return name.removesuffix(".__init__")


SOURCES = {dotted(path): path for path in sorted((ROOT / "bot").rglob("*.py"))}
PARTS = sorted({name.split(".")[1] for name in SOURCES if "." in name})
every_module = pytest.mark.parametrize("name", SOURCES)


def part(name: str) -> str:
    """Return which part of the bot a module is or belongs to: `store` for `bot.store.database`."""
    return name.split(".")[1] if "." in name else "__init__"


def layer(name: str) -> str:
    return next((one for one, parts in LAYERS.items() if part(name) in parts), "none")


def imports(name: str) -> set[str]:
    """Return the modules that a module imports: at its top, in functions, and for types only."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(SOURCES[name].read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name}: a relative import in line {node.lineno}"
            module = str(node.module)
            members = {f"{module}.{alias.name}" for alias in node.names}
            modules = members & set(SOURCES)
            found |= modules or {module}
    return found


def own(name: str) -> set[str]:
    return {one for one in imports(name) if one.split(".")[0] == "bot"}


def foreign(name: str) -> set[str]:
    """Return the packages that a module imports and the bot does not own."""
    return {one.split(".")[0] for one in imports(name)} - {"bot"}


def test_every_part_has_one_layer() -> None:
    assigned = sorted(one for parts in LAYERS.values() for one in parts if one != "__init__")
    assert assigned == PARTS


@every_module
def test_a_module_imports_only_what_its_layer_may(name: str) -> None:
    allowed = {
        "core": LAYERS["core"],
        "edge": LAYERS["core"] | {part(name)},
        "services": LAYERS["core"] | SHARED,
        "shell": set().union(*LAYERS.values()),
    }[layer(name)]
    assert {part(one) for one in own(name)} <= allowed


@every_module
def test_a_module_knows_only_the_outside_things_of_its_part(name: str) -> None:
    for package in sorted(foreign(name)):
        if package in OUTSIDE:
            assert part(name) in OUTSIDE[package], package
        else:
            assert package in sys.stdlib_module_names, f"{package} is assigned to no part"


def test_the_core_and_the_services_need_the_standard_library_only() -> None:
    free = {name for name in SOURCES if layer(name) in {"core", "services"}}
    assert {package for name in free for package in foreign(name)} <= sys.stdlib_module_names
    assert not free & {name for name in SOURCES if part(name) in set().union(*OUTSIDE.values())}


def test_no_imports_go_in_a_circle() -> None:
    graph = TopologicalSorter({name: own(name) for name in SOURCES})
    try:
        graph.prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


@every_module
def test_a_module_is_short_and_named_for_what_it_does(name: str) -> None:
    assert not {"utils", "util", "helpers", "common", "misc"} & set(name.split("."))
    assert len(SOURCES[name].read_text().splitlines()) <= LONGEST
