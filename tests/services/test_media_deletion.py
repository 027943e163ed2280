"""Files go after their message, if they are its sender's, and not before the last one."""

from __future__ import annotations

from itertools import pairwise
from random import Random
from typing import Any

import pytest

from bot.core.outcomes import (
    Failed,
    Forbidden,
    Outcome,
    RateLimited,
    Refused,
    TokenRejectedError,
    Unreachable,
)
from bot.core.redaction import CONFIRM_AFTER
from bot.core.topics import Topic
from bot.core.types import EventID, RoomID, UserID
from bot.services.media_deletion import FORBIDDEN, REJECTED, UNKNOWN, MediaDeletion
from bot.services.sync import GATHER
from tests.support.fake_homeserver import ALICE, BOB
from tests.support.fake_media import FakeMedia
from tests.support.harness import MINUTE, SECOND, Harness

PICTURE, OTHER = "picture-of-alice", "another-picture"
STRANGER = UserID("@mallory:elsewhere.org")


class Shelf:
    """A harness whose bot may delete files, and a room in it with a lifetime of five seconds."""

    def __init__(self, harness: Harness) -> None:
        harness.media_server = FakeMedia.server
        harness.keep_anew()
        self.harness = harness
        self.media = FakeMedia(harness.clock)
        self.service = self.serve()
        self.room = harness.homeserver.make_room()
        harness.homeserver.set_lifetime(self.room, 5 * SECOND)
        self.first = True

    def serve(self) -> MediaDeletion:
        harness = self.harness
        return MediaDeletion(self.media, harness.store, harness.clock, random=Random(1))

    def show(
        self, media_id: str, sender: UserID = ALICE, room: RoomID | None = None, **event: Any
    ) -> EventID:
        """Let somebody send a message that shows a file."""
        content = {"msgtype": "m.image", "body": "x", "url": f"mxc://example.org/{media_id}"}
        whole = {"type": "m.room.message", "sender": sender, "content": content} | event
        return self.harness.homeserver.add(room or self.room, whole)

    async def go(self, *times: int) -> None:
        """Let the bot read and redact, and then time pass."""
        harness = self.harness
        async with harness.running(harness.sync, harness.redactor, self.service):
            for time in times:
                await harness.advance(time)
                harness.store.publish(Topic.MEDIA)
                await harness.rest()

    async def rows(self) -> list[Any]:
        async with self.harness.store._db.transaction() as db:
            return await db.rows("SELECT media_id, timer, attempts FROM media ORDER BY id")


@pytest.fixture
async def shelf(harness: Harness) -> Shelf:
    made = Shelf(harness)
    async with harness.running(harness.sync):
        pass
    return made


async def test_a_file_goes_after_its_message(shelf: Shelf) -> None:
    shelf.media.upload(PICTURE, ALICE)
    sent = shelf.show(PICTURE)
    await shelf.go(0, 4 * SECOND)
    assert PICTURE in shelf.media.files
    assert len(await shelf.rows()) == 1
    await shelf.go(SECOND)
    assert shelf.harness.homeserver.is_redacted(shelf.room, sent)
    assert shelf.media.files == {}
    assert await shelf.rows() == []


async def test_a_file_that_somebody_else_uploaded_stays(shelf: Shelf) -> None:
    shelf.media.upload(PICTURE, ALICE)
    shelf.show(PICTURE, BOB)
    shelf.show(OTHER, STRANGER)
    await shelf.go(0, 6 * SECOND)
    assert PICTURE in shelf.media.files
    assert shelf.media.looked_at == [PICTURE], "a stranger can own no file here"
    assert await shelf.rows() == []


async def test_a_file_named_elsewhere_is_still_deleted_with_its_own_message(
    shelf: Shelf,
) -> None:
    shelf.media.upload(PICTURE, ALICE)
    shelf.show(PICTURE, BOB)
    shelf.show(PICTURE, ALICE)
    await shelf.go(0, 6 * SECOND, GATHER)
    assert shelf.media.files == {}
    assert await shelf.rows() == []


async def test_a_file_in_two_messages_goes_with_the_later(shelf: Shelf) -> None:
    shelf.media.upload(PICTURE, ALICE)
    shelf.show(PICTURE)
    homeserver = shelf.harness.homeserver
    longer = homeserver.make_room()
    homeserver.set_lifetime(longer, MINUTE)
    shelf.show(PICTURE, room=longer)
    await shelf.go(0, 10 * SECOND, 40 * SECOND)
    assert PICTURE in shelf.media.files
    await shelf.go(15 * SECOND)
    assert shelf.media.files == {}
    assert await shelf.rows() == []


async def test_a_file_whose_message_is_removed_by_hand_goes_at_once(shelf: Shelf) -> None:
    shelf.media.upload(PICTURE, ALICE)
    sent = shelf.show(PICTURE)
    await shelf.go(0)
    shelf.harness.homeserver.redact_as(shelf.room, sent)
    await shelf.go(0)
    assert shelf.media.files == {}


async def test_a_message_that_was_found_gone_gives_its_file_up_as_well(shelf: Shelf) -> None:
    shelf.media.upload(PICTURE, ALICE)
    sent = shelf.show(PICTURE)
    await shelf.go(0)
    shelf.harness.homeserver.purge(shelf.room, sent)
    harness = shelf.harness
    async with harness.running(harness.redactor, shelf.service):
        await harness.advance(6 * SECOND)
        await harness.advance(CONFIRM_AFTER)
        await harness.advance(2 * MINUTE)
    assert shelf.media.files == {}


async def test_where_messages_stay_their_files_stay(shelf: Shelf) -> None:
    homeserver = shelf.harness.homeserver
    room = homeserver.make_room()
    shelf.media.upload(PICTURE, ALICE)
    sent = shelf.show(PICTURE, room=room)
    await shelf.go(0)
    homeserver.redact_as(room, sent)
    await shelf.go(0, MINUTE)
    assert PICTURE in shelf.media.files
    assert await shelf.rows() == []


async def test_what_an_administrator_has_protected_stays(shelf: Shelf) -> None:
    shelf.media.upload(PICTURE, ALICE)
    shelf.media.protected.add(PICTURE)
    shelf.show(PICTURE)
    await shelf.go(0, 6 * SECOND)
    assert PICTURE in shelf.media.files
    assert await shelf.rows() == []


async def test_a_file_that_is_gone_already_is_done_with(shelf: Shelf) -> None:
    shelf.show(PICTURE)
    await shelf.go(0, 6 * SECOND)
    assert shelf.media.looked_at == [PICTURE]
    assert await shelf.rows() == []


async def test_the_files_of_an_encrypted_message_are_those_it_says_inside(shelf: Shelf) -> None:
    homeserver = shelf.harness.homeserver
    room = homeserver.make_room(encrypted=True)
    homeserver.set_lifetime(room, 5 * SECOND)
    address = shelf.media.upload(PICTURE, ALICE)
    shelf.media.upload(OTHER, ALICE)
    inside = {"msgtype": "m.image", "body": "x", "file": {"url": address, "key": {"k": "secret"}}}
    event = homeserver.encrypt(inside, ALICE)
    event["content"]["url"] = f"mxc://example.org/{OTHER}"
    homeserver.add(room, event)
    await shelf.go(0)
    assert [row[0] for row in await shelf.rows()] == [PICTURE]
    assert b"secret" not in shelf.harness.path.read_bytes()
    await shelf.go(6 * SECOND)
    assert set(shelf.media.files) == {OTHER}


# --- what can go wrong ---------------------------------------------------------------------------


@pytest.mark.parametrize("on", ["uploader", "delete"])
@pytest.mark.parametrize(
    "answer",
    [
        Failed(status=500),
        Failed(status=200),
        Unreachable(reason="x"),
        RateLimited(retry_after=2_000),
        Refused(status=400, errcode="M_UNKNOWN"),
        Forbidden(),
        TokenRejectedError("M_UNKNOWN_TOKEN"),
        Refused(status=405, errcode="M_UNRECOGNIZED"),
    ],
)
async def test_a_failure_is_repeated_until_the_file_is_gone(
    shelf: Shelf, on: str, answer: Outcome | Exception
) -> None:
    shelf.media.upload(PICTURE, ALICE)
    shelf.show(PICTURE)
    shelf.media.fail_next(*[answer] * 5, on=on)
    await shelf.go(0, 5 * SECOND)
    assert PICTURE in shelf.media.files
    assert len(await shelf.rows()) == 1
    await shelf.go(*[MINUTE] * 10)
    assert shelf.media.files == {}
    assert await shelf.rows() == []


async def test_a_failure_is_repeated_soon_without_being_woken(shelf: Shelf) -> None:
    harness = shelf.harness
    shelf.media.upload(PICTURE, ALICE)
    shelf.show(PICTURE)
    shelf.media.fail_next(Failed(status=500), on="delete")
    async with harness.running(harness.sync, harness.redactor):
        await harness.advance(6 * SECOND)
    async with harness.running(shelf.service):
        assert PICTURE in shelf.media.files
        await harness.advance(SECOND)
        assert shelf.media.files == {}


async def test_a_failing_file_does_not_hold_up_others(shelf: Shelf) -> None:
    for media_id in (PICTURE, OTHER):
        shelf.media.upload(media_id, ALICE)
        shelf.show(media_id)
    shelf.media.fail_next(*[Failed(status=500)], on="uploader")
    await shelf.go(0, 5 * SECOND, GATHER)
    assert set(shelf.media.files) == {PICTURE}


async def test_repeats_become_rare_but_do_not_end(shelf: Shelf) -> None:
    shelf.media.upload(PICTURE, ALICE)
    shelf.show(PICTURE)
    shelf.media.fail_next(*[Failed(status=500)] * 10_000, on="delete")
    await shelf.go(0, 5 * SECOND, *[MINUTE] * 180)
    times = shelf.media.times("delete")
    waits = [later - earlier for earlier, later in pairwise(times)]
    assert max(waits) <= 11 * MINUTE
    assert 15 < len(times) < 60


@pytest.mark.parametrize(
    ("answer", "trouble"),
    [
        (TokenRejectedError("M_UNKNOWN_TOKEN"), REJECTED),
        (Refused(status=401), REJECTED),
        (Forbidden(), FORBIDDEN),
        (Refused(status=405, errcode="M_UNRECOGNIZED"), UNKNOWN),
        (Refused(status=404, errcode="M_UNRECOGNIZED"), UNKNOWN),
        (Failed(status=404), UNKNOWN),
    ],
)
async def test_what_the_operator_must_mend_is_said_once_an_episode(
    shelf: Shelf,
    answer: Outcome | Exception,
    trouble: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    for media_id in (PICTURE, OTHER):
        shelf.media.upload(media_id, ALICE)
        shelf.show(media_id)
    shelf.media.fail_next(answer, on="usable")
    shelf.media.fail_next(*[answer] * 5, on="uploader")
    harness = shelf.harness
    async with harness.running(harness.sync, harness.redactor, shelf.service):
        await harness.advance(6 * SECOND)
        assert shelf.service.trouble == trouble
        for _ in range(10):
            await harness.advance(MINUTE)
    assert shelf.service.trouble == ""
    assert shelf.media.files == {}
    assert caplog.text.count(trouble) == 1
    assert caplog.text.count("files can be deleted again") == 1
    assert PICTURE not in caplog.text


async def test_a_file_is_deleted_when_the_bot_starts_again_between(shelf: Shelf) -> None:
    shelf.media.upload(PICTURE, ALICE)
    sent = shelf.show(PICTURE)
    harness = shelf.harness
    async with harness.running(harness.sync, harness.redactor):
        await harness.advance(6 * SECOND)
    assert harness.homeserver.is_redacted(shelf.room, sent)
    await harness.restart()
    shelf.service = shelf.serve()
    async with harness.running(shelf.service):
        pass
    assert shelf.media.files == {}
    assert await shelf.rows() == []


# --- what stays in the database ------------------------------------------------------------------


async def test_leaving_a_room_keeps_the_files_of_messages_that_stay(shelf: Shelf) -> None:
    harness = shelf.harness
    for media_id in (PICTURE, OTHER):
        shelf.media.upload(media_id, ALICE)
    gone = shelf.show(PICTURE)
    shelf.show(OTHER)
    async with harness.running(harness.sync):
        pass
    harness.homeserver.redact_as(shelf.room, gone)
    async with harness.running(harness.sync):
        pass
    assert await harness.store.forget(shelf.room, 0) == 1
    await shelf.go(0)
    assert set(shelf.media.files) == {OTHER}
    while await harness.store.delete_expired_room(harness.clock.now()):
        pass
    assert await shelf.rows() == []
    await shelf.go(0)
    assert set(shelf.media.files) == {OTHER}


async def test_nothing_of_a_file_stays_in_the_database(shelf: Shelf) -> None:
    harness = shelf.harness
    shelf.media.upload(PICTURE, ALICE)
    shelf.show(PICTURE)
    await shelf.go(0)
    await harness.store.wipe()
    assert PICTURE.encode() in harness.path.read_bytes()
    await shelf.go(6 * SECOND)
    await harness.store.wipe()
    assert shelf.media.files == {}
    for file in harness.path.parent.glob("timers.db*"):
        assert PICTURE.encode() not in file.read_bytes(), file.name


async def test_without_the_right_to_delete_nothing_of_files_is_kept(shelf: Shelf) -> None:
    harness = shelf.harness
    shelf.show(PICTURE)
    await shelf.go(0)
    assert len(await shelf.rows()) == 1
    await harness.store.forget_media()
    assert await shelf.rows() == []
    harness.media_server = None
    await harness.restart()
    shelf.show(PICTURE)
    async with harness.running(harness.sync):
        pass
    assert await shelf.rows() == []


async def test_what_was_deleted_is_told_in_numbers_once_a_minute(
    shelf: Shelf, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "bot.services.media_deletion")

    async def told(media_id: str, uploader: UserID, *, first: int = 0) -> list[str]:
        shelf.media.upload(media_id, uploader)
        shelf.harness.clock.advance(first)
        shelf.show(media_id)
        await shelf.go(0, 5 * SECOND, GATHER)
        return [one for one in caplog.messages if one.startswith("deleted ")]

    first = "deleted 1 files; left 0 that are not their sender's"
    assert await told("picture-number-one", ALICE) == [first]
    assert await told("picture-number-two", ALICE) == [first]
    assert await told("picture-number-three", BOB) == [first]
    second = "deleted 1 files; left 2 that are not their sender's"
    assert await told("picture-number-four", BOB, first=MINUTE) == [first, second]
    third = "deleted 0 files; left 1 that are not their sender's"
    assert await told("picture-number-five", BOB, first=MINUTE) == [first, second, third]


async def test_nothing_is_told_where_nothing_was_deleted(
    shelf: Shelf, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "bot.services.media_deletion")
    shelf.harness.clock.advance(MINUTE)
    shelf.show(PICTURE)  # which is gone already
    await shelf.go(0, 5 * SECOND, 2 * MINUTE)
    assert not any(one.startswith("deleted ") for one in caplog.messages)


@pytest.mark.parametrize(("after", "rows"), [(MINUTE - 1, 0), (MINUTE, 1)])
async def test_as_many_deleted_as_left_are_told_when_a_minute_is_over(
    shelf: Shelf, caplog: pytest.LogCaptureFixture, after: int, rows: int
) -> None:
    caplog.set_level("INFO", "bot.services.media_deletion")
    shelf.service._said_at = shelf.harness.clock.now()
    shelf.service._deleted = shelf.service._kept = 1
    shelf.harness.clock.advance(after)
    shelf.show(PICTURE, BOB)  # of no use, and no more to do: it is only looked at
    shelf.service._summarise()
    told = ["deleted 1 files; left 1 that are not their sender's"] * rows
    assert [one for one in caplog.messages if one.startswith("deleted ")] == told


def test_whose_files_are_deleted_is_known(shelf: Shelf) -> None:
    assert shelf.service.server == "example.org"
