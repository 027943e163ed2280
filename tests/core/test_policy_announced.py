"""What is told of a room's lifetime, and how commands and their echoes go together."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from bot.core.commands import Command, Effect, SetLifetime
from bot.core.lifetimes import OFF, LifetimeLimits, Setting
from bot.core.outbox import (
    AnnounceChange,
    AnswerHelp,
    AnswerInvalid,
    AnswerOutsideLimits,
    AnswerStatus,
    Overtaken,
    SenderNotAllowed,
    SetPolicy,
)
from bot.core.policy import LARGEST, RoomState
from bot.core.policy_forward import Decision, decide
from bot.core.timeline import Change, Item, Message, Redaction
from bot.core.types import EventID, Millis, UserID

ALICE, BOT = UserID("@alice:example.org"), UserID("@bot:example.org")
SECOND, MINUTE, HOUR = 1_000, 60_000, 3_600_000
LIMITS = LifetimeLimits(minimum=10 * SECOND, maximum=HOUR)
DEFAULT = LifetimeLimits(minimum=10 * SECOND, maximum=HOUR, default=5 * MINUTE)
NOW = 1_800_000_000_000


def walk(*items: Item, state: RoomState | None = None, limits: LifetimeLimits = LIMITS) -> Decision:
    return decide(state or RoomState(), list(items), limits=limits, own_id=BOT)


def message(name: object, sent: Millis = NOW) -> Message:
    return Message(event_id=EventID(f"${name}"), sent=sent)


def change(setting: Setting, digest: str, *, sender: UserID = ALICE, **more: Any) -> Change:
    return Change(setting=setting, sender=sender, digest=digest, **more)


def said(
    setting: Setting, digest: str, effect: Effect | None = None, *, suspends: bool = False
) -> Command:
    effect = SetLifetime(setting=setting) if setting is not None else effect
    return Command(digest=digest, sender=ALICE, effect=effect, suspends=suspends)


def redaction(target: str, digest: str = "r") -> Redaction:
    return Redaction(
        target=EventID(target), target_digest=f"digest of {target}", sender=ALICE, digest=digest
    )


def spans(found: Decision) -> dict[str, Millis]:
    return {one.event_id[1:]: one.due - NOW for one in found.timers if one.due is not None}


def known(setting: Setting, digest: str, *, revision: int) -> RoomState:
    """Return how a room stands where its state event says what holds."""
    return RoomState(
        setting=setting, state_setting=setting, policy_digest=digest, revision=revision
    )


# --- what is told --------------------------------------------------------------------------------


def told(found: Decision) -> list[tuple[str, Any]]:
    names = {SetPolicy: "set", AnnounceChange: "changed", Overtaken: "overtaken"}
    return [
        (names[type(one.content)], getattr(one.content, "setting", None)) for one in found.outgoing
    ]


def test_a_change_by_somebody_is_told_once_with_who_and_what() -> None:
    found = walk(change(MINUTE, "a"), state=RoomState(setting=HOUR, policy_digest="before"))
    [outgoing] = found.outgoing
    assert outgoing.content == AnnounceChange(sender=ALICE, setting=MINUTE)
    assert found.state == known(MINUTE, "a", revision=1)


@pytest.mark.parametrize(
    ("before", "after", "limits"),
    [
        (MINUTE, MINUTE, LIMITS),
        (None, OFF, LIMITS),
        (OFF, None, LIMITS),
        (1, 2, LIMITS),
        (LARGEST, HOUR, LIMITS),
        (None, 5 * MINUTE, DEFAULT),
    ],
)
def test_a_change_that_changes_nothing_is_not_told(
    before: Setting, after: Setting, limits: LifetimeLimits
) -> None:
    state = RoomState(setting=before, policy_digest="before")
    found = walk(change(after, "a"), state=state, limits=limits)
    assert found.outgoing == []
    assert found.state == known(after, "a", revision=1)


def test_the_same_state_event_told_again_changes_nothing() -> None:
    found = walk(change(MINUTE, "a"), said(HOUR, "c"), change(MINUTE, "a"), message(1))
    assert spans(found) == {"1": HOUR}
    assert told(found) == [("changed", MINUTE), ("set", HOUR)]


def test_what_was_set_before_the_bot_came_is_not_told() -> None:
    found = walk(change(MINUTE, "a", unannounced=True), message(1))
    assert found.outgoing == []
    assert spans(found) == {"1": MINUTE}


def test_a_change_that_cannot_be_followed_is_told_though_nothing_changes() -> None:
    found = walk(change(OFF, "a", note="unreadable"))
    assert told(found) == [("changed", OFF)]


@pytest.mark.parametrize("held", [MINUTE, OFF])
def test_what_cannot_be_read_changes_nothing_and_is_told(held: int) -> None:
    state = RoomState(setting=held, policy_digest="before")
    found = walk(change(None, "a", note="unreadable"), message(1), state=state)
    assert spans(found) == ({"1": MINUTE} if held else {})
    expected = AnnounceChange(sender=ALICE, setting=held, note="unreadable")
    assert found.outgoing[0].content == expected
    assert (found.state.setting, found.state.policy_digest) == (held, "a")


def test_what_cannot_be_read_leaves_what_the_homeserver_says_it_replaced() -> None:
    found = walk(change(HOUR, "a", note="unreadable"), message(1))
    assert spans(found) == {"1": HOUR}
    assert spans(walk(change(None, "a", note="unreadable"), message(1), limits=DEFAULT))


def test_a_command_counts_on_though_somebody_writes_what_cannot_be_read() -> None:
    found = walk(said(HOUR, "c"), change(None, "a", note="unreadable"), message(1))
    assert spans(found) == {"1": HOUR}


def test_a_redacted_policy_is_off_and_told() -> None:
    state = RoomState(setting=MINUTE, policy_digest="digest of $policy")
    found = walk(message(1), redaction("$policy"), message(2), state=state)
    assert spans(found) == {"1": MINUTE}
    assert told(found) == [("changed", OFF)]


def test_a_change_and_its_redaction_are_told_under_different_keys() -> None:
    state = RoomState(setting=MINUTE, policy_digest="digest of $policy")
    first = walk(change(HOUR, "digest of $policy"))
    second = walk(redaction("$policy"), state=state)
    assert first.outgoing[0].key != second.outgoing[0].key


def test_the_redaction_of_an_earlier_policy_changes_nothing() -> None:
    state = RoomState(setting=MINUTE, policy_digest="digest of $now")
    found = walk(redaction("$earlier"), message(1), state=state)
    assert spans(found) == {"1": MINUTE}
    assert found.outgoing == []
    unset = walk(Redaction(target=EventID("$x"), target_digest="", sender=ALICE, digest="r"))
    assert unset.outgoing == []


# --- commands and their echoes -------------------------------------------------------------------


def written(found: Decision, digest: str) -> RoomState:
    """Return the state once the homeserver has said which event holds the commanded lifetime."""
    return replace(found.state, awaited_digest=digest)


def test_a_command_counts_at_once_and_its_echo_is_not_told() -> None:
    first = walk(said(MINUTE, "c"), message(1))
    second = walk(change(MINUTE, "e", sender=BOT), message(2), state=written(first, "e"))
    assert spans(first) | spans(second) == {"1": MINUTE, "2": MINUTE}
    assert told(first) + told(second) == [("set", MINUTE)]
    assert second.state == known(MINUTE, "e", revision=1)


@pytest.mark.parametrize("earlier", [MINUTE, HOUR])
def test_the_echo_of_an_earlier_command_does_not_undo_a_later_one(earlier: Millis) -> None:
    first = walk(said(earlier, "c1"), said(HOUR, "c2"))
    second = walk(change(earlier, "e1", sender=BOT), message(1), state=first.state)
    assert second.state.set_by_command
    state = written(second, "e2")
    third = walk(change(HOUR, "e2", sender=BOT), message(2), state=state)
    assert spans(second) | spans(third) == {"1": HOUR, "2": HOUR}
    assert third.state == known(HOUR, "e2", revision=2)


def test_an_echo_before_the_command_is_known_as_written_ends_nothing() -> None:
    found = walk(said(MINUTE, "c"), change(MINUTE, "e", sender=BOT))
    assert (found.state.set_by_command, found.state.state_setting) == (True, MINUTE)


def test_a_change_by_somebody_after_a_command_counts_from_its_place() -> None:
    found = walk(said(HOUR, "c"), change(MINUTE, "a"), message(1))
    assert spans(found) == {"1": MINUTE}
    assert told(found) == [("set", HOUR), ("changed", MINUTE)]
    assert not found.state.set_by_command


def test_what_the_bots_account_sets_by_itself_counts_and_is_not_told() -> None:
    found = walk(change(MINUTE, "e", sender=BOT), message(1))
    assert spans(found) == {"1": MINUTE}
    assert found.outgoing == []


def test_a_later_command_takes_the_place_of_one_in_the_same_update() -> None:
    found = walk(said(None, "h", AnswerHelp()), said(MINUTE, "c1"), said(HOUR, "c2"))
    assert [outgoing.key for outgoing in found.outgoing] == ["h", "c2"]
    assert found.handled == ["h", "c1", "c2"]


def test_a_command_remembers_what_it_was_said_upon() -> None:
    state = RoomState(setting=MINUTE, policy_digest="before")
    [outgoing] = walk(said(HOUR, "c"), state=state).outgoing
    assert outgoing.content == SetPolicy(base="before", was=MINUTE, setting=HOUR, sender=ALICE)


@pytest.mark.parametrize(
    "effect",
    [
        AnswerHelp(),
        AnswerStatus(),
        SenderNotAllowed(sender=ALICE, need=50, have=0),
        AnswerInvalid(),
        AnswerOutsideLimits(),
    ],
)
def test_a_command_that_sets_nothing_changes_nothing(effect: Effect) -> None:
    found = walk(change(MINUTE, "a"), said(None, "c", effect), message(1))
    assert spans(found) == {"1": MINUTE}
    assert not found.state.set_by_command


def test_the_last_command_says_whether_the_room_is_suspended() -> None:
    assert walk(said(MINUTE, "c", suspends=True)).suspends
    assert not walk(said(MINUTE, "c1", suspends=True), said(OFF, "c2")).suspends
