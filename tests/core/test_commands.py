"""What a command comes to, by the right that it takes and the power levels of its room."""

from __future__ import annotations

import pytest

from bot.core.commands import (
    Command,
    Effect,
    Right,
    SetLifetime,
    UndecidedCommand,
    decide_command,
    has_right,
    undecidable,
)
from bot.core.durations import HOUR, MINUTE
from bot.core.lifetimes import OFF, POLICY_EVENT, LifetimeLimits
from bot.core.outbox import (
    AnswerHelp,
    AnswerOutsideLimits,
    BotNotAllowed,
    RightUnknown,
    SenderNotAllowed,
)
from bot.core.power_levels import Power
from bot.core.types import EventID, UserID

ALICE, BOT = UserID("@alice:example.org"), UserID("@bot:example.org")
LIMITS = LifetimeLimits(minimum=MINUTE, maximum=HOUR)
AN_HOUR = SetLifetime(setting=HOUR)


def power(*, alice: int, bot: int, redact: int = 50) -> Power:
    levels = {"users": {ALICE: alice, BOT: bot}, "events": {POLICY_EVENT: 40}, "redact": redact}
    create = {"type": "m.room.create", "sender": "@root:example.org", "content": {}}
    return Power.read(create, levels)


def command(request: Effect, right: Right = Right.CHANGE_LIFETIME) -> UndecidedCommand:
    return UndecidedCommand(
        digest="digest",
        event_id=EventID("$command"),
        sender=ALICE,
        right=right,
        request=request,
        sent=1,
        read_at=2,
        clear=True,
        thread="$root",
    )


def decide(request: Effect, levels: Power, right: Right = Right.CHANGE_LIFETIME) -> Command:
    return decide_command(command(request, right), levels, own_id=BOT, limits=LIMITS)


def test_who_has_the_level_for_the_state_event_may_set_it() -> None:
    found = decide(AN_HOUR, power(alice=40, bot=50))
    assert (found.effect, found.setting, found.suspends) == (AN_HOUR, HOUR, False)
    assert (found.digest, found.event_id) == ("digest", "$command")
    assert (found.thread, found.clear) == ("$root", True)


@pytest.mark.parametrize("request_", [AN_HOUR, SetLifetime(setting=OFF), AnswerHelp()])
def test_who_lacks_the_level_is_told_it_whatever_is_asked(request_: Effect) -> None:
    found = decide(request_, power(alice=39, bot=50))
    assert found.effect == SenderNotAllowed(sender=ALICE, need=40, have=39)
    assert found.setting is None


def test_what_anybody_may_ask_is_answered() -> None:
    found = decide(AnswerHelp(), power(alice=-1, bot=0), Right.ANYBODY)
    assert found.effect == AnswerHelp()
    assert has_right(Right.ANYBODY, ALICE, power(alice=-1, bot=0))


@pytest.mark.parametrize(("setting", "within"), [(OFF, True), (MINUTE, True), (HOUR, True)])
def test_lifetimes_within_the_limits_and_off_are_set(setting: int, within: bool) -> None:
    found = decide(SetLifetime(setting=setting), power(alice=40, bot=50))
    assert (found.setting == setting) is within


@pytest.mark.parametrize("setting", [MINUTE - 1, HOUR + 1])
def test_lifetimes_outside_the_limits_are_not_set(setting: int) -> None:
    found = decide(SetLifetime(setting=setting), power(alice=40, bot=50))
    assert found.effect == AnswerOutsideLimits()


def test_a_bot_that_may_not_write_it_says_what_it_needs() -> None:
    found = decide(AN_HOUR, power(alice=40, bot=39))
    assert found.effect == BotNotAllowed(need=40, have=39)


@pytest.mark.parametrize(("redact", "suspends"), [(50, False), (51, True)])
def test_a_bot_that_may_write_and_not_redact_sets_it_suspended(redact: int, suspends: bool) -> None:
    found = decide(AN_HOUR, power(alice=40, bot=50, redact=redact))
    assert (found.setting, found.suspends) == (HOUR, suspends)


def test_who_cannot_be_judged_may_say_it_again() -> None:
    found = undecidable(command(AN_HOUR))
    assert (found.effect, found.thread) == (RightUnknown(sender=ALICE), "$root")
