"""What the homeserver's answers to questions mean."""

from __future__ import annotations

from typing import Any, cast

import pytest
from nio import AsyncClient

from bot.core.outcomes import (
    Done,
    Failed,
    Forbidden,
    NotFound,
    Outcome,
    OutcomeError,
    Refused,
    Unreachable,
)
from bot.core.types import EventID, RoomID
from bot.matrix.lookups import Lookups

ROOM, WHOLE, EDIT = RoomID("!room:example.org"), EventID("$whole"), EventID("$edit")
CHUNK = [
    {
        "type": "m.room.message",
        "event_id": EDIT,
        "content": {"m.relates_to": {"rel_type": "m.replace", "event_id": WHOLE}},
    }
]


class Asked(Lookups):
    """Questions that get these answers, in order."""

    def __init__(self, *answers: Outcome) -> None:
        super().__init__(cast("AsyncClient", None))
        self.left = list(answers)

    async def request(self, *_: Any, **__: Any) -> Outcome:
        return self.left.pop(0)


@pytest.mark.parametrize(
    "answer",
    [
        NotFound(),
        Failed(status=404, errcode="M_UNKNOWN"),
        Refused(status=404, errcode="M_UNRECOGNIZED"),
        Refused(status=405, errcode="M_UNRECOGNIZED"),
        Refused(status=501, errcode="M_UNRECOGNIZED"),
    ],
)
async def test_who_knows_no_relations_has_answered(answer: Outcome) -> None:
    assert await Asked(answer).relations(ROOM, WHOLE) == ([], True)
    first = Done(body={"chunk": CHUNK, "next_batch": "more"})
    assert await Asked(first, answer).relations(ROOM, WHOLE) == ([EDIT], True)


@pytest.mark.parametrize(
    "answer",
    [
        Failed(status=404),
        Failed(status=500, errcode="M_UNKNOWN"),
        Refused(status=400, errcode="M_UNKNOWN"),
        Forbidden(reason="M_FORBIDDEN"),
        Unreachable(reason="a web page, status 404", page=404),
    ],
)
async def test_who_failed_to_tell_relations_has_not_answered(answer: Outcome) -> None:
    with pytest.raises(OutcomeError):
        await Asked(answer).relations(ROOM, WHOLE)
