"""Everything that can be done to one room in the store, by the name of the method that does it."""

from __future__ import annotations

import dataclasses
from collections.abc import Awaitable, Callable
from typing import Any

from bot.core.default_lifetime import DefaultBegins
from bot.core.invitations import Invite, InviteStage
from bot.core.outbox import Announce, OutboxItem
from bot.core.policy import NewTimer
from bot.core.policy_backward import PolicyBackward
from bot.core.successors import Stage
from bot.core.timeline import Change, Encrypted, Item, RoomUpdate
from bot.core.timers import UnusedMedia
from bot.core.types import RoomID
from tests.support.harness import due_of
from tests.support.store import Store
from tests.support.two_rooms import (
    ALICE,
    DAY,
    FAR,
    MINUTE,
    NOW,
    Act,
    commit,
    entry,
    gap,
    gone,
    invitation,
    its_gap,
    message,
    outgoing,
    pair,
    pending,
    relation,
    said,
    shows,
    sql,
    sweep,
    timer,
    undecided,
    undecryptable,
)

NOT_OF_A_ROOM = {
    "invitations.held_for",
    "invitations.rooms_held",
    "store.any_timer",
    "store.fall_behind",
    "store.not_all_seen",
    "store.clock_set_back",
    "store.next_expiry",
    "store.close",
    "store.forget_media",
    "store.in_transaction",
    "store.open",
    "store.position",
    "store.look_through",
    "store.wipe",
    "keys.sessions_deleted",
    "keys.first_key_use",
    "keys.ratcheted",
    "keys.to_ratchet",
    "keys.last_used",
}
"""What concerns all rooms at once, or none."""


async def come_back(store: Store, room: RoomID) -> None:
    await store.forget(room, NOW)
    await store.commit("s1", NOW, [RoomUpdate(room_id=room, items=[], entered=True)])


async def make_due(store: Store, room: RoomID) -> None:
    async with store._db.transaction() as db:
        row = await db.one("SELECT id FROM rooms WHERE room_id = ?", room)
        assert row is not None
        values = (row[0], "$parent", NOW, 0)
        await db.rows(
            "INSERT INTO gone_parents (room, parent, gone_at, last_child) VALUES (?, ?, ?, ?)",
            *values,
        )
    while await store.relations.make_due():
        pass


async def put_in_order(store: Store, room: RoomID) -> None:
    """Come back when what waited is overdue."""
    await store.forget(room, NOW)
    later = NOW + 9 * MINUTE
    await store.commit("s1", later, [RoomUpdate(room_id=room, items=[], entered=True)])
    await store.put_in_order()


async def delete_expired_room(store: Store, room: RoomID) -> None:
    await store.forget(room, NOW - 40 * DAY)
    for _ in range(9):
        await store.delete_expired_room(NOW)


async def joining(store: Store, room: RoomID) -> None:
    """Let an invitation be accepted."""
    one = await invitation(store, room)
    await store.invitations.move(one, InviteStage.JOINING, NOW)


async def off_late(store: Store, room: RoomID) -> None:
    """Take back what a command that came late has ended."""
    await store.read_late(room, undecryptable("riddle"), [said(room, "off", 0)], NOW)
    page: list[Item] = [message(name) for name in ("live", "late", "only")]
    await store.gaps.read_on(await its_gap(store, room), page, "t9", 5, done=True)
    await store.take_over(NOW)


async def all_gone(store: Store, room: RoomID) -> None:
    names = ("live", "sent", "parent", "shown", "late", "later", "refused", "stuck", "child")
    await commit(store, room, *[gone(name) for name in names])


async def resumed(store: Store, room: RoomID) -> None:
    await store.reviewed(room, suspended=True, outgoing=[])
    await store.reviewed(room, suspended=False, outgoing=[])


async def setting(store: Store, room: RoomID) -> OutboxItem:
    """Let somebody set a lifetime; return what is owed for that."""
    await commit(store, room, said(room, "set", 5 * MINUTE))
    text = (
        "SELECT o.id FROM outbox o JOIN rooms r ON r.id = room WHERE kind = 'set' AND room_id = ?"
    )
    found = sql(store, text, room)
    return dataclasses.replace(await entry(store, room), id=found[0][0] if found else 0)


async def taken_back(store: Store, room: RoomID) -> None:
    await store.take_back(await setting(store, room), outgoing("no"))


async def written(store: Store, room: RoomID) -> None:
    notice = Announce(setting=5 * MINUTE, sender=ALICE)
    await store.written(await setting(store, room), "digest", notice)


async def read_on(store: Store, room: RoomID) -> None:
    change = Change(setting=1, sender=ALICE, digest="found", unannounced=True)
    page: list[Item] = [change, Encrypted(), message("live")]
    await store.gaps.read_on(await its_gap(store, room), page, "t9", 5, done=False)


async def sweep_on(store: Store, room: RoomID) -> int:
    stamps = [
        NewTimer(event_id=message(one).event_id, due=NOW + 1) for one in ("live", "left", "x")
    ]
    way = PolicyBackward(setting=7)
    files = [shows(room, "live")]
    return await store.sweeps.read_on(sweep(room), stamps, files, 5, token="t", way=way, events=9)


async def sweep_anew(store: Store, room: RoomID) -> None:
    await store.sweeps.begin(sweep(room))
    await store.sweeps.next()


async def enter_successor(store: Store, room: RoomID) -> None:
    found = await store.successors.of(RoomID(f"{room} new"))
    for one in found:
        await store.successors.move(one, Stage.INSIDE, outgoing("moved"), where=room)
        await store.successors.move(one, Stage.POWERLESS, where=room, needs_announced=True)


async def look_again(store: Store, room: RoomID) -> bool:
    await enter_successor(store, room)
    return await store.successors.look_again(RoomID(f"{room} new"))


async def its_file(room: RoomID) -> UnusedMedia:
    return UnusedMedia(media_id=f"wiped of {room}", owners=frozenset({"owner"}))


async def apply(
    act: Callable[..., Awaitable[Any]], one: Awaitable[Any], *more: Any, **rest: Any
) -> Any:
    return await act(await one, *more, **rest)


NOT_KNOWN = Change(setting=1, sender=ALICE, digest="stands")

ACTS: dict[str, list[Act]] = {
    "store.delete_expired_room": [delete_expired_room],
    "store.put_in_order": [put_in_order],
    "store.has_work": [lambda s, r: s.has_work(r)],
    "store.look_for_others": [
        lambda s, r: s.look_for_others(r, FAR),
        lambda s, r: s.look_for_others(r, None),
    ],
    "store.next_alone": [lambda s, _: s.next_alone()],
    "store.next_policy_check": [lambda s, _: s.next_policy_check()],
    "store.check_policy_at": [
        lambda s, r: s.check_policy_at(r, FAR),
        lambda s, r: s.check_policy_at(r, None),
    ],
    "store.policy_resolved": [
        lambda s, r: s.policy_resolved(r, NOT_KNOWN, NOW, revision=0),
        lambda s, r: s.policy_resolved(r, NOT_KNOWN, NOW, revision=1),
        lambda s, r: s.policy_resolved(r, NOT_KNOWN, NOW, revision=2),
        lambda s, r: s.policy_resolved(r, NOT_KNOWN, NOW, revision=3),
    ],
    "store.next_review": [lambda s, _: s.next_review()],
    "store.review_later": [lambda s, r: s.review_later(r, FAR)],
    "invitations.undecided": [lambda s, _: s.invitations.undecided()],
    "invitations.to_join": [lambda s, _: s.invitations.to_join()],
    "invitations.to_decline": [lambda s, _: s.invitations.to_decline()],
    "invitations.move": [joining],
    "invitations.later": [
        lambda s, r: apply(s.invitations.later, invitation(s, r), FAR, counts=True)
    ],
    "invitations.ended": [lambda s, r: apply(s.invitations.ended, invitation(s, r))],
    "store.ask_review": [lambda s, r: s.ask_review(r)],
    "store.commit": [
        lambda s, r: commit(s, r, message("unknown"), message("a", NOW, "parent")),
        lambda s, r: commit(s, r, message("b", NOW, "only"), message("c", NOW, "p1")),
        lambda s, r: commit(s, r, gone("parent"), gone("sent"), gone("tail"), gone("page")),
        all_gone,
        lambda s, r: commit(s, r, said(r, "1 set", 1), said(r, "2 set", 2)),
        lambda s, r: commit(s, r, said(r, "one more"), undecryptable("one more")),
        lambda s, r: commit(s, r, undecided(r, "one more"), undecided(r, "asks")),
        lambda s, r: commit(s, r, message("new"), DefaultBegins(lifetime=1)),
        lambda s, r: commit(
            s, r, shows(r, "live"), encrypted=True, review=True, last_event_digest="x"
        ),
        lambda s, r: commit(s, r, sweep=sweep(r)),
        lambda s, r: commit(s, r, message("behind"), gap=gap(r)),
        lambda s, r: commit(s, r, Change(setting=0, sender=ALICE, digest="else")),
        lambda s, r: s.commit("s1", NOW, [], [Invite(room_id=r, inviter=None)]),
        lambda s, r: s.commit("s1", NOW, [], [Invite(room_id=r, inviter=ALICE)]),
        lambda s, r: s.commit("s1", NOW, [], [], [r]),
        lambda s, r: commit(s, r, dataclasses.replace(undecided(r, "x"), digest="of both")),
        come_back,
    ],
    "store.command_decided": [
        lambda s, r: apply(s.command_decided, pending(s, r), said(r, "asks", 2 * MINUTE), NOW),
        lambda s, r: apply(s.command_decided, pending(s, r), said(r, "asks"), NOW),
    ],
    "store.pending_command_later": [
        lambda s, r: apply(s.pending_command_later, pending(s, r), FAR)
    ],
    "store.next_pending_command": [lambda s, _: s.next_pending_command()],
    "store.defaults_published": [lambda s, r: s.defaults_published(r, ((0, 1),))],
    "store.media_done": [lambda s, r: apply(s.media_done, its_file(r))],
    "store.drop": [lambda s, r: apply(s.drop, timer(s, r, "late"))],
    "store.rooms_due": [lambda s, _: s.rooms_due(FAR, 0, 3)],
    "store.due": [lambda s, _: due_of(s, FAR, 3, backlog=False)],
    "store.children_due": [lambda s, _: s.children_due(FAR, [1, 2, 3], 3)],
    "store.media_later": [lambda s, r: apply(s.media_later, its_file(r), FAR)],
    "store.forget": [lambda s, r: s.forget(r, NOW)],
    "store.read_late": [
        off_late,
        lambda s, r: s.read_late(r, undecryptable("riddle"), [said(r, "heard")], NOW),
        lambda s, r: s.read_late(r, undecryptable("riddle"), [said(r, "hs", 9)], NOW),
        lambda s, r: s.read_late(r, undecryptable("riddle"), [shows(r, "live")], NOW),
    ],
    "store.next_to_deliver": [lambda s, _: s.next_to_deliver(setting=False)],
    "store.at_once": [
        lambda s, _: s.at_once(lambda timers: timers.rooms_due(FAR, 0, 3, backlog=False))
    ],
    "store.first_due": [lambda s, _: s.first_due()],
    "store.next_due": [lambda s, _: s.next_due(NOW)],
    "store.next_media": [lambda s, _: s.next_media()],
    "store.overdue": [lambda s, _: s.overdue(NOW)],
    "store.deliver_later": [lambda s, r: apply(s.deliver_later, entry(s, r), FAR)],
    "store.delivered": [lambda s, r: apply(s.delivered, entry(s, r), FAR)],
    "store.pending": [lambda s, r: s.pending(r)],
    "store.postpone": [lambda s, r: apply(s.postpone, timer(s, r, "late"), FAR)],
    "store.refusals": [lambda s, r: s.refusals(r)],
    "store.refused": [
        lambda s, r: apply(s.refused, timer(s, r, "late"), FAR, 9),
        lambda s, r: apply(s.refused, timer(s, r, "stuck"), FAR, 9),
    ],
    "store.take_back": [taken_back],
    "store.reviewed": [
        lambda s, r: s.reviewed(r, suspended=True, outgoing=[outgoing("k")], refusal_notified=True),
        lambda s, r: s.reviewed(r, suspended=False, outgoing=[outgoing("k")]),
        resumed,
    ],
    "store.room": [lambda s, r: s.room(r)],
    "store.rooms_of": [lambda s, r: s.rooms_of([r])],
    "store.rooms": [lambda s, _: s.rooms()],
    "store.sent": [
        lambda s, r: apply(s.sent, timer(s, r, "late"), NOW, FAR),
        lambda s, r: apply(s.sent, timer(s, r, "refused"), NOW, FAR),
    ],
    "store.to_review": [lambda s, _: s.to_review()],
    "store.unsent": [lambda s, r: apply(s.unsent, timer(s, r, "sent"), FAR)],
    "store.written": [written],
    "gaps.give_up": [lambda s, r: apply(s.gaps.give_up, its_gap(s, r), NOW)],
    "gaps.is_ready": [lambda s, _: s.gaps.is_ready()],
    "gaps.later": [lambda s, r: apply(s.gaps.later, its_gap(s, r), FAR)],
    "gaps.next_gap": [lambda s, _: s.gaps.next_gap()],
    "gaps.read_on": [read_on],
    "gaps.has_gap": [lambda s, r: s.gaps.has_gap(r)],
    "store.take_over": [lambda s, _: s.take_over(NOW)],
    "keys.key_requested": [lambda s, r: s.keys.key_requested(r, undecryptable("riddle").event_id)],
    "keys.waiting": [lambda s, _: s.keys.waiting()],
    "relations.answered": [
        lambda s, r: apply(s.relations.answered, relation(s, r), NOW, gone=True),
        lambda s, r: apply(s.relations.answered, relation(s, r), NOW, gone=False),
    ],
    "relations.found": [
        lambda s, r: apply(
            s.relations.found, timer(s, r, "late"), [message("live").event_id], loaded=True
        )
    ],
    "relations.make_due": [make_due],
    "relations.later": [lambda s, r: apply(s.relations.later, relation(s, r), FAR)],
    "relations.next_pending": [lambda s, _: s.relations.next_pending()],
    "sweeps.again": [lambda s, r: s.sweeps.again(sweep(r), FAR)],
    "sweeps.begin": [lambda s, r: s.sweeps.begin(dataclasses.replace(sweep(r), until=FAR))],
    "sweeps.end": [lambda s, r: s.sweeps.end(sweep(r))],
    "sweeps.give_up": [lambda s, r: s.sweeps.give_up(sweep(r))],
    "sweeps.later": [lambda s, r: s.sweeps.later(sweep(r), FAR)],
    "sweeps.left": [lambda s, _: s.sweeps.left()],
    "sweeps.next": [sweep_anew],
    "sweeps.read_on": [sweep_on],
    "successors.claim": [
        lambda s, r: s.successors.claim(pair(r, "next"), outgoing("closed"), now=NOW)
    ],
    "successors.follow": [lambda s, r: s.successors.follow(pair(r, "new"))],
    "successors.is_known": [lambda s, r: s.successors.is_known(RoomID(f"{r} new"), r)],
    "successors.later": [lambda s, r: s.successors.later(pair(r, "new"), FAR)],
    "successors.look_again": [
        look_again,
        lambda s, r: s.successors.look_again(RoomID(f"{r} new")),
    ],
    "successors.move": [
        enter_successor,
        lambda s, r: s.successors.move(pair(r, "new"), Stage.DONE, outgoing("moved"), where=r),
    ],
    "successors.next": [lambda s, _: s.successors.next()],
    "successors.of": [lambda s, r: s.successors.of(RoomID(f"{r} new"))],
}
