"""What people may type: which lines are commands, what they mean, and what is never one."""

from __future__ import annotations

import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bot.chat import notices
from bot.chat.command_text import (
    LONGEST_ARGUMENT,
    ParsedCommand,
    command_of,
    parse,
    text_of,
    thread_of,
)
from bot.chat.commands import TABLE
from bot.core import durations
from bot.core.commands import Right, SetLifetime
from bot.core.lifetimes import OFF, LifetimeLimits
from bot.core.outbox import AnswerFingerprint, AnswerHelp, AnswerInvalid, AnswerStatus
from bot.core.types import EventID

SECOND, MINUTE, HOUR, DAY = 1_000, 60_000, 3_600_000, 86_400_000
LIMITS = LifetimeLimits(minimum=SECOND, maximum=365 * DAY)


NAMES = {
    AnswerInvalid: "invalid",
    AnswerStatus: "status",
    AnswerHelp: "help",
    AnswerFingerprint: "fingerprint",
}


def setting(lifetime: int, **said_to: Any) -> ParsedCommand:
    """Return a command that sets a lifetime, or `OFF`."""
    effect = SetLifetime(setting=lifetime)
    return ParsedCommand(right=Right.CHANGE_LIFETIME, effect=effect, **said_to)


def kind_of(found: ParsedCommand | None) -> str | None:
    if found is None:
        return None
    if isinstance(found.effect, SetLifetime):
        return "off" if found.effect.setting == OFF else "set"
    return NAMES[type(found.effect)]


def kind(text: str, prefix: str = "!expire") -> str | None:
    return kind_of(parse(text, prefix))


def reason(found: ParsedCommand) -> str:
    assert isinstance(found.effect, AnswerInvalid)
    return found.effect.reason


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("!expire 30s", 30 * SECOND),
        ("!expire 5m", 5 * MINUTE),
        ("!expire 1d 12h", 36 * HOUR),
        ("!expire 1d12h", 36 * HOUR),
        ("!expire 90 seconds", 90 * SECOND),
        ("!expire 1 hour and 30 minutes", 90 * MINUTE),
        ("!expire set 5m", 5 * MINUTE),
        ("!expire SET 5M", 5 * MINUTE),
        ("!EXPIRE 5m", 5 * MINUTE),
        ("!ExPiRe Set  1W", 7 * DAY),
        ("  !expire   5m  ", 5 * MINUTE),
        ("!expire\t5m", 5 * MINUTE),
        ("!expire\n5m\n", 5 * MINUTE),
        ("!expire\u00a05m", 5 * MINUTE),
        ("!expire 1y", 365 * DAY),
        ("!expire 005m", 5 * MINUTE),
        ("!expire: 5m", 5 * MINUTE),
        ("!expire:5m", 5 * MINUTE),
        ("!expire: set 5m", 5 * MINUTE),
        ("!expire after 5m", 5 * MINUTE),
        ("!expire set\n5m", 5 * MINUTE),
        ("!expire\tset\t5\nminutes", 5 * MINUTE),
        ("!expire 5m.", 5 * MINUTE),
        ("!expire 5 minutes .", 5 * MINUTE),
        ("`!expire 5m`", 5 * MINUTE),
        ("` !expire 5m ` ", 5 * MINUTE),
        ("`!expire: 5m.`", 5 * MINUTE),
        ("`!expire 5m`.", 5 * MINUTE),
        ("```\n!expire set 5m\n```", 5 * MINUTE),
    ],
)
def test_a_lifetime_is_set(text: str, expected: int) -> None:
    assert parse(text, "!expire") == setting(expected)


@pytest.mark.parametrize(
    "rest", ["off", "unset", "disable", "stop", "never", "none", "STOP", "off."]
)
def test_off_has_many_names(rest: str) -> None:
    for text in (f"!expire {rest}", f"!expire: {rest}", f"`!expire {rest}`"):
        assert parse(text, "!expire") == setting(OFF)


@pytest.mark.parametrize("text", ["!expire off", "!expire unset", "!Expire OFF", "!expire  off "])
def test_the_lifetime_is_turned_off(text: str) -> None:
    assert parse(text, "!expire") == setting(OFF)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("!expire", "status"),
        ("!expire ", "status"),
        ("!expire status", "status"),
        ("!expire Show", "status"),
        ("!expire help", "help"),
        ("!EXPIRE HELP", "help"),
        ("!expire:", "status"),
        ("!expire .", "status"),
        ("`!expire`", "status"),
        ("!expire: help.", "help"),
    ],
)
def test_a_question_is_asked(text: str, expected: str) -> None:
    assert kind(text) == expected


@pytest.mark.parametrize(
    "rest",
    [
        "0s",
        "0",
        "-5m",
        "30",
        "1.5h",
        "1,5h",
        "1000000000d",
        "9" * 99 + "d",
        "5m 5m",
        "5 parsecs",
        "s",
        "m5",
        "5m!",
        "🔥",
        "5🕐",
        "٣s",
        "5\u017f",
        "1h\u202e30m",
        "soon",
        "set",
        "set off",
        "set set 5m",
        "off please",
        "off 5m",
        "help me",
        "status now",
        "5m # and what",
        "null",
        "NaN",
        "1e3s",
        "0x10s",
        "+5m",
        "5m\x00",
        "x" * LONGEST_ARGUMENT,
        "5m" + " " * 64 * 1024 + "x",
        "5" * 64 * 1024,
    ],
)
def test_a_line_that_means_nothing_is_answered_and_sets_nothing(rest: str) -> None:
    found = parse(f"!expire {rest}", "!expire")
    assert found is not None
    assert kind_of(found) == "invalid"
    assert found.right is Right.ANYBODY


@pytest.mark.parametrize("rest", ["secret words", "<b>5m</b>", "🔥" * 40, "x" * 9_999])
def test_an_answer_repeats_nothing_of_what_was_typed(rest: str) -> None:
    found = parse(f"!expire {rest}", "!expire")
    assert found is not None
    assert rest not in str(found.effect)


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "!",
        "!expir",
        "!expirefoo",
        "!expire5m",
        "!expire-5m",
        "!expire;5m",
        "!expire.5m",
        "expire 5m",
        "/expire 5m",
        "please !expire 5m",
        "> !expire 5m",
        "> <@alice:x> !expire 5m\n\n!expire 5m",
        "`!expire 5m` sets five minutes",
        "say `!expire 5m`",
        "`say !expire 5m`",
        "Alice: !expire 5m",
        "everybody: `!expire off`",
        "!!expire 5m",
        "\u200b!expire 5m",
        "x" * 64 * 1024,
    ],
)
def test_what_does_not_begin_with_the_prefix_is_no_command(text: str) -> None:
    assert parse(text, "!expire") is None


def test_another_prefix_is_another_prefix() -> None:
    assert kind("!timer 5m", "!timer") == "set"
    assert kind("!expire 5m", "!timer") is None
    assert kind("⏳ 5m", "⏳") == "set"
    assert kind("!STRASSE 5m", "!strasse") == "set"


@given(text=st.text() | st.text().map(lambda rest: "!expire " + rest), prefix=st.text(min_size=1))
def test_any_text_is_a_command_or_none_and_raises_nothing(text: str, prefix: str) -> None:
    for found in (parse(text, "!expire"), parse(text, prefix)):
        assert kind_of(found) in {None, "set", "off", *NAMES.values()}


@given(lifetime=st.integers(1, durations.LONGEST // SECOND).map(lambda count: count * SECOND))
def test_every_lifetime_can_be_typed_as_it_is_said(lifetime: int) -> None:
    for text in (durations.compact(lifetime), durations.words(lifetime)):
        assert parse(f"!expire {text}", "!expire") == setting(lifetime)
        assert parse(f"!expire set {text}", "!expire") == setting(lifetime)


@pytest.mark.parametrize("text", ["!expire " + "5m " * 30_000, " " * 65_536, "!expire" * 9_000])
def test_a_wall_of_text_costs_no_time(text: str) -> None:
    began = time.process_time()
    for _ in range(100):
        parse(text, "!expire")
    assert time.process_time() - began < 20  # a second look at every sign would take an hour


@pytest.mark.parametrize("rest", ["0", "0s", "0 days", "set off", "1 month", "2 months", "nothing"])
def test_what_may_mean_off_or_a_month_is_told_the_way(rest: str) -> None:
    found = parse(f"!expire {rest}", "!expire")
    assert found is not None
    assert kind_of(found) == "invalid"
    said = notices.invalid("!expire", LIMITS, reason(found))
    assert "!expire off ends it." in said
    assert ("30 days" in said) == ("month" in rest)


# --- which messages may be commands --------------------------------------------------------------

TEXT: dict[str, Any] = {"msgtype": "m.text", "body": "!expire 5m"}
THREAD = {"rel_type": "m.thread", "event_id": "$root"}
REPLY = {"m.in_reply_to": {"event_id": "$other"}}


@pytest.mark.parametrize(
    "relation",
    [None, {}, THREAD, THREAD | REPLY | {"is_falling_back": True}, {"key": "value"}],
)
@pytest.mark.parametrize("outside", [True, False])
def test_a_persons_text_may_be_a_command(relation: Any, outside: bool) -> None:
    content = TEXT if outside or relation is None else TEXT | {"m.relates_to": relation}
    assert text_of(content, relation if outside else None) == "!expire 5m"


@pytest.mark.parametrize(
    "relation",
    [
        REPLY,
        THREAD | REPLY,
        THREAD | REPLY | {"is_falling_back": False},
        {"rel_type": "m.replace", "event_id": "$other"},
        {"rel_type": "m.annotation", "event_id": "$other"},
        {"rel_type": None},
        {"m.in_reply_to": None},
        "m.thread",
        [],
        7,
    ],
)
@pytest.mark.parametrize("outside", [True, False])
def test_a_message_about_another_is_no_command(relation: Any, outside: bool) -> None:
    content = TEXT if outside else TEXT | {"m.relates_to": relation}
    assert text_of(content, relation if outside else None) is None


@pytest.mark.parametrize(
    "content",
    [
        TEXT | {"msgtype": "m.notice"},
        TEXT | {"msgtype": "m.emote"},
        TEXT | {"msgtype": "m.image"},
        TEXT | {"msgtype": None},
        TEXT | {"msgtype": ["m.text"]},
        TEXT | {"m.new_content": TEXT},
        TEXT | {"m.new_content": None},
        TEXT | {"body": None},
        TEXT | {"body": 5},
        TEXT | {"body": ["!expire 5m"]},
        {"msgtype": "m.text"},
        {"body": "!expire 5m"},
        {},
    ],
)
def test_what_is_no_text_of_a_person_is_no_command(content: dict[str, Any]) -> None:
    assert text_of(content, None) is None


# --- to whom it is said ---------------------------------------------------------------------------

BOT_ID = "@bot:example.org"


def command(body: str, relation: Any = None, **content: Any) -> ParsedCommand | None:
    whole = {"msgtype": "m.text", "body": body} | content
    return command_of(whole, relation, own_id=BOT_ID, prefix="!expire")


def pill(label: str, rest: str, user_id: str = BOT_ID, before: str = "") -> dict[str, Any]:
    html = f'{before}<a href="https://matrix.to/#/{user_id}">{label}</a>{rest}'
    return {"format": "org.matrix.custom.html", "formatted_body": html}


NAMED = {"m.mentions": {"user_ids": [BOT_ID]}}


@pytest.mark.parametrize(
    ("body", "content"),
    [
        ("bot: !expire 5m", {}),
        ("Bot: !expire 5m", {}),
        ("Bot, !expire 5m", {}),
        ("Bot !expire 5m", {}),
        ("Bot:!expire 5m", {}),
        ("Bot : !expire 5m", {}),
        ("@bot !expire 5m", {}),
        ("@bot:example.org: !expire 5m", {}),
        ("@bot:example.org `!expire: 5m`", {}),
        ("Disappearing messages: !expire 5m", NAMED),
        ("Timer (mine), !expire 5m", NAMED),
        ("Timer: !expire 5m", NAMED | pill("Timer", ": !expire 5m")),
        ("A Very Long Name: of mine !expire 5m", pill("A Very Long Name: of mine", " !expire 5m")),
        ("R&D <3: !expire 5m", pill("R&amp;D &lt;3", ": !expire 5m")),
        ("Timer: !expire 5m", pill("Timer", ": !expire 5m", user_id="%40bot%3Aexample.org")),
        ("Timer: !expire 5m", pill("Timer", ": !expire 5m", before="<p>")),
        ("@Timer !expire 5m", pill("Timer", " !expire 5m", before="<mx-reply>x</mx-reply>")),
        ("[Timer](https://matrix.to/#/@bot:example.org): !expire 5m", {}),
        ("[a b](<https://matrix.to/#/%40bot%3Aexample.org>) !expire 5m", {}),
    ],
)
def test_a_command_may_begin_with_the_bots_name(body: str, content: dict[str, Any]) -> None:
    assert command(body, **content) == setting(5 * MINUTE)


@pytest.mark.parametrize(
    ("body", "content"),
    [
        ("Alice !expire off", {}),
        ("Alice said: do !expire off", {}),
        ("bot", {}),
        ("bot:", {}),
        ("bot: say !expire off", {}),
        ("@bot:example.com: !expire off", {}),
        ("Bob, Alice: !expire off", {}),
        ("I think that Timer means: !expire off", NAMED),
        ("Timer, can you: !expire off", NAMED),
        ("Timer did somebody say !expire off", NAMED),
        ("Timer\n: !expire off", NAMED),
        ("[Al](https://matrix.to/#/@alice:example.org): !expire off", {}),
    ],
)
def test_what_is_said_to_others_is_no_command(body: str, content: dict[str, Any]) -> None:
    assert command(body, **content) is None


@pytest.mark.parametrize(
    "content",
    [
        {},
        {"m.mentions": {"user_ids": ["@alice:example.org"]}},
        pill("Alice", ": !expire off", user_id="@alice:example.org"),
        pill("Alice", ": !expire off", before="ask "),
        {"m.mentions": [BOT_ID]},
        {"m.mentions": {"user_ids": BOT_ID}},
        {"formatted_body": ["<a>"]},
    ],
)
@pytest.mark.parametrize("name", ["Alice", "Bots", "robot", "Two  Words", "@Alice", "A B C D E"])
def test_a_command_that_begins_with_a_name_is_for_its_bearer(
    name: str, content: dict[str, Any]
) -> None:
    expected = setting(OFF, called=name)
    assert command(f"{name}: !expire off", **content) == expected
    assert command(f" {name} , `!expire off`", **content) == expected


@pytest.mark.parametrize(
    "body",
    [
        "!expire 5m",
        "bot: !expire 5m",
        "> !expire off\n!expire 5m",
    ],
)
@pytest.mark.parametrize("relation", [REPLY, THREAD | REPLY])
def test_a_reply_to_what_the_bot_said_may_be_a_command(body: str, relation: dict[str, Any]) -> None:
    expected = setting(5 * MINUTE, replies_to=EventID("$other"))
    assert command(body, relation) == expected
    assert command(body, **{"m.relates_to": relation}) == expected
    assert command(body, relation, **{"m.relates_to": relation}) == expected
    assert command(body, relation, **NAMED) == setting(5 * MINUTE)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("> <@bot:example.org> !expire off\n\n!expire 5m", 5 * MINUTE),
        ("> * <@bot:example.org> does\n> what\n>\n\n`!expire 5m`", 5 * MINUTE),
        ("> <@bot:example.com> !expire off\n\n!expire 5m", None),
        ("> <@alice:example.org> <@bot:example.org>\n\n!expire 5m", None),
    ],
)
def test_a_reply_that_quotes_the_bot_is_for_the_bot(body: str, expected: int | None) -> None:
    found = command(body, REPLY)
    assert found == (expected and setting(expected))


@pytest.mark.parametrize(
    ("body", "relation"),
    [
        ("> <@bot:example.org> !expire 5m", REPLY),
        ("> <@bot:example.org> !expire 5m\n", REPLY),
        ("> <@bot:example.org> !expire 5m\n\nthank you", REPLY),
        ("thank you for !expire 5m", REPLY),
        ("!expire 5m", REPLY | {"rel_type": "m.replace"}),
        ("!expire 5m", {"m.in_reply_to": {"event_id": ["$other"]}}),
        ("!expire 5m", {"m.in_reply_to": {"event_id": "$" + "x" * 255}}),
        ("!expire 5m", {"m.in_reply_to": "$other"}),
        ("!expire 5m", [REPLY]),
    ],
)
def test_what_a_reply_quotes_is_no_command(body: str, relation: Any) -> None:
    assert command(body, relation) is None
    assert command(body, **{"m.relates_to": relation}) is None


def test_a_reply_to_two_messages_is_no_command() -> None:
    other = {"m.relates_to": {"m.in_reply_to": {"event_id": "$else"}}}
    assert command("!expire 5m", REPLY, **other) is None


JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=9) | st.just(BOT_ID),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner),
    max_leaves=6,
)
PHRASES = ["!expire", "5m", "off", "`", ": ", ", ", "> ", "\n", " ", ".", "bot", "Alice", "say"]
TALK = st.lists(st.sampled_from(PHRASES) | st.text(max_size=5), max_size=9).map("".join)


@given(
    body=TALK | JSON,
    relation=JSON | st.sampled_from([REPLY, THREAD, THREAD | REPLY]),
    content=st.fixed_dictionaries(
        {}, optional={"m.mentions": JSON | st.just(NAMED["m.mentions"]), "formatted_body": JSON}
    ),
)
def test_any_message_is_a_command_or_none(body: Any, relation: Any, content: Any) -> None:
    found = command(body, relation, **content)
    assert found is None or "!expire" in body.casefold()


@given(talk=TALK)
def test_only_what_begins_with_the_command_or_the_bots_name_is_one(talk: str) -> None:
    begins = talk.lstrip().lstrip("`").lstrip().casefold()
    found = command(talk)
    if found is not None and not found.called:
        assert begins.startswith(("!expire", "bot", "@bot"))
        rest = begins.partition("!expire")[2]
        assert not rest or rest[0] in ":`." or rest[0].isspace()


@given(talk=st.lists(st.from_regex("[a-z]{1,9}", fullmatch=True), min_size=1, max_size=9))
def test_nobody_sets_a_lifetime_by_talking_of_it(talk: list[str]) -> None:
    said = " ".join(talk)
    for text in (f"{said} !expire off", f"{said}: !expire 5m", f"`!expire off` {said}"):
        found = command(text)
        assert found is None or said == "bot" or (found.called == said and ": " in text)


@pytest.mark.parametrize(
    ("relation", "expected"),
    [
        (None, None),
        ({}, None),
        (THREAD, "$root"),
        (THREAD | REPLY, "$root"),
        (REPLY, None),
        ({"rel_type": "m.thread"}, None),
        ({"rel_type": "m.thread", "event_id": 7}, None),
        ({"rel_type": "m.thread", "event_id": "root"}, None),
        ({"rel_type": "m.thread", "event_id": "$" + "x" * 255}, None),
        ({"rel_type": "m.replace", "event_id": "$root"}, None),
        ("m.thread", None),
    ],
)
def test_a_message_stands_in_a_thread_or_not(relation: Any, expected: str | None) -> None:
    assert thread_of({"m.relates_to": relation}, None) == expected
    assert thread_of({}, relation) == expected


@pytest.mark.parametrize("body", [">\n" * 30_000 + "!expire 5m", "> x" * 20_000, "[" * 60_000])
def test_a_wall_of_quotations_costs_no_time(body: str) -> None:
    """Read again for each line, it would take minutes."""
    for _ in range(20):
        command(body, REPLY, formatted_body="<a " * 20_000)


# --- the table -----------------------------------------------------------------------------------


def test_every_command_can_be_called_by_every_name() -> None:
    for row in TABLE:
        for name in row.names + row.also:
            argument = "5m" if row.argument.written else ""
            found = parse(" ".join(filter(None, ("!expire", name, argument))), "!expire")
            assert found is not None
            assert (found.right, found.effect) == (
                row.right,
                row.effect(row.argument.parse(argument)),
            )


def test_every_command_says_how_it_is_written() -> None:
    for row in TABLE:
        assert row.help
        assert row.usage("!x").startswith("!x")
        assert all(name in row.usage("!x") for name in row.names)


@given(
    before=st.text(st.sampled_from("`> *.:,\n bot@!EXPIREßİ"), max_size=12),
    prefix=st.sampled_from(["!expire", "!EXPIRE", "ephemeral", "!straße", "!STRASSE"]),
    after=st.text(st.sampled_from("`. :5mh"), max_size=6),
)
def test_what_has_no_prefix_anywhere_is_never_a_command(
    before: str, prefix: str, after: str
) -> None:
    """So most messages need not be looked at any closer."""
    text = before + prefix + after
    for known in ("!expire", "!straße"):
        if parse(text, known) is not None:
            assert known.casefold() in text.casefold()
