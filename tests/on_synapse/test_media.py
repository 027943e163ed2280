"""Files on a real Synapse: gone with their message, thumbnails too, and only the sender's own."""

from __future__ import annotations

import struct
import zlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest

from bot.core.outcomes import (
    Done,
    Failed,
    Forbidden,
    NotFound,
    OutcomeError,
    Refused,
    TokenRejectedError,
)
from bot.core.types import RoomID
from bot.demo.homeserver import Account, Homeserver
from bot.matrix.synapse.admin import Admin
from bot.matrix.synapse.media import Media
from tests.on_synapse.test_late_keys import Stingy
from tests.on_synapse.test_lifecycle import settle_in
from tests.on_synapse.test_process import check
from tests.support.people import People, Person, wait_until

if TYPE_CHECKING:
    from tests.support.bot_process import BotProcess, Bots

pytestmark = pytest.mark.synapse
V1 = "/_matrix/client/v1"


def png(colour: int) -> bytes:
    """Return a picture that is large enough to have thumbnails."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    rows = b"".join(b"\0" + bytes([colour]) * 128 for _ in range(128))
    head = struct.pack(">IIBBBBB", 128, 128, 8, 0, 0, 0, 0)
    parts = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


async def upload(person: Person, data: bytes | None = None) -> str:
    """Upload a file; return its address."""
    url = f"{person._homeserver}/_matrix/media/v3/upload"
    body, headers = data or png(1), {"Content-Type": "image/png"}
    async with person._http.post(url, data=body, headers=headers) as answer:
        assert answer.status == 200
        return str((await answer.json())["content_uri"])


async def statuses(person: Person, address: str) -> list[int]:
    """Return how the server answers who wants the file, and a thumbnail of it."""
    server, media_id = address.removeprefix("mxc://").split("/")
    base = f"{person._homeserver}{V1}/media"
    where = [f"download/{server}/{media_id}", f"thumbnail/{server}/{media_id}?width=32&height=32"]
    found = []
    for one in where:
        async with person._http.get(f"{base}/{one}") as answer:
            await answer.read()
            found.append(answer.status)
    return found


async def until_gone(person: Person, address: str) -> None:
    __tracebackhide__ = True

    async def gone() -> bool:
        return await statuses(person, address) == [404, 404]

    await wait_until(gone, 15, "the file to be deleted")


def image(address: str, thumbnail: str | None = None) -> dict[str, Any]:
    info = {"thumbnail_url": thumbnail} if thumbnail else {}
    return {"msgtype": "m.image", "body": "a picture", "url": address, "info": info}


def locked(address: str, thumbnail: str) -> dict[str, Any]:
    """Return what a client encrypts when it sends an encrypted picture."""
    key = {"kty": "oct", "k": "the-key-of-the-file", "alg": "A256CTR", "ext": True}
    rest = {"key": key, "iv": "iv", "hashes": {"sha256": "x"}, "v": "v2"}
    info = {"thumbnail_file": {"url": thumbnail, **rest}, "filler": "x" * 600}
    file = {"url": address, **rest}
    return {"msgtype": "m.image", "body": "a picture", "file": file, "info": info}


@pytest.fixture
async def admin(homeserver: Homeserver, people: People) -> Account:
    """A server administrator who does nothing else."""
    name = (await people("remover")).user_id.split(":")[0][1:]
    return await homeserver.register(f"{name}-admin", admin=True)


@pytest.fixture
def deleting(admin: Account, tmp_path: Path) -> dict[str, Any]:
    """The settings of a bot that deletes files."""
    (tmp_path / "admin-token").write_text(admin.access_token)
    return {"media": {"delete": True, "admin_token_file": str(tmp_path / "admin-token")}}


@pytest.fixture
async def media(homeserver: Homeserver, admin: Account) -> AsyncIterator[Media]:
    made = Media(Admin(homeserver.url, admin.access_token), admin.user_id.split(":", 1)[1])
    yield made
    await made.close()


async def set_lifetime(alice: Person, bot: BotProcess, room: RoomID, lifetime: str) -> None:
    timer = {"3s": 3_000, "8s": 8_000}[lifetime]
    content = {"type": "after_send", "timer": timer}
    await alice.state(room, "com.beeper.disappearing_timer", content)


async def test_the_file_and_the_thumbnails_of_a_message_go_after_it(
    people: People, bots: Bots, deleting: dict[str, Any]
) -> None:
    alice, bot = await people("alice"), await bots(**deleting)
    room = await settle_in(alice, bot)
    await alice.send(room, "!expire 3s")
    await alice.until_notice(room, bot.user_id, "to 3 seconds")
    picture, thumbnail = await upload(alice), await upload(alice, png(2))
    message = await alice.send(room, image(picture, thumbnail))
    assert await statuses(alice, picture) == await statuses(alice, thumbnail) == [200, 200]
    await alice.send(room, "!expire status")
    server = alice.user_id.split(":", 1)[1]
    await alice.until_notice(room, bot.user_id, f"Their files on {server} are deleted too.")
    await alice.until_redacted(room, message)
    await until_gone(alice, picture)
    await until_gone(alice, thumbnail)
    assert picture.rsplit("/", 1)[1] not in bot.words()
    assert await bot.stop() == 0
    for file in bot.data_dir.glob("timers.db*"):
        assert picture.rsplit("/", 1)[1].encode() not in file.read_bytes()


async def test_without_the_token_files_stay_and_the_room_is_told(
    people: People, bots: Bots
) -> None:
    alice, bot = await people("alice"), await bots()
    room = await settle_in(alice, bot)
    await set_lifetime(alice, bot, room, "3s")
    await alice.until_notice(room, bot.user_id, "to 3 seconds")
    picture = await upload(alice)
    message = await alice.send(room, image(picture))
    await alice.send(room, "!expire status")
    await alice.until_notice(room, bot.user_id, "Their files stay on the server.")
    await alice.until_redacted(room, message)
    assert await statuses(alice, picture) == [200, 200]


async def test_the_files_of_an_encrypted_room_go_as_well(
    people: People, bots: Bots, deleting: dict[str, Any]
) -> None:
    alice, bot = await people.encrypted("alice"), await bots(**deleting)
    room = await alice.create_room(encrypted=True, invite=[bot.user_id])
    await alice.until_heard(room, "I make messages disappear")
    await alice.set_power(room, bot.user_id, 50)
    await alice.send_text(room, "!expire 3s")
    await alice.until_heard(room, "to 3 seconds")
    picture, thumbnail = await upload(alice), await upload(alice, png(2))
    content = locked(picture, thumbnail)
    message = await alice._device.send(room, "m.room.message", content)
    for file in bot.data_dir.rglob("*.db*"):
        assert b"the-key-of-the-file" not in file.read_bytes()
    await alice.until_redacted(room, message)
    await until_gone(alice, picture)
    await until_gone(alice, thumbnail)


async def test_a_file_whose_key_comes_late_goes_as_well(
    people: People, bots: Bots, deleting: dict[str, Any]
) -> None:
    alice, bot = await people.encrypted("alice"), await bots(**deleting)
    room = await alice.create_room(encrypted=True, invite=[bot.user_id])
    await alice.until_heard(room, "I make messages disappear")
    await alice.set_power(room, bot.user_id, 50)
    await alice.send_text(room, "!expire 8s")
    await alice.until_heard(room, "to 8 seconds")
    stingy = Stingy(alice, bot, room)
    stingy.begin()
    picture, thumbnail = await upload(alice), await upload(alice, png(2))
    answer = await stingy._client.room_send(room, "m.room.message", locked(picture, thumbnail))
    ciphertext = (await alice.event(room, answer.event_id))["content"]["ciphertext"]
    assert len(ciphertext) > 1_024, "too long for a command"
    await wait_until(lambda: has_timer(bot, answer.event_id))
    await stingy.share()
    await alice.until_redacted(room, answer.event_id, 15)
    await until_gone(alice, picture)
    await until_gone(alice, thumbnail)


async def has_timer(bot: BotProcess, event_id: str) -> bool:
    """Whether the bot has read the message, by its database's files."""
    found = [file.read_bytes() for file in bot.data_dir.glob("timers.db*")]
    return any(event_id.encode() in one for one in found)


async def test_somebody_elses_file_stays(
    people: People, bots: Bots, deleting: dict[str, Any]
) -> None:
    alice, bob, bot = await people("alice"), await people("bob"), await bots(**deleting)
    room = await settle_in(alice, bot)
    await set_lifetime(alice, bot, room, "3s")
    await alice.until_notice(room, bot.user_id, "to 3 seconds")
    bobs, own = await upload(bob), await upload(alice, png(2))
    await alice.send(room, image(bobs))
    message = await alice.send(room, image(own, thumbnail=bobs))
    await alice.until_redacted(room, message)
    await until_gone(alice, own)
    await alice.send(room, image(last := await upload(alice, png(3))))
    await until_gone(alice, last)
    assert await statuses(bob, bobs) == [200, 200]


async def test_a_file_of_two_messages_goes_with_the_later(
    people: People, bots: Bots, deleting: dict[str, Any]
) -> None:
    alice, bot = await people("alice"), await bots(**deleting)
    room = await settle_in(alice, bot)
    picture, own = await upload(alice), await upload(alice, png(2))
    await set_lifetime(alice, bot, room, "8s")
    await alice.until_notice(room, bot.user_id, "to 8 seconds")
    later = await alice.send(room, image(picture))
    await set_lifetime(alice, bot, room, "3s")
    earlier = await alice.send(room, image(picture, thumbnail=own))
    await alice.until_redacted(room, earlier)
    await until_gone(alice, own)
    assert await statuses(alice, picture) == [200, 200]
    assert not await alice.is_redacted(room, later)
    await alice.until_redacted(room, later)
    await until_gone(alice, picture)


async def test_a_revoked_token_ends_nothing_and_a_new_one_makes_up(
    people: People,
    bots: Bots,
    deleting: dict[str, Any],
    homeserver: Homeserver,
    admin: Account,
) -> None:
    alice, bot = await people("alice"), await bots(**deleting)
    room = await settle_in(alice, bot)
    await set_lifetime(alice, bot, room, "3s")
    await alice.until_notice(room, bot.user_id, "to 3 seconds")
    await log_out(homeserver, admin)
    picture = await upload(alice)
    message = await alice.send(room, image(picture))
    await alice.until_redacted(room, message)

    async def said() -> bool:
        return "does not accept the token in media.admin_token_file" in bot.words()

    await wait_until(said)
    await alice.send(room, "!expire status")
    await alice.until_notice(room, bot.user_id, "Their files stay for now")
    result = check(bot)
    assert result.returncode == 1
    assert "✗ files: the homeserver does not accept the token" in result.stdout
    assert bot.status() is None
    await bot.kill()
    assert await statuses(alice, picture) == [200, 200]
    fresh = await homeserver.login(admin.user_id.split(":")[0][1:], admin.password)
    Path(deleting["media"]["admin_token_file"]).write_text(fresh.access_token)
    await bot.start()
    await until_gone(alice, picture)
    assert admin.access_token not in bot.words()
    assert fresh.access_token not in bot.words()


async def log_out(homeserver: Homeserver, account: Account) -> None:
    headers = {"Authorization": f"Bearer {account.access_token}"}
    async with aiohttp.ClientSession(headers=headers) as http:
        where = f"{homeserver.url}/_matrix/client/v3/logout"
        async with http.post(where, json={}) as answer:
            assert answer.status == 200


async def test_check_says_whether_files_can_be_deleted(
    people: People, bots: Bots, deleting: dict[str, Any], tmp_path: Path
) -> None:
    bot = await bots(start=False, **deleting)
    bot.write_config()
    result = check(bot)
    assert result.returncode == 0, result.stdout
    assert "✓ files on" in result.stdout
    nobody = await people("nobody")
    (tmp_path / "admin-token").write_text(nobody.account.access_token)
    result = check(bot)
    assert result.returncode == 1
    assert "is no server administrator's" in result.stdout
    assert nobody.account.access_token not in result.stdout


# --- what the fake in memory claims --------------------------------------------------------------


async def test_the_admin_api_answers_as_the_bot_expects(
    people: People, homeserver: Homeserver, media: Media, admin: Account
) -> None:
    alice = await people("alice")
    media_id = (await upload(alice)).rsplit("/", 1)[1]
    assert isinstance(await media.usable(), NotFound)
    assert await media.uploader(media_id) == alice.user_id
    v1 = "/_synapse/admin/v1"
    root = Admin(homeserver.url, admin.access_token)
    for verb, kept in (("protect", True), ("unprotect", False)):
        await root.request("POST", f"{v1}/media/{verb}/{media_id}", {})
        assert (await media.uploader(media_id) is None) == kept
    for verb, kept in (("quarantine", True), ("unquarantine", False)):
        await root.request("POST", f"{v1}/media/{verb}/{media.server}/{media_id}", {})
        assert (await media.uploader(media_id) is None) == kept
    unknown = await root.request("PATCH", f"{v1}/media/{media.server}/{media_id}")
    assert isinstance(unknown, Refused)
    assert unknown.status == 405, "what an older Synapse says to a question it does not know"
    await root.close()
    assert isinstance(await media.delete(media_id), Done)
    assert isinstance(await media.delete(media_id), NotFound)
    with pytest.raises(OutcomeError) as caught:
        await media.uploader(media_id)
    assert isinstance(caught.value.outcome, NotFound)


async def test_a_disk_that_does_not_let_a_file_go_is_a_failure(
    people: People, homeserver: Homeserver, media: Media
) -> None:
    media_id = (await upload(await people("alice"))).rsplit("/", 1)[1]
    content = homeserver.folder / "media" / "local_content"
    stored = content / media_id[:2] / media_id[2:4] / media_id[4:]
    kept = stored.rename(stored.with_name("aside"))
    stored.mkdir()  # a folder cannot be removed as a file is
    assert await media.delete(media_id) == Failed(status=200)
    stored.rmdir()
    kept.rename(stored)
    assert isinstance(await media.delete(media_id), Done)
    assert not stored.exists()


async def test_the_admin_api_knows_who_may_ask(people: People, homeserver: Homeserver) -> None:
    alice = await people("alice")
    server = alice.user_id.split(":", 1)[1]
    media_id = (await upload(alice)).rsplit("/", 1)[1]
    none = Media(Admin(homeserver.url, alice.account.access_token), server)
    assert isinstance(await none.usable(), Forbidden)
    assert isinstance(await none.delete(media_id), Forbidden)
    await none.close()
    wrong = Media(Admin(homeserver.url, "wrong"), server)
    assert await wrong.usable() == Refused(status=401, errcode="M_UNKNOWN_TOKEN")
    with pytest.raises(TokenRejectedError):
        await wrong.delete(media_id)
    await wrong.close()
