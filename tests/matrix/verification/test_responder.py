"""Who may verify the bot, how often, and that nobody's events get in the way of the sync."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bot.core.outcomes import Outcome, Refused, TokenRejectedError, Unreachable
from bot.core.types import UserID
from bot.matrix.verification.responder import AT_ONCE, PER_USER
from tests.support.fake_homeserver import ALICE, BOB, BOT
from tests.support.verification_homeserver import DEVICE, MINUTE, NOW, PHONE, ROOM, Bot, running
from tests.support.verifier import Starter


async def go_through(bot: Bot, alice: Starter, where: str, tell: Any) -> None:
    """Have alice verify the bot; `tell` takes what she says."""

    async def said(kind: str) -> dict[str, Any]:
        found, now, content = await bot.homeserver.next()
        assert (found, now) == (where, kind)
        return content

    await said("ready")
    tell("start", alice.offer)
    accept = await said("accept")
    tell("key", alice.key)
    assert alice.compare(accept, await said("key"))
    assert alice.verified(await said("mac")) == set(DEVICE.keys)
    tell("mac", alice.mac())
    await said("done")
    tell("done", {"transaction_id": alice.id, "m.relates_to": alice.offer.get("m.relates_to")})
    assert await bot.quiet()


async def test_it_is_verified_over_to_device_messages_and_logs_the_emoji(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO", "bot")
    async with running() as bot:
        alice = Starter(PHONE, DEVICE, "one")
        bot.ask("one")
        await go_through(bot, alice, f"{ALICE} PHONE", bot.hear)
        bot.ask("one")  # a sync that was cut off brings it again
        assert await bot.quiet()
    assert f"{ALICE} verifies the bot: compare {', '.join(alice.emoji)} (or " in caplog.text
    assert caplog.text.count("verifies the bot: compare") == 1
    assert f"the verification by {ALICE} is done" in caplog.text


@pytest.mark.parametrize("encrypted", [True, False])
async def test_in_a_room_it_answers_as_it_was_asked(*, encrypted: bool) -> None:
    async with running() as bot:
        alice = Starter(PHONE, DEVICE, "$request")
        relation = {"rel_type": "m.reference", "event_id": "$request"}
        alice.offer["m.relates_to"] = relation

        def tell(kind: str, content: dict[str, Any], sender: UserID = ALICE) -> None:
            full = {"type": f"m.key.verification.{kind}", "sender": sender}
            content = content | {"m.relates_to": relation}
            bot.side.hear_room(ROOM, full | {"content": content}, encrypted=encrypted)

        request = {
            "type": "m.room.message",
            "sender": ALICE,
            "event_id": "$request",
            "origin_server_ts": NOW,
            "content": alice.request | {"msgtype": "m.key.verification.request", "to": BOT},
        }
        tell("key", alice.key, BOB)  # between others, for all that the bot knows
        bot.side.hear_room(ROOM, request, encrypted=encrypted)
        tell("cancel", {"code": "m.user"}, BOB)  # not his to cancel
        where = f"{ROOM} {'sealed' if encrypted else 'open'}"
        await go_through(bot, alice, where, tell)


@pytest.mark.parametrize("to", [BOB, None])
async def test_requests_to_others_are_not_the_bots(to: str | None) -> None:
    async with running() as bot:
        content = {"msgtype": "m.key.verification.request", "to": to, "from_device": "PHONE"}
        event: dict[str, Any] = {"type": "m.room.message", "sender": ALICE, "event_id": "$1"}
        event |= {"origin_server_ts": NOW, "content": content | {"methods": ["m.sas.v1"]}}
        bot.side.hear_room(ROOM, event, encrypted=False)
        assert await bot.quiet()


@pytest.mark.parametrize("age", [11 * MINUTE, -6 * MINUTE])
async def test_requests_of_another_time_are_passed_over(age: int) -> None:
    async with running() as bot:
        bot.ask("old", timestamp=NOW - age)
        bot.ask("none", timestamp=None)
        assert await bot.quiet()


async def test_the_bot_does_not_verify_itself() -> None:
    async with running() as bot:
        bot.ask("one", sender=BOT)
        assert await bot.quiet()


async def test_two_at_once_by_one_user_are_cancelled_both() -> None:
    async with running() as bot:
        bot.ask("one")
        assert (await bot.homeserver.next())[1] == "ready"
        bot.ask("two")
        ends = [await bot.homeserver.next(), await bot.homeserver.next()]
        assert {content["transaction_id"] for _, _, content in ends} == {"one", "two"}
        assert {content["code"] for _, _, content in ends} == {"m.unexpected_message"}
        bot.ask("three")
        assert (await bot.homeserver.next())[1] == "ready"


async def test_one_user_begins_a_few_in_ten_minutes_and_no_more() -> None:
    async with running() as bot:
        for number in range(PER_USER):
            bot.ask(f"a{number}")
            assert (await bot.homeserver.next())[1] == "ready"
            bot.hear("cancel", {"code": "m.user", "transaction_id": f"a{number}"})
            assert await bot.quiet()
        bot.ask("more")
        assert await bot.quiet()
        bot.now += 11 * MINUTE
        bot.ask("later")
        assert (await bot.homeserver.next())[1] == "ready"


async def test_there_are_so_many_at_once_and_no_more() -> None:
    async with running() as bot:
        for number in range(AT_ONCE + 5):
            bot.ask("same", sender=f"@user{number}:example.org")
        for _ in range(AT_ONCE):
            assert (await bot.homeserver.next())[1] == "ready"
        assert await bot.quiet()


async def test_a_verification_that_takes_too_long_is_cancelled() -> None:
    async with running(lasts=20) as bot:
        bot.ask("one")
        assert await bot.homeserver.code() == "m.timeout"


async def test_what_belongs_to_no_verification_is_said_to_once() -> None:
    async with running() as bot:
        bot.hear("start", {"transaction_id": "lost"})
        bot.hear("done", {"transaction_id": "lost"})
        bot.hear("cancel", {"transaction_id": "lost"})
        assert await bot.quiet()
        bot.hear("key", {"transaction_id": "lost"})
        bot.hear("mac", {"transaction_id": "lost"})
        where, kind, content = await bot.homeserver.next()
        assert (where, kind, content["code"]) == (
            f"{ALICE} *",
            "cancel",
            "m.unknown_transaction",
        )
        assert await bot.quiet()


async def test_a_homeserver_that_refuses_ends_that_verification_only(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO", "bot")
    async with running() as bot:
        bot.homeserver.fails = [Refused(status=400)]
        bot.ask("one")
        assert await bot.quiet()
        assert "was given up (status " in caplog.text
        bot.ask("two")
        assert (await bot.homeserver.next())[1] == "ready"


async def test_a_homeserver_that_was_away_is_asked_again() -> None:
    async with running() as bot:
        bot.homeserver.fails = [Unreachable(reason="away")]
        bot.ask("one")
        assert (await bot.homeserver.next())[1] == "ready"


async def test_a_token_that_is_rejected_is_not_swallowed() -> None:
    bot = Bot()

    async def rejected(method: str, where: str, body: Any) -> Outcome:
        raise TokenRejectedError

    bot.homeserver.request = rejected  # type: ignore[method-assign]
    task = asyncio.create_task(bot.side.run())
    await asyncio.sleep(0)
    bot.ask("one")
    with pytest.raises(ExceptionGroup) as caught:
        await task
    assert caught.group_contains(TokenRejectedError)


async def test_the_code_of_a_stranger_is_not_repeated(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "bot")
    async with running() as bot:
        bot.ask("one")
        await bot.homeserver.next()
        bot.hear("cancel", {"code": "buy this", "transaction_id": "one"})
        assert await bot.quiet()
    assert "was cancelled (for another reason)" in caplog.text
    assert "buy this" not in caplog.text


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
KINDS = st.sampled_from(["request", "start", "key", "mac"]).map("m.key.verification.{}".format)
EVENTS = st.fixed_dictionaries(
    {"type": KINDS | st.just("m.room.message") | JSON, "sender": st.just(ALICE) | JSON},
    optional={
        "event_id": JSON,
        "origin_server_ts": JSON,
        "content": JSON
        | st.fixed_dictionaries(
            {},
            optional={
                "transaction_id": JSON,
                "m.relates_to": JSON | st.fixed_dictionaries({"rel_type": st.just("m.reference")}),
                "from_device": JSON,
                "timestamp": JSON,
                "to": JSON,
                "msgtype": JSON,
            },
        ),
    },
)


@given(events=st.lists(EVENTS, max_size=5))
def test_no_event_raises_into_the_sync(events: list[dict[str, Any]]) -> None:
    async def hear() -> None:
        async with running() as bot:
            for event in events:
                bot.side.hear_device(event)
                bot.side.hear_room(ROOM, event, encrypted=False)

    asyncio.run(hear())


async def test_an_odd_failure_ends_that_verification_only(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO", "bot")
    async with running() as bot:
        request = bot.homeserver.request

        async def fails(method: str, where: str, body: Any) -> Outcome:
            raise ValueError("somebody's text")

        bot.homeserver.request = fails  # type: ignore[method-assign]
        bot.ask("one")
        assert await bot.quiet()
        assert caplog.messages[-1].endswith("was given up (ValueError)")
        assert "somebody's text" not in caplog.text
        bot.homeserver.request = request  # type: ignore[method-assign]
        bot.ask("two")
        assert (await bot.homeserver.next())[1] == "ready"


async def test_who_cannot_be_turned_away_is_left_alone(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "bot")
    async with running() as bot:
        for number in range(25):
            bot.homeserver.fails = [Refused(status=400)]
            bot.hear("key", {"transaction_id": f"lost {number}"})
            assert await bot.quiet()
        told = [one for one in caplog.messages if one.startswith("a verification was not answered")]
        assert told == ["a verification was not answered (status 400)"] * 25
        bot.hear("key", {"transaction_id": "another"})
        assert (await bot.homeserver.next())[1] == "cancel"
