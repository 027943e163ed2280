"""What alice and bob say in the demonstration: one of every kind, so that one sees them all go."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bot.core.types import EventID, Millis

LIFETIME: Final[Millis] = 5_000
COMMAND: Final = "!expire 5s"
ANNOUNCED: Final = "set disappearing messages to 5 seconds"
"""What the bot answers to `COMMAND`."""

MEDIA: Final = "mxc://demo.localhost/nothing-was-uploaded-here"


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One thing that somebody sends."""

    who: Literal["alice", "bob"]
    what: str
    """The kind of message, as the audience is told."""
    text: str
    """What the audience reads."""
    kind: str = "m.room.message"
    content: dict[str, Any]
    relation: dict[str, Any] = field(default_factory=dict)
    to: int | None = None
    """Which line it is about, counted from the first."""
    answer: str = ""
    """Words of the bot to wait for before the next line."""

    def content_after(self, sent: Sequence[EventID]) -> dict[str, Any]:
        """Return the event's content, once the earlier lines have the ids `sent`."""
        if self.to is None:
            return self.content
        about = {"event_id": sent[self.to]}
        relation = self.relation | about if self.relation else {"m.in_reply_to": about}
        return self.content | {"m.relates_to": relation}


def _text(body: str) -> dict[str, Any]:
    return {"msgtype": "m.text", "body": body}


def _annotates(key: str) -> dict[str, Any]:
    return {"rel_type": "m.annotation", "key": key}


POLL: Final = {
    "m.text": [{"body": "Pizza or pasta? 1. pizza 2. pasta"}],
    "m.poll": {
        "kind": "m.disclosed",
        "max_selections": 1,
        "question": {"m.text": [{"body": "Pizza or pasta?"}]},
        "answers": [
            {"m.id": "pizza", "m.text": [{"body": "pizza"}]},
            {"m.id": "pasta", "m.text": [{"body": "pasta"}]},
        ],
    },
}

SCRIPT: Final = (
    Line(who="alice", what="command", text=COMMAND, content=_text(COMMAND), answer=ANNOUNCED),
    Line(
        who="bob",
        what="text",
        text="Is this where nothing stays?",
        content=_text("Is this where nothing stays?"),
    ),
    Line(
        who="alice",
        what="reply",
        text="Give it five seconds.",
        content=_text("Give it five seconds."),
        to=1,
    ),
    Line(
        who="bob",
        what="m.reaction",
        text="👍",
        kind="m.reaction",
        content={},
        relation=_annotates("👍"),
        to=2,
    ),
    Line(
        who="alice",
        what="text",
        text="The code for the door is 4711",
        content=_text("The code for the door is 4711"),
    ),
    Line(
        who="alice",
        what="edit",
        text="The code for the door is 4712",
        content=_text("* The code for the door is 4712")
        | {"m.new_content": _text("The code for the door is 4712")},
        relation={"rel_type": "m.replace"},
        to=4,
    ),
    Line(
        who="bob",
        what="m.sticker",
        text="a cat that waves",
        kind="m.sticker",
        content={"body": "a cat that waves", "url": MEDIA, "info": {"w": 256, "h": 256}},
    ),
    Line(
        who="alice",
        what="m.image",
        text="floor-plan.png",
        content={"msgtype": "m.image", "body": "floor-plan.png", "url": MEDIA},
    ),
    Line(who="bob", what="m.poll.start", text="Pizza or pasta?", kind="m.poll.start", content=POLL),
    Line(
        who="alice",
        what="m.poll.response",
        text="pasta",
        kind="m.poll.response",
        content={"m.selections": ["pasta"]},
        relation={"rel_type": "m.reference"},
        to=8,
    ),
    Line(
        who="bob",
        what="m.location",
        text="geo:51.5008,-0.1247",
        content={
            "msgtype": "m.location",
            "body": "Under the clock",
            "geo_uri": "geo:51.5008,-0.1247",
        },
    ),
    Line(
        who="alice",
        what="com.example.die",
        text='{"rolled": 6}',
        kind="com.example.die",
        content={"rolled": 6},
    ),
    Line(
        who="bob",
        what="command",
        text="!expire status",
        content=_text("!expire status"),
        answer="Messages disappear after 5 seconds",
    ),
    Line(
        who="alice",
        what="text",
        text="Good. This goes as well.",
        content=_text("Good. This goes as well."),
    ),
)
