"""What a room is owed when more waits for it than anybody reads."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from bot.core.outbox import (
    MOST_IMPORTANT,
    MOST_WAITING,
    AnswerHelp,
    Content,
    Outgoing,
    Resumed,
    SetPolicy,
    admitted,
)
from bot.core.types import UserID

HELP, NEWS = AnswerHelp(), Resumed()
POLICY = SetPolicy(setting=1, sender=UserID("@alice:example.org"), base="", was=None)


def owed(*contents: Content) -> list[Outgoing]:
    return [Outgoing(key=f"{number}", content=one) for number, one in enumerate(contents)]


def kinds(waiting: int, *contents: Content) -> list[Content]:
    return [one.content for one in admitted(owed(*contents), waiting)]


def test_answers_stop_at_their_bound() -> None:
    assert kinds(MOST_WAITING - 1, HELP, HELP) == [HELP]
    assert kinds(MOST_WAITING, HELP) == []


def test_what_tells_of_messages_goes_on_to_a_bound_of_its_own() -> None:
    assert kinds(MOST_WAITING, HELP, NEWS, HELP, NEWS) == [NEWS, NEWS]
    assert kinds(MOST_IMPORTANT - 1, NEWS, NEWS) == [NEWS]
    assert kinds(MOST_IMPORTANT, NEWS) == []


def test_a_lifetime_is_set_always() -> None:
    assert kinds(10 * MOST_IMPORTANT, HELP, POLICY, NEWS) == [POLICY]


@given(
    waiting=st.integers(0, 2 * MOST_IMPORTANT),
    contents=st.lists(st.sampled_from([HELP, NEWS, POLICY]), max_size=400),
)
def test_the_order_stays_and_no_bound_is_passed(waiting: int, contents: list[Content]) -> None:
    outgoing = owed(*contents)
    found = admitted(outgoing, waiting)
    assert [one for one in outgoing if one in found] == found
    notices = [one for one in found if one.content != POLICY]
    assert len(notices) + waiting <= max(MOST_IMPORTANT, waiting)
    assert sum(one.content == POLICY for one in found) == contents.count(POLICY)
