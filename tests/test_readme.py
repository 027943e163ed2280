"""The documents say what the code does. `python -m tests.test_readme` renews their tables."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from typer.models import CommandInfo

from bot import app, cli
from bot.chat import notices, status
from bot.chat.commands import TABLE
from bot.chat.notices import Permission
from bot.config import Settings
from bot.config.loading import KEYS, PREFIX, variable
from bot.core.durations import DAY, HOUR, MINUTE
from bot.core.lifetimes import OFF, POLICY_EVENT
from tests.support import settings_page

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
DOCS = ROOT / "docs"
EXAMPLES = ["compose.yaml", "Dockerfile", "deploy/ephemeral-bot.service", "config.example.yaml"]
PAGES = sorted(
    path.relative_to(ROOT).as_posix()
    for path in [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("deploy/*.md")]
)
every_page = pytest.mark.parametrize("page", PAGES)
every_text = pytest.mark.parametrize("page", [*PAGES, *EXAMPLES])


# --- What is made from the code ----------------------------------------------------------------


DEFAULTS = Settings.model_validate(
    {"homeserver": "https://example.org", "user_id": "@expire:example.org", "password": "secret"}
)


def table(*rows: tuple[str, ...]) -> str:
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([lines[0], "|---" * len(rows[0]) + "|", *lines[1:]])


def commands() -> str:
    rows = []
    for command in TABLE:
        ways = [
            " ".join(filter(None, (DEFAULTS.command_prefix, name, command.argument.written)))
            for name in command.names
        ]
        rows.append((", ".join(f"`{way}`" for way in ways), command.help, command.right.value))
    return table(("say", "what it does", "who may"), *rows)


def says() -> str:
    limits, prefix = DEFAULTS.limits, DEFAULTS.command_prefix
    weak, strong = Permission(have=0, need=50), Permission(have=50, need=50)
    waiting = status.status(
        DAY, pending=12, next_in=3 * HOUR + 5 * MINUTE, permission=strong, reading=False
    )
    alice, bob = (notices.person(name, f"@{name.lower()}:example.org") for name in ("Alice", "Bob"))
    rows = {
        "it comes": notices.welcome(prefix, weak, None),
        "a lifetime is set": notices.announcement(alice, DAY, limits, permission=strong),
        "it is turned off": notices.announcement(alice, OFF, limits, pending=12),
        "somebody asks": waiting,
        "somebody may not": notices.refused(bob, 50, 0),
        "a lifetime is too short": notices.outside(prefix, limits),
        "it loses its rights": notices.suspended(weak),
        "it has them again": notices.resumed(12),
        "the server refuses": notices.redactions_refused(3 * DAY),
        "it is invited again": notices.welcome(prefix, strong, DAY, 12),
        "the room was upgraded": notices.moved(DAY, strong),
        "it cannot set the lifetime there": notices.needs(DAY, weak),
        "it cannot join the new room": notices.room_replaced(),
    }
    return table(
        ("when", "it says"), *((when, said.replace("\n", "<br>")) for when, said in rows.items())
    )


def with_table(page: Path, name: str, made: str) -> str:
    """Return a page with the table of that name as the code has it."""
    text = page.read_text()
    begin, end = f"<!-- {name} -->\n", f"<!-- /{name} -->"
    assert text.count(begin) == text.count(end) == 1, name
    before, _, rest = text.partition(begin)
    return before + begin + made + "\n" + end + rest.partition(end)[2]


def made_pages() -> dict[Path, str]:
    """Return the pages that are made from the code, wholly or in part."""
    return {
        README: with_table(README, "commands", commands()),
        DOCS / "notices.md": with_table(DOCS / "notices.md", "says", says()),
        DOCS / "settings.md": settings_page.page((ROOT / "config.example.yaml").read_text()),
    }


def test_what_is_made_from_the_code_is_up_to_date() -> None:
    for page, text in made_pages().items():
        assert page.read_text() == text, "python -m tests.test_readme renews the pages"


def test_the_readme_is_short() -> None:
    assert len(README.read_text().splitlines()) <= 130


# --- What is written by hand, and held to the code ---------------------------------------------


def rows_under(heading: str) -> dict[str, list[str]]:
    """Return the table under a heading of operating.md: its cells by the name in the first one."""
    _, found, rest = (DOCS / "operating.md").read_text().partition(heading)
    assert found, heading
    lines = re.findall(r"^\| `([^`]+)` \| (.*) \|$", rest.partition("\n#")[0], re.MULTILINE)
    return {name: re.split(r" \| ", cells) for name, cells in lines}


def test_every_setting_is_documented_with_its_default() -> None:
    text = (DOCS / "settings.md").read_text()
    assert tuple(re.findall(r"^### `(.+)`$", text, re.MULTILINE)) == KEYS
    example = yaml.safe_load((ROOT / "config.example.yaml").read_text())
    for key, told in settings_page.sentences((ROOT / "config.example.yaml").read_text()).items():
        section, _, name = key.rpartition(".")
        assert name in (example[section] if section else example)
        assert told.endswith("."), key
    # What an operator relies on most, once by hand.
    for line in ("Default: `5s`", "Default: `1y`", "Default: `30s`", "Default: `!expire`"):
        assert line in text


def test_every_guarantee_is_held_by_tests_that_exist() -> None:
    exist = {
        name
        for path in ROOT.glob("tests/**/test_*.py")
        for name in re.findall(r"^ *(?:async )?def (test_\w+)", path.read_text(), re.MULTILINE)
    }
    _, *guarantees = (DOCS / "guarantees.md").read_text().split("\n## ")
    assert guarantees
    named = [set(re.findall(r"`(test_\w+)`", guarantee)) for guarantee in guarantees]
    assert all(named)
    assert set().union(*named) - exist == set()


def names(commands: list[CommandInfo]) -> set[str]:
    return {one.name or str(getattr(one.callback, "__name__", "")) for one in commands}


def test_every_subcommand_is_documented() -> None:
    known = names(cli.app.registered_commands)
    known |= {f"identity {name}" for name in names(cli.identity_app.registered_commands)}
    told = {row.removeprefix("ephemeral-bot ") for row in rows_under("\n## Subcommands")}
    assert told == known


@every_text
def test_every_variable_that_is_named_exists(page: str) -> None:
    known = {variable(key) for key in KEYS} | {PREFIX}
    assert set(re.findall(rf"{PREFIX}[A-Z_]*", (ROOT / page).read_text())) <= known


def test_every_exit_status_is_documented() -> None:
    statuses = {app.OK, app.FAILED, app.REFUSED, app.OCCUPIED, cli.CONFIG_ERROR}
    assert {int(number) for number in rows_under("\n## Exit statuses")} == statuses


def test_the_reader_is_told_of_every_folder_of_the_bot() -> None:
    told = (DOCS / "architecture.md").read_text().partition("## The tree")[2].partition("\n## ")[0]
    folders = {path.parent.name for path in ROOT.glob("bot/*/__init__.py")}
    assert folders == set(re.findall(r"^\| `bot/(\w+)` \|", told, re.MULTILINE))


def test_the_way_of_a_message_names_what_exists() -> None:
    text = (DOCS / "architecture.md").read_text()
    told = text.partition("## The way of one message")[2].partition("\n## ")[0]
    code = "\n".join(path.read_text() for path in ROOT.glob("bot/**/*.py"))
    named = re.findall(r"`([\w.]+)`", told)
    assert named
    for name in {part for one in named for part in one.split(".")}:
        assert re.search(rf"^ *(?:class|(?:async )?def) {name}\b", code, re.MULTILINE), name
    for module in re.findall(r"`(core/\w+)`", told):
        assert (ROOT / "bot" / f"{module}.py").exists(), module


@every_page
def test_the_state_event_is_named_as_the_code_names_it(page: str) -> None:
    assert set(re.findall(r"com\.beeper\.[a-z_]+", (ROOT / page).read_text())) <= {POLICY_EVENT}


def test_the_readme_names_the_state_event() -> None:
    assert f"`{POLICY_EVENT}`" in README.read_text()


def test_the_bot_of_the_compose_file_can_write_to_its_data_only() -> None:
    bot = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]["bot"]
    assert bot["read_only"]
    assert bot["cap_drop"] == ["ALL"]
    assert bot["volumes"] == ["bot-data:/data"]
    assert "user" not in bot  # the image's own, who is not root


def test_the_overrides_of_synapse_are_a_few_keys() -> None:
    text = (ROOT / "deploy/synapse/homeserver-overrides.yaml").read_text()
    assert set(yaml.safe_load(text)) == {"redaction_retention_period"}


def test_the_unit_starts_nothing_again_that_cannot_mend_itself() -> None:
    unit = (ROOT / "deploy/ephemeral-bot.service").read_text()
    statuses = f"{cli.CONFIG_ERROR} {app.REFUSED} {app.OCCUPIED}"
    assert f"RestartPreventExitStatus={statuses}\n" in unit


# --- Links and words ---------------------------------------------------------------------------

HOSTS = {
    "element-hq.github.io",
    "github.com",
    "keepachangelog.com",
    "localhost",
    "matrix.example.org",
    "proxy.example.org",
    "semver.org",
    "synapse",
}
PLACES = {"_matrix", "_synapse", "config.yaml", "data", "dev", "etc", "opt", "run", "tmp", "var"}
PLACES |= {"devtools", "health", "overrides.yaml", "build", "usr", "matrix-ephemeral-bot"}

# The project has one word for each thing, and none for how good it is.
AVOIDED = ["TTL", "burn", "job", "task", "handler", "manager"]
AVOIDED += ["TODO", "FIXME", "simply", "seamless", "effortless", "blazing", "powerful", "robust"]


def anchors(page: Path) -> set[str]:
    """Return the names that GitHub gives to the headings of a page."""
    titles = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


def links(page: str) -> list[str]:
    return re.findall(r"\]\(([^)\s]+)\)", (ROOT / page).read_text())


@every_page
def test_every_link_leads_somewhere(page: str) -> None:
    for link in links(page):
        if link.startswith("https://"):
            continue
        path, _, anchor = link.partition("#")
        target = (ROOT / page).parent / path if path else ROOT / page
        assert target.exists(), link
        if anchor:
            assert anchor in anchors(target), link


@every_text
def test_only_public_hosts_and_places_are_named(page: str) -> None:
    text = re.sub("<!--.*?-->", "", (ROOT / page).read_text())
    assert set(re.findall(r"https?://([\w.-]+)", text)) <= HOSTS
    assert set(re.findall(r"(?:^|[\s\"'`=:,(])/([\w.-]*\w)", text, re.MULTILINE)) <= PLACES


@every_page
def test_the_pages_keep_to_the_projects_own_words(page: str) -> None:
    text = (ROOT / page).read_text().replace("burn-bot", "")
    assert re.findall(rf"\b(?:{'|'.join(AVOIDED)})\b", text) == []


if __name__ == "__main__":
    for path, made in made_pages().items():
        path.write_text(made)
