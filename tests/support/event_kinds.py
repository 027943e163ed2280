"""Every kind of event that clients are known to send, with a word of its own in every text."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field, replace
from typing import Any

_words = itertools.count(1)


@dataclass(frozen=True, kw_only=True)
class Kind:
    """An event to be sent: `~` in its content is its word, `^` the event it belongs to."""

    name: str
    type: str
    content: dict[str, Any]
    parent: str = ""
    """The kind that `^` stands for."""
    clear: bool = False
    """Sent in clear in encrypted rooms too, in all of Matrix."""
    word: str = field(default_factory=lambda: f"zyx{next(_words)}q")

    def filled(self, parent: str = "") -> dict[str, Any]:
        """Return the content to send."""
        content: dict[str, Any] = _filled(self.content, self.word, parent)
        return content


def _filled(value: Any, word: str, parent: str) -> Any:
    if isinstance(value, dict):
        return {_filled(k, word, parent): _filled(v, word, parent) for k, v in value.items()}
    if isinstance(value, list):
        return [_filled(one, word, parent) for one in value]
    if isinstance(value, str):
        return value.replace("~", word).replace("^", parent)
    return value


def _message(msgtype: str, **more: Any) -> dict[str, Any]:
    return {"msgtype": msgtype, "body": "a ~ here"} | more


def _media(msgtype: str, **more: Any) -> dict[str, Any]:
    info = {"mimetype": "image/~", "thumbnail_url": "mxc://demo.localhost/~t", "size": 7}
    return _message(msgtype, url="mxc://demo.localhost/~", filename="~.bin", info=info, **more)


def _relation(rel_type: str, **more: Any) -> dict[str, Any]:
    return {"m.relates_to": {"rel_type": rel_type, "event_id": "^"} | more}


def _edit() -> dict[str, Any]:
    new = {"msgtype": "m.text", "body": "new ~", "formatted_body": "<b>~</b>"}
    return _message("m.text", **{"m.new_content": new}) | _relation("m.replace")


def _call(**more: Any) -> dict[str, Any]:
    return {"call_id": "~", "party_id": "~", "version": "1"} | more


def _step(**more: Any) -> dict[str, Any]:
    return {"from_device": "~"} | _relation("m.reference") | more


FALLBACK = "> <@alice:demo.localhost> ~\n\nmy answer ~"
REPLY = {"m.relates_to": {"m.in_reply_to": {"event_id": "^"}}}
THREAD = _relation("m.thread", is_falling_back=True, **{"m.in_reply_to": {"event_id": "^"}})
OFFER = {"type": "offer", "sdp": "v=0 ~"}
TEXT_PART = [{"body": "~", "mimetype": "text/plain"}]
ANSWERS = [{"m.id": "~", "m.text": TEXT_PART}, {"m.id": "other", "m.text": TEXT_PART}]
OLD_ANSWERS = [{"id": "~", "org.matrix.msc1767.text": "~"}]
OLD_POLL = {
    "question": {"org.matrix.msc1767.text": "~"},
    "kind": "org.matrix.msc3381.poll.disclosed",
    "max_selections": 1,
    "answers": OLD_ANSWERS,
}
REQUEST = _message(
    "m.key.verification.request", from_device="~", methods=["m.sas.v1"], to="@~:demo.localhost"
)

KINDS = [
    Kind(name="text", type="m.room.message", content=_message("m.text", formatted_body="~")),
    Kind(name="notice", type="m.room.message", content=_message("m.notice")),
    Kind(name="emote", type="m.room.message", content=_message("m.emote")),
    Kind(name="image", type="m.room.message", content=_media("m.image")),
    Kind(name="video", type="m.room.message", content=_media("m.video")),
    Kind(name="audio", type="m.room.message", content=_media("m.audio")),
    Kind(
        name="voice",
        type="m.room.message",
        content=_media("m.audio", **{"org.matrix.msc3245.voice": {"~": "~"}}),
    ),
    Kind(name="file", type="m.room.message", content=_media("m.file")),
    Kind(
        name="location", type="m.room.message", content=_message("m.location", geo_uri="geo:1,2;~")
    ),
    Kind(name="sticker", type="m.sticker", content={"body": "~", "url": "mxc://x/~", "info": {}}),
    Kind(name="mention", type="m.room.message", content=_message("m.text") | {"m.mentions": {}}),
    # relations
    Kind(
        name="reaction",
        type="m.reaction",
        content=_relation("m.annotation", key="~"),
        parent="text",
        clear=True,
    ),
    Kind(name="edit", type="m.room.message", content=_edit(), parent="text"),
    Kind(name="second edit", type="m.room.message", content=_edit(), parent="text"),
    Kind(name="edit of the edit", type="m.room.message", content=_edit(), parent="edit"),
    Kind(
        name="reaction to the edit",
        type="m.reaction",
        content=_relation("m.annotation", key="~"),
        parent="edit",
        clear=True,
    ),
    Kind(
        name="reply",
        type="m.room.message",
        content=_message("m.text") | {"body": FALLBACK} | REPLY,
        parent="text",
    ),
    Kind(
        name="thread reply",
        type="m.room.message",
        content=_message("m.text") | THREAD,
        parent="notice",
    ),
    Kind(
        name="edit of the thread reply",
        type="m.room.message",
        content=_edit(),
        parent="thread reply",
    ),
    Kind(
        name="reaction in the thread",
        type="m.reaction",
        content=_relation("m.annotation", key="~"),
        parent="thread reply",
        clear=True,
    ),
    Kind(
        name="reference",
        type="m.room.message",
        content=_message("m.text") | _relation("m.reference"),
        parent="emote",
    ),
    # polls
    Kind(
        name="poll",
        type="m.poll.start",
        content={"m.poll": {"question": {"m.text": TEXT_PART}, "answers": ANSWERS}},
    ),
    Kind(
        name="poll vote",
        type="m.poll.response",
        content={"m.selections": ["~"]} | _relation("m.reference"),
        parent="poll",
    ),
    Kind(
        name="poll end",
        type="m.poll.end",
        content={"m.text": TEXT_PART, "m.poll.results": {"~": 1}} | _relation("m.reference"),
        parent="poll",
    ),
    Kind(
        name="poll of today",
        type="org.matrix.msc3381.poll.start",
        content={"org.matrix.msc3381.poll.start": OLD_POLL, "org.matrix.msc1767.text": "~"},
    ),
    Kind(
        name="poll vote of today",
        type="org.matrix.msc3381.poll.response",
        content={"org.matrix.msc3381.poll.response": {"answers": ["~"]}} | _relation("m.reference"),
        parent="poll of today",
    ),
    Kind(
        name="poll edit of today",
        type="org.matrix.msc3381.poll.start",
        content={"m.new_content": {"org.matrix.msc3381.poll.start": OLD_POLL}, "x": "~"}
        | _relation("m.replace"),
        parent="poll of today",
    ),
    Kind(
        name="poll end of today",
        type="org.matrix.msc3381.poll.end",
        content={"org.matrix.msc3381.poll.end": {}, "org.matrix.msc1767.text": "~"}
        | _relation("m.reference"),
        parent="poll of today",
    ),
    # live location; `beacon_info` is state
    Kind(
        name="beacon",
        type="org.matrix.msc3672.beacon",
        content={"org.matrix.msc3488.location": {"uri": "geo:1,2;~"}} | _relation("m.reference"),
        parent="location",
    ),
    # calls
    Kind(name="call invite", type="m.call.invite", content=_call(offer=OFFER, lifetime=9)),
    Kind(
        name="call candidates",
        type="m.call.candidates",
        content=_call(candidates=[{"candidate": "~", "sdpMid": "~", "sdpMLineIndex": 0}]),
    ),
    Kind(name="call answer", type="m.call.answer", content=_call(answer=OFFER)),
    Kind(name="call hangup", type="m.call.hangup", content=_call(reason="~")),
    Kind(name="call reject", type="m.call.reject", content=_call()),
    Kind(name="call select answer", type="m.call.select_answer", content=_call()),
    Kind(name="call negotiate", type="m.call.negotiate", content=_call(description=OFFER)),
    Kind(
        name="call notify",
        type="m.call.notify",
        content={"call_id": "~", "notify_type": "ring", "application": "m.call"},
    ),
    Kind(
        name="call notification",
        type="org.matrix.msc4075.rtc.notification",
        content={"notification_type": "ring", "x": "~"} | _relation("m.reference"),
        parent="text",
    ),
    Kind(
        name="call encryption keys",
        type="io.element.call.encryption_keys",
        content={"keys": [{"index": 0, "key": "~"}], "device_id": "~"},
    ),
    # verification
    Kind(name="verification request", type="m.room.message", content=REQUEST),
    *(
        Kind(
            name=f"verification {step}",
            type=f"m.key.verification.{step}",
            content=_step(key="~"),
            parent="verification request",
        )
        for step in ("ready", "start", "accept", "key", "mac", "done", "cancel")
    ),
    # what no client knows
    Kind(name="custom type", type="org.example.custom", content={"~": {"~": ["~"]}}),
    Kind(name="odd text", type="m.room.message", content={"msgtype": "", "body": "", "x": ["~"]}),
    Kind(name="unknown msgtype", type="m.room.message", content=_message("org.example.x")),
]


def all_kinds() -> list[Kind]:
    """Return every kind, each with a word that no other call has."""
    return [replace(kind, word=f"zyx{next(_words)}q") for kind in KINDS]
