"""The homeserver's own files, as its administrator may look at them and delete them."""

from __future__ import annotations

from typing import Final

from bot.core.outcomes import (
    Done,
    Failed,
    NotFound,
    Outcome,
    OutcomeError,
    Refused,
    TokenRejectedError,
)
from bot.core.types import UserID
from bot.matrix.synapse.admin import Admin, path

NOWHERE: Final = "ephemeral-bot-asks-whether-it-may"
"""The id of no file: whoever may ask is told that there is none."""


class Media:
    """The files that were uploaded to one Synapse."""

    def __init__(self, admin: Admin, server: str) -> None:
        self._admin = admin
        self.server = server
        """The server name that the files' addresses begin with."""

    async def uploader(self, media_id: str) -> UserID | None:
        """Return who uploaded a file; `None` when an administrator has a hand in it.

        That is a file which one protected from quarantine, or put there.
        Raises `OutcomeError`: `NotFound` for a file that is not there.
        """
        outcome = await self._admin.request("GET", path("v1", "media", self.server, media_id))
        if not isinstance(outcome, Done):
            raise OutcomeError(outcome)
        info = outcome.body.get("media_info")
        if not isinstance(info, dict):
            raise OutcomeError(Failed(status=200))
        kept = info.get("safe_from_quarantine") or info.get("quarantined_by")
        user_id = info.get("user_id")
        return None if kept or not isinstance(user_id, str) else UserID(user_id)

    async def delete(self, media_id: str) -> Outcome:
        """Delete a file and its thumbnails. `NotFound`: it is gone already."""
        outcome = await self._admin.request("DELETE", path("v1", "media", self.server, media_id))
        gone = outcome.body.get("deleted_media") if isinstance(outcome, Done) else [media_id]
        if not isinstance(gone, list) or media_id not in gone:
            # Synapse answers 200 also when its disk did not let the file go.
            return Failed(status=200)
        return outcome

    async def usable(self) -> Outcome:
        """Ask for a file that is not there: `NotFound` means that files can be deleted."""
        try:
            await self.uploader(NOWHERE)
        except OutcomeError as error:
            return error.outcome
        except TokenRejectedError as error:
            return Refused(status=401, errcode=str(error))
        return NotFound()

    async def close(self) -> None:
        """Close the connections."""
        await self._admin.close()
