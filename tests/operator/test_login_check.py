"""The login with which `check` looks at things may end while it does."""

from __future__ import annotations

import pytest

from bot.core.outcomes import TokenRejectedError
from bot.operator.login_check import Finding, Visit


class Renewed(Visit):
    """Has another login whenever it needs one."""

    def __init__(self) -> None:
        self.logins = 0

    async def _by_password(self, works: str) -> Finding:
        self.logins += 1
        return Finding(good=True, what=works)


@pytest.mark.parametrize("ends", [0, 1])
async def test_a_login_that_ends_meanwhile_is_followed_by_the_next(ends: int) -> None:
    visit, asked = Renewed(), 0

    async def ask() -> str:
        nonlocal asked
        asked += 1
        if asked <= ends:
            raise TokenRejectedError("M_UNKNOWN_TOKEN")
        return "answer"

    assert await visit.carry(ask) == "answer"
    assert visit.logins == ends


async def test_a_login_that_ends_again_is_told() -> None:
    visit = Renewed()

    async def ask() -> str:
        raise TokenRejectedError("M_UNKNOWN_TOKEN")

    with pytest.raises(TokenRejectedError):
        await visit.carry(ask)
    assert visit.logins == 1
