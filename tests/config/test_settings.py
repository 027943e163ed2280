from __future__ import annotations

import itertools
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from bot.config import ConfigError, Settings, load
from bot.config.loading import KEYS
from bot.core.lifetimes import LifetimeLimits

if TYPE_CHECKING:
    from collections.abc import Callable

EXAMPLE = Path(__file__).parent.parent.parent / "config.example.yaml"
SECRET = "hunter2-do-not-show"
PICKLE_KEY = "0123456789abcDEF" * 4
RECOVERY_KEY = "EsSz ykH7 LCZx 7Cae cmKD wcmY JRXi Ybtu 8iQ3 t8Ez nRwK pUY1"
LEAST = 'homeserver: https://matrix.example.org\nuser_id: "@bot:example.org"\n'
WHOLE = f"{LEAST}password: {SECRET}\n"
DAY = 24 * 60 * 60 * 1000


@pytest.fixture
def read(tmp_path: Path) -> Callable[..., Settings]:
    """Load settings from a text and from variables named without their prefix."""

    def load_text(text: str, **environ: str) -> Settings:
        path = tmp_path / "config.yaml"
        path.write_text(text, encoding="utf-8")
        named = {f"EPHEMERAL_BOT_{name}": value for name, value in environ.items()}
        return load(path, environ=named)

    return load_text


# --- What is read ------------------------------------------------------------------------------


def test_the_least_settings_are_enough(read: Callable[..., Settings]) -> None:
    settings = read(WHOLE)
    assert settings.homeserver == "https://matrix.example.org"
    assert settings.user_id == "@bot:example.org"
    assert settings.password_text() == SECRET
    assert settings.access_token_text() is None
    assert settings.pickle_key() is None
    assert settings.data_dir == Path("data")
    assert settings.command_prefix == "!expire"
    assert settings.limits == LifetimeLimits(minimum=5_000, maximum=365 * DAY, default=None)
    assert (settings.log.level, settings.log.format) == ("info", "text")


def test_every_key_can_be_written_in_the_file(read: Callable[..., Settings]) -> None:
    settings = read(
        WHOLE + "data_dir: /data\ncommand_prefix: '!vanish'\n"
        "invites: {allow: ['@alice:*']}\nlifetime: {default: 1d, min: 1m, max: 2w}\n"
        f"encryption: {{pickle_key: '{PICKLE_KEY}'}}\nlog: {{level: debug, format: json}}\n"
    )
    assert settings.data_dir == Path("/data")
    assert settings.command_prefix == "!vanish"
    assert settings.allow == ["@alice:*"]
    assert settings.limits == LifetimeLimits(minimum=60_000, maximum=14 * DAY, default=DAY)
    assert settings.pickle_key() == bytes.fromhex(PICKLE_KEY)
    assert (settings.log.level, settings.log.format) == ("debug", "json")


@pytest.mark.parametrize("slashes", ["", "/", "//"])
def test_a_slash_at_the_end_of_the_homeserver_goes(
    read: Callable[..., Settings], slashes: str
) -> None:
    settings = read(WHOLE, HOMESERVER=f"http://localhost:8008{slashes}")
    assert settings.homeserver == "http://localhost:8008"


@pytest.mark.parametrize("server", ["example.org", "example.org:8448", "[::1]:8448"])
def test_only_the_bots_own_server_may_invite_unless_the_operator_says_so(
    read: Callable[..., Settings], server: str
) -> None:
    settings = read(WHOLE, USER_ID=f"@bot:{server}")
    assert settings.own_server == server
    assert settings.allow == [f"*:{server}"]


def test_an_empty_list_lets_nobody_invite(read: Callable[..., Settings]) -> None:
    assert read(WHOLE + "invites: {allow: []}").allow == []
    assert read(WHOLE, INVITES__ALLOW="[]").allow == []


def test_a_section_whose_keys_are_commented_out_has_its_defaults(
    read: Callable[..., Settings],
) -> None:
    assert read(WHOLE + "lifetime:\n#  min: 1m\n") == read(WHOLE)


# --- The environment ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value", "path", "expected"),
    [
        ("HOMESERVER", "http://localhost:8008", "homeserver", "http://localhost:8008"),
        ("USER_ID", "@other:example.org", "user_id", "@other:example.org"),
        ("DATA_DIR", "/srv", "data_dir", Path("/srv")),
        ("COMMAND_PREFIX", "!x", "command_prefix", "!x"),
        ("INVITES__ALLOW", '["*:a.org", "@b:*"]', "invites.allow", ["*:a.org", "@b:*"]),
        ("INVITES__ALLOW", "*:a.org, @b:*", "invites.allow", ["*:a.org", "@b:*"]),
        ("LIFETIME__MIN", "10s", "lifetime.min", 10_000),
        ("LIFETIME__MAX", "2d", "lifetime.max", 2 * DAY),
        ("LIFETIME__DEFAULT", "1d", "lifetime.default", DAY),
        ("LIFETIME__DEFAULT", "", "lifetime.default", None),
        ("LOG__LEVEL", "error", "log.level", "error"),
        ("LOG__FORMAT", "json", "log.format", "json"),
    ],
)
def test_the_environment_wins_over_the_file(
    read: Callable[..., Settings], name: str, value: str, path: str, expected: Any
) -> None:
    found: Any = read(
        WHOLE + "data_dir: /data\ncommand_prefix: '!y'\ninvites: {allow: ['*:z.org']}\n"
        "lifetime: {default: 12h, min: 1m, max: 1w}\nlog: {level: debug, format: text}\n",
        **{name: value},
    )
    for part in path.split("."):
        found = getattr(found, part)
    assert found == expected


def test_secrets_can_come_from_the_environment(read: Callable[..., Settings]) -> None:
    settings = read(LEAST, PASSWORD=SECRET, ENCRYPTION__PICKLE_KEY=PICKLE_KEY)
    assert settings.password_text() == SECRET
    assert settings.pickle_key() == bytes.fromhex(PICKLE_KEY)


def test_the_file_may_be_absent_when_the_environment_says_everything(tmp_path: Path) -> None:
    environ = {
        "EPHEMERAL_BOT_HOMESERVER": "https://matrix.example.org",
        "EPHEMERAL_BOT_USER_ID": "@bot:example.org",
        "EPHEMERAL_BOT_PASSWORD": SECRET,
        "PATH": "/bin",
    }
    settings = load(tmp_path / "config.yaml", required=False, environ=environ)
    assert settings.password_text() == SECRET
    with pytest.raises(ConfigError, match=r"^no such file$"):
        load(tmp_path / "config.yaml", required=True, environ=environ)


def test_the_process_own_environment_is_read_by_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(WHOLE)
    monkeypatch.setenv("EPHEMERAL_BOT_COMMAND_PREFIX", "!vanish")
    assert load(path).command_prefix == "!vanish"


def test_nothing_at_all_says_how_to_begin(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no such file; copy config\.example\.yaml"):
        load(tmp_path / "config.yaml", required=False, environ={})


def test_what_kubernetes_puts_into_the_environment_is_no_mistake(
    read: Callable[..., Settings],
) -> None:
    read(
        WHOLE,
        SERVICE_HOST="10.0.0.1",
        SERVICE_PORT_METRICS="9000",
        PORT="tcp://10.0.0.1:9000",
        PORT_9000_TCP_ADDR="10.0.0.1",
    )


# --- Ways to log in ----------------------------------------------------------------------------


@pytest.mark.parametrize("end", ["", "\n", "\r\n"])
def test_a_password_file_is_read_without_the_end_of_its_line(
    read: Callable[..., Settings], tmp_path: Path, end: str
) -> None:
    file = tmp_path / "password"
    file.write_text(f" {SECRET} {end}", newline="")
    settings = read(LEAST, PASSWORD_FILE=str(file))
    file.unlink()
    assert settings.password_text() == f" {SECRET} "


def test_an_access_token_file_replaces_the_password(
    read: Callable[..., Settings], tmp_path: Path
) -> None:
    file = tmp_path / "token"
    file.write_text(f"syt_{SECRET}\n")
    settings = read(f"{LEAST}access_token_file: {file}")
    assert settings.access_token_text() == f"syt_{SECRET}"
    assert settings.password_text() is None


def test_an_administrators_token_counts_only_where_files_are_to_be_deleted(
    read: Callable[..., Settings], tmp_path: Path
) -> None:
    file = tmp_path / "token"
    file.write_text(f"syt_{SECRET}\n")
    settings = read(f"{WHOLE}media: {{delete: true, admin_token_file: {file}}}")
    assert settings.admin_token_text() == f"syt_{SECRET}"
    assert SECRET not in repr(settings)
    assert read(f"{WHOLE}media: {{admin_token_file: {file}}}").admin_token_text() is None


def test_a_pickle_key_file_is_read(read: Callable[..., Settings], tmp_path: Path) -> None:
    file = tmp_path / "pickle.key"
    file.write_text(f"{PICKLE_KEY}\n")
    settings = read(f"{WHOLE}encryption: {{pickle_key_file: {file}}}")
    assert settings.pickle_key() == bytes.fromhex(PICKLE_KEY)


def test_a_recovery_key_file_is_read(read: Callable[..., Settings], tmp_path: Path) -> None:
    file = tmp_path / "recovery.key"
    file.write_text(f"{RECOVERY_KEY}\n")
    settings = read(WHOLE, ENCRYPTION__RECOVERY_KEY_FILE=str(file))
    file.unlink()
    assert settings.recovery_key() == bytes(range(32))
    assert read(WHOLE).recovery_key() is None


def test_settings_never_show_their_secrets(read: Callable[..., Settings], tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(SECRET)
    key_file = tmp_path / "recovery.key"
    key_file.write_text(RECOVERY_KEY)
    for settings in (
        read(WHOLE, ENCRYPTION__PICKLE_KEY=PICKLE_KEY),
        read(LEAST, PASSWORD_FILE=str(file)),
        read(LEAST, ACCESS_TOKEN_FILE=str(file)),
        read(WHOLE, ENCRYPTION__RECOVERY_KEY_FILE=str(key_file)),
    ):
        shown = f"{settings!r} {settings!s} {settings.model_dump()} {settings.model_dump_json()}"
        assert SECRET not in shown
        assert PICKLE_KEY not in shown
        assert RECOVERY_KEY not in shown


# --- The example -------------------------------------------------------------------------------


def test_the_example_loads_as_it_is(tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text(SECRET)
    settings = load(EXAMPLE, environ={"EPHEMERAL_BOT_PASSWORD_FILE": str(file)})
    assert settings.password_text() == SECRET


def test_the_example_holds_every_key_and_no_other() -> None:
    data = yaml.safe_load(EXAMPLE.read_text(encoding="utf-8"))
    found = [
        f"{name}.{key}" if key else name
        for name, value in data.items()
        for key in (value if isinstance(value, dict) else [""])
    ]
    assert sorted(found) == sorted(KEYS)


def test_the_example_explains_every_key_above_it() -> None:
    lines = EXAMPLE.read_text(encoding="utf-8").splitlines()
    for above, line in itertools.pairwise(lines):
        if line.strip() and not line.strip().startswith("#") and not line.endswith(":"):
            assert above.strip().startswith("#"), line


def test_the_example_shows_the_defaults(tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text(SECRET)
    shown = load(EXAMPLE, environ={"EPHEMERAL_BOT_PASSWORD_FILE": str(file)}).model_dump()
    for key, field in Settings.model_fields.items():
        if not field.is_required() and key != "password_file":
            default = field.get_default()
            assert shown[key] == (
                default.model_dump() if hasattr(default, "model_dump") else default
            )


def test_login_files_are_read_again_and_a_spoilt_one_is_not_believed(
    read: Callable[..., Settings], tmp_path: Path
) -> None:
    file = tmp_path / "token"
    file.write_text("first\n")
    settings = read(f"{LEAST}access_token_file: {file}")
    file.write_text("second\n")
    assert settings.read_again().access_token_text() == "second"
    for spoilt in ("two words", ""):
        file.write_text(spoilt)
        assert settings.read_again().access_token_text() == "second"
    file.unlink()
    assert settings.read_again().access_token_text() == "second"
    assert settings.password_text() is None
