from __future__ import annotations

import json
import traceback
from typing import TYPE_CHECKING

import pytest

from bot.config import ConfigError, load
from bot.config.loading import variable
from bot.config.settings import LOGINS

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SECRET = "hunter2-do-not-show"
PICKLE_KEY = "0123456789abcDEF" * 4
LEAST = 'homeserver: https://matrix.example.org\nuser_id: "@bot:example.org"\n'
WHOLE = f"{LEAST}password: {SECRET}\n"


@pytest.fixture
def refusal(tmp_path: Path) -> Callable[..., str]:
    """Return why settings are refused, having seen that it is one line without the secret."""

    def reason(text: str, **environ: str) -> str:
        path = tmp_path / "config.yaml"
        path.write_text(text, encoding="utf-8")
        named = {f"EPHEMERAL_BOT_{name}": value for name, value in environ.items()}
        with pytest.raises(ConfigError) as caught:
            load(path, environ=named)
        message = str(caught.value)
        assert message.isprintable()
        assert SECRET not in "".join(traceback.format_exception(caught.value))
        return message

    return reason


FILE_KEYS = [
    "password_file",
    "access_token_file",
    "appservice.token_file",
    "encryption.pickle_key_file",
    "encryption.recovery_key_file",
    "media.admin_token_file",
]


def _with_file(key: str, path: Path) -> dict[str, str]:
    login = {} if key in LOGINS else {"PASSWORD": SECRET}
    return {variable(key).removeprefix("EPHEMERAL_BOT_"): str(path)} | login


@pytest.mark.parametrize("key", FILE_KEYS)
def test_a_secret_file_that_cannot_be_used_is_named_by_its_key(
    refusal: Callable[..., str], tmp_path: Path, key: str
) -> None:
    file = tmp_path / "secret"
    assert refusal(LEAST, **_with_file(key, file)) == (
        f"{key}: cannot be read (No such file or directory)"
    )
    file.write_text("\n")
    assert refusal(LEAST, **_with_file(key, file)) == f"{key}: the file is empty"
    file.write_bytes(b"\xff\xfe")
    assert refusal(LEAST, **_with_file(key, file)) == f"{key}: is not UTF-8 text"
    assert refusal(LEAST, **_with_file(key, tmp_path)) == f"{key}: cannot be read (Is a directory)"


def test_an_access_token_file_with_more_than_a_token_is_refused(
    refusal: Callable[..., str], tmp_path: Path
) -> None:
    file = tmp_path / "token"
    file.write_text(f"token: {SECRET}\nmore")
    assert refusal(LEAST, ACCESS_TOKEN_FILE=str(file)).startswith("access_token_file: must hold")


def test_deleting_files_without_a_token_is_refused(refusal: Callable[..., str]) -> None:
    expected = "media.delete: needs media.admin_token_file"
    assert refusal(WHOLE + "media: {delete: true}") == expected
    assert refusal(WHOLE, MEDIA__DELETE="true") == expected


def test_an_administrators_token_file_with_more_than_a_token_is_refused(
    refusal: Callable[..., str], tmp_path: Path
) -> None:
    file = tmp_path / "token"
    file.write_text(f"token: {SECRET}")
    assert refusal(WHOLE, MEDIA__ADMIN_TOKEN_FILE=str(file)) == (
        "media.admin_token_file: must hold one access token and nothing else"
    )


@pytest.mark.parametrize("key", [PICKLE_KEY[:-1], PICKLE_KEY + "0", SECRET, "g" * 64])
def test_a_pickle_key_of_another_shape_is_refused(
    refusal: Callable[..., str], tmp_path: Path, key: str
) -> None:
    shape = "must be 64 hexadecimal characters (32 bytes)"
    message = refusal(WHOLE, ENCRYPTION__PICKLE_KEY=key)
    assert message == (f"encryption.pickle_key (EPHEMERAL_BOT_ENCRYPTION__PICKLE_KEY): {shape}")
    file = tmp_path / "pickle.key"
    file.write_text(key)
    message = refusal(WHOLE, ENCRYPTION__PICKLE_KEY_FILE=str(file))
    assert message == f"encryption.pickle_key_file: {shape}"


@pytest.mark.parametrize("key", [SECRET, PICKLE_KEY, "EsTc", "1" * 48])
def test_a_recovery_key_that_is_none_is_refused(
    refusal: Callable[..., str], tmp_path: Path, key: str
) -> None:
    file = tmp_path / "recovery.key"
    file.write_text(key)
    message = refusal(WHOLE, ENCRYPTION__RECOVERY_KEY_FILE=str(file))
    assert message.startswith("encryption.recovery_key_file: is no recovery key")


def test_a_pickle_key_and_its_file_together_are_refused(refusal: Callable[..., str]) -> None:
    message = refusal(
        WHOLE + "encryption: {pickle_key_file: /key}", ENCRYPTION__PICKLE_KEY=PICKLE_KEY
    )
    assert message == "encryption.pickle_key, encryption.pickle_key_file: keep one"


def test_no_way_to_log_in_is_refused(refusal: Callable[..., str]) -> None:
    ways = "password, password_file, access_token_file, appservice.token_file"
    expected = f"one of {ways} is needed to log in"
    assert refusal(LEAST) == f"password: missing; {expected}"
    assert refusal(WHOLE, PASSWORD="") == f"password: missing; {expected}"


def test_two_ways_to_log_in_are_refused_wherever_they_come_from(
    refusal: Callable[..., str],
) -> None:
    expected = "password, password_file: more than one way to log in; keep one"
    assert refusal(WHOLE + "password_file: /secret") == expected
    assert refusal(LEAST + "password_file: /secret", PASSWORD=SECRET) == expected


# --- What is refused ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("lifetime: {mni: 5s}", "lifetime.mni: unknown key; did you mean lifetime.min?"),
        ("pasword_file: x", "pasword_file: unknown key; did you mean password_file?"),
        ("lifetimes: {min: 5s}", "lifetimes: unknown key; did you mean lifetime?"),
        ("lifetime.min: 5s", "lifetime.min: unknown key; write min indented below lifetime"),
        ("xyzzy: 1", "xyzzy: unknown key"),
        ("on: 1", "a key is not text; YAML reads on, off,"),
        (f"{{password:{SECRET}}}: x", "not YAML at line 4, column 1; text that begins with"),
        (f"? 'x:{SECRET}'\n", "x…: unknown key"),
        ("lifetime: {min: 30}", "lifetime.min: a number needs a unit: write 30s for seconds"),
        ("lifetime: {min: '30'}", "lifetime.min: a number needs a unit, such as"),
        ("lifetime: {min: 0s}", "lifetime.min: a length of time must be longer than nothing"),
        ("lifetime: {min: 0}", "lifetime.min: must be a length of time, such as 30s, 12h or 1y"),
        ("lifetime: {min: off}", "lifetime.min: must be a length of time"),
        ("lifetime: {min: null}", "lifetime.min: must be a length of time"),
        ("lifetime: {min: 1.5}", "lifetime.min: must be a length of time"),
        ("lifetime: {default: never}", "lifetime.default: write numbers and units"),
        ("lifetime: {min: 2y}", "lifetime.min: is above lifetime.max"),
        ("lifetime: {max: 1s}", "lifetime.min: is above lifetime.max"),
        (
            "lifetime: {default: 1s}",
            "lifetime.default: is outside lifetime.min to lifetime.max, 5s to 1y",
        ),
        ("lifetime: {default: 2y}", "lifetime.default: is outside lifetime.min to lifetime.max"),
        ("lifetime: 5s", "lifetime: must be a section of keys and values"),
        ("lifetime: [5s]", "lifetime: must be a section of keys and values"),
        ("log: {level: on}", "log.level: must be 'debug', 'info', 'warning' or 'error'"),
        ("log: {level: loud}", "log.level: must be 'debug', 'info', 'warning' or 'error'"),
        ("log: {format: xml}", "log.format: must be 'text' or 'json'"),
        ("command_prefix: on", "command_prefix: must be text; YAML reads a bare on, off,"),
        ("command_prefix: 7", "command_prefix: must be text; a number needs quotes"),
        ("command_prefix: ''", "command_prefix: must be one visible word"),
        ("command_prefix: '! expire'", "command_prefix: must be one visible word"),
        ('command_prefix: "!x\\u00a0y"', "command_prefix: must be one visible word"),
        ("data_dir: 7", "data_dir: must be text; a number needs quotes"),
        ("data_dir: ''", "data_dir: must be a path"),
        ("invites: {allow: '*:example.org'}", "invites.allow: must be a list"),
        ("invites: {allow: [7]}", "invites.allow.0: must be text"),
        ("invites: {allow: [example.org]}", "invites.allow.0: must look like '*:example.org'"),
        ("invites: {allow: ['alice:*']}", "invites.allow.0: must look like '*:example.org'"),
        ("invites: {allow: [*:example.org]}", "not YAML at line 4, column"),
        ("password: again", "password: written twice, again in line 4"),
        ("log: {level: info, level: debug}", "log.level: written twice, again in line 4"),
        ("\tlog: 1", "not YAML at line 4, column 1"),
        ("--- {}", "not YAML at line"),
        ("x: 2020-13-45", "not YAML"),
        ('x: "\\ud800"', "x: unknown key"),
        ("x: \x00", "not YAML"),
        ("? [a]\n", "not YAML at line 4"),
        ("x: !!python/name:os.system", "not YAML at line 4, column 4"),
    ],
)
def test_a_mistake_in_the_file_is_one_line_that_names_the_key(
    refusal: Callable[..., str], text: str, expected: str
) -> None:
    assert refusal(WHOLE + text).startswith(expected)


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        (
            "LIFETIME__MNI",
            "5s",
            "EPHEMERAL_BOT_LIFETIME__MNI: unknown key; did you mean EPHEMERAL_BOT_LIFETIME__MIN?",
        ),
        ("LIFETIME_MIN", "5s", "EPHEMERAL_BOT_LIFETIME_MIN: unknown key; did you mean"),
        ("LIFETIME", "{}", "EPHEMERAL_BOT_LIFETIME: unknown key"),
        ("LIFETIME__MIN", "5", "lifetime.min (EPHEMERAL_BOT_LIFETIME__MIN): a number needs a unit"),
        ("INVITES__ALLOW", "", "EPHEMERAL_BOT_INVITES__ALLOW: is empty; write [] for nobody"),
        ("INVITES__ALLOW", "[x", "EPHEMERAL_BOT_INVITES__ALLOW: must be a JSON list or words"),
        ("INVITES__ALLOW", "[7]", "invites.allow.0 (EPHEMERAL_BOT_INVITES__ALLOW): must be text"),
        ("HOMESERVER", "", "homeserver (EPHEMERAL_BOT_HOMESERVER): must be text"),
    ],
)
def test_a_mistake_in_the_environment_names_the_variable(
    refusal: Callable[..., str], name: str, value: str, expected: str
) -> None:
    assert refusal(WHOLE, **{name: value}).startswith(expected)


@pytest.mark.parametrize(
    "url",
    [
        "matrix.example.org",
        "ftp://example.org",
        "https://",
        "https:///x",
        "https://exa mple.org",
        "https://example.org:http",
        "https://example.org:99999",
        "https://[::1",
        "https://example.org?x",
        "https://example.org#x",
        f"https://bot:{SECRET}@example.org",
        "https://example.org\n",
    ],
)
def test_a_homeserver_that_is_no_url_is_refused(refusal: Callable[..., str], url: str) -> None:
    text = WHOLE.replace("https://matrix.example.org", json.dumps(url))
    assert refusal(text).startswith("homeserver: must be an http or https URL")


@pytest.mark.parametrize(
    "user_id", ["bot", "@bot", "bot:example.org", "@bot:", "@:example.org", "@b ot:x", "@bot:x/y"]
)
def test_a_user_id_that_is_not_whole_is_refused(refusal: Callable[..., str], user_id: str) -> None:
    assert refusal(WHOLE, USER_ID=user_id).startswith("user_id (EPHEMERAL_BOT_USER_ID): must be")


def test_a_user_id_without_quotes_is_explained(refusal: Callable[..., str]) -> None:
    message = refusal(WHOLE.replace('"', ""))
    assert message == (
        "not YAML at line 2, column 10; text that begins with @ * & ! % or ` needs quotes"
    )


@pytest.mark.parametrize("text", ["- a", "just words", "7"])
def test_a_file_without_keys_is_refused(refusal: Callable[..., str], text: str) -> None:
    assert refusal(text).startswith("must hold keys and values, such as homeserver:")


def test_an_empty_file_lacks_its_keys(refusal: Callable[..., str]) -> None:
    assert refusal("") == "homeserver: missing; also user_id: missing"


def test_several_mistakes_are_told_in_one_line_the_cause_first(refusal: Callable[..., str]) -> None:
    assert refusal(WHOLE.replace("homeserver", "homserver")) == (
        "homserver: unknown key; did you mean homeserver?; also homeserver: missing"
    )


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^cannot be read \(Is a directory\)$"):
        load(tmp_path, environ={})
    path = tmp_path / "config.yaml"
    path.write_bytes(b"\xff\xfe\xff")
    with pytest.raises(ConfigError, match=r"^not UTF-8 text$"):
        load(path, environ={})


def test_a_loop_of_aliases_ends(refusal: Callable[..., str]) -> None:
    assert refusal(WHOLE + "log: &a {level: *a}").startswith("log.level: must be")


# --- Secrets -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        f"password: [{SECRET}]",
        f"password: {{{SECRET}: 1}}",
        f"password: *{SECRET}",
        f"password: !{SECRET}",
        f"password: @{SECRET}",
        f"password: '{SECRET}",
        f"password_file: {SECRET}",
        f"access_token_file: {SECRET}",
        f"appservice: {{token_file: {SECRET}}}",
        f"password: ''\ncommand_prefix: '{SECRET} {SECRET}'",
        f"password: x\nencryption: {{pickle_key: {SECRET}}}",
        f"password: x\nencryption: {{pickle_key_file: {SECRET}}}",
        f"password: x\nmedia: {{admin_token_file: {SECRET}}}",
        f"password: x\nmedia: {{delete: {SECRET}}}",
        f"password: x\nhomeserver: {SECRET}",
        f"password: x\nlifetime: {{min: {SECRET}}}",
        f"password: x\nlog: {{level: {SECRET}}}",
        f"{{password:{SECRET}}}",
    ],
)
def test_a_mistake_never_repeats_what_was_written(refusal: Callable[..., str], text: str) -> None:
    refusal(LEAST + text)  # the fixture looks for the secret


@pytest.mark.parametrize("value", [0, -1, True, "many", 1.5, 10**9])
@pytest.mark.parametrize(
    "key",
    ["invites.per_hour", "invites.max_rooms", "invites.rooms_per_inviter", "commands.per_minute"],
)
def test_a_limit_that_is_no_whole_number_above_zero_is_refused(
    refusal: Callable[..., str], value: object, key: str
) -> None:
    section, name = key.split(".")
    text = f"{WHOLE}{section}: {{{name}: {json.dumps(value)}}}\n"
    assert refusal(text) == f"{key}: must be a whole number, 1 or more"


def test_limits_come_from_the_environment_too(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(WHOLE)
    environ = {
        "EPHEMERAL_BOT_INVITES__PER_HOUR": "7",
        "EPHEMERAL_BOT_INVITES__MAX_ROOMS": "",
        "EPHEMERAL_BOT_INVITES__ROOMS_PER_INVITER": "",
        "EPHEMERAL_BOT_COMMANDS__PER_MINUTE": "5",
    }
    settings = load(path, environ=environ)
    assert (settings.invite_policy.per_hour, settings.invite_policy.max_rooms) == (7, None)
    assert settings.invite_policy.rooms_per_inviter is None
    assert settings.commands.per_minute == 5
