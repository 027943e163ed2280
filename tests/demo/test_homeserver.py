"""The embedded homeserver and the people of the tests do what the other tests rely on."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import pytest

from bot.demo import homeserver as module
from bot.demo.homeserver import Homeserver, HomeserverError
from tests.support.people import ApiError, Person

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.people import People

pytestmark = pytest.mark.synapse


async def test_two_people_talk_encrypted_until_one_redacts(people: People) -> None:
    alice, bob = await people.encrypted("alice"), await people.encrypted("bob")
    room = await alice.create_room(encrypted=True, invite=[bob])
    await bob.join(room)

    event_id = await alice.send_text(room, "for your eyes only")
    heard = await bob.until_heard(room, "eyes only")
    assert heard == (event_id, alice.user_id, "for your eyes only")
    on_the_server = await bob.event(room, event_id)
    assert on_the_server["type"] == "m.room.encrypted"
    assert "eyes" not in str(on_the_server)

    await bob.send_text(room, "understood")
    await alice.until_heard(room, "understood")

    await alice.redact(room, event_id)
    assert (await bob.event(room, event_id))["content"] == {}
    assert await bob.is_redacted(room, event_id)


async def test_one_who_joins_later_reads_what_is_said_from_then_on(people: People) -> None:
    alice, bob = await people.encrypted("alice"), await people.encrypted("bob")
    room = await alice.create_room(encrypted=True)
    await alice.send_text(room, "before")
    await alice.invite(room, bob.user_id)
    await bob.join(room)
    await alice.send_text(room, "after")

    await bob.until_heard(room, "after")

    assert [heard.body for heard in bob.timeline(room)] == ["after"]


async def test_history_is_complete_and_in_order(people: People) -> None:
    alice = await people("alice")
    room = await alice.create_room("11")
    said = [await alice.send(room, {"msgtype": "m.notice", "body": str(n)}) for n in range(30)]

    history = await alice.messages(room)

    assert [event["event_id"] for event in history][-30:] == said
    assert history[0]["type"] == "m.room.create"
    assert await alice.bodies(room, alice) == [str(n) for n in range(30)]


async def test_power_and_membership_are_enforced(people: People) -> None:
    alice, bob = await people("alice"), await people("bob")
    room = await alice.create_room("11", invite=[bob])
    await bob.join(room)
    event_id = await alice.send(room, "hello")

    with pytest.raises(ApiError, match="M_FORBIDDEN"):
        await bob.redact(room, event_id)
    await alice.set_power(room, bob, 50)
    await bob.redact(room, event_id)
    await alice.until_redacted(room, event_id)
    await alice.kick(room, bob)

    assert await alice.members(room) == {alice.user_id}


async def burst(person: Person) -> None:
    room = await person.create_room()
    for n in range(30):
        await person.send(room, str(n))


async def test_lifted_limits_let_a_burst_through_and_default_ones_do_not(
    people: People, strict_people: People
) -> None:
    free, limited = await people("alice"), await strict_people("alice")

    await burst(free)
    with pytest.raises(ApiError) as refusal:
        await burst(limited)
    assert refusal.value.errcode == "M_LIMIT_EXCEEDED"
    assert refusal.value.retry_after_ms


async def test_a_restart_keeps_port_and_data(tmp_path: Path) -> None:
    server = Homeserver(tmp_path / "server")
    async with server:
        url = server.url
        alice = Person(url, await server.register("alice"))
        room = await alice.create_room()
        event_id = await alice.send(room, "still here")

        await server.stop()
        assert not server.running
        await server.start()
        assert server.url == url
        assert (await alice.event(room, event_id))["content"]["body"] == "still here"

        await server.kill()
        await server.start()
        assert (await alice.event(room, event_id))["content"]["body"] == "still here"
        again = await server.login("alice", alice.account.password, "PHONE")
        assert (again.user_id, again.device_id) == (alice.user_id, "PHONE")
        await alice.close()
    assert not server.running


async def test_a_port_taken_in_the_meantime_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as rival:
        taken = rival.getsockname()[1]
        ports = iter([taken, module._free_port()])
        monkeypatch.setattr(module, "_free_port", lambda: next(ports))
        async with Homeserver(tmp_path) as server:
            assert server.url != f"http://127.0.0.1:{taken}"


async def test_a_start_that_fails_shows_the_end_of_the_log(tmp_path: Path) -> None:
    server = Homeserver(tmp_path, extra={"listeners": "nonsense"})
    with pytest.raises(HomeserverError, match=r"(?s)Error in configuration.*Expected a list"):
        await server.start()
    assert not server.running
