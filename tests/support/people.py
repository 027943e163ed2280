"""The people of the tests, and the one who brings them into being."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

from tests.support.encrypted_person import EncryptedPerson, Heard
from tests.support.person import ApiError, Person, wait_until

if TYPE_CHECKING:
    from pathlib import Path

    from bot.demo.homeserver import Account, Homeserver

__all__ = ["ApiError", "EncryptedPerson", "Heard", "People", "Person", "wait_until"]

# Across all homeservers of a run, so that a log names one person only.
_numbers = itertools.count(1)


class People:
    """Makes people on one homeserver, with a number in each name, and closes them all."""

    def __init__(self, homeserver: Homeserver, folder: Path) -> None:
        self._homeserver = homeserver
        self._folder = folder
        self._made: list[Person] = []

    async def __call__(self, name: str) -> Person:
        """Return a new person: `alice` becomes `@alice-<n>`."""
        person = Person(self._homeserver.url, await self._register(name))
        self._made.append(person)
        return person

    async def encrypted(self, name: str) -> EncryptedPerson:
        """Return a new person with a syncing, encrypting device."""
        account = await self._register(name)
        person = EncryptedPerson(
            self._homeserver.url, account, self._folder / account.user_id.split(":")[0]
        )
        self._made.append(person)
        await person.start()
        return person

    async def log_out_everywhere(self, user_id: str, password: str) -> None:
        """Revoke every access token of an account, as its owner can."""
        account = await self._homeserver.login(user_id.split(":", maxsplit=1)[0][1:], password)
        person = Person(self._homeserver.url, account)
        self._made.append(person)
        await person.call("POST", "logout", "all", body={})

    async def close(self) -> None:
        for person in self._made:
            await person.close()

    async def _register(self, name: str) -> Account:
        return await self._homeserver.register(f"{name}-{next(_numbers)}", display_name=name)
