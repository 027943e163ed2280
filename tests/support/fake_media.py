"""A Synapse's files in memory, as its administrator sees them."""

from __future__ import annotations

from bot.core.outcomes import Done, NotFound, Outcome, OutcomeError
from bot.core.types import UserID
from tests.support.fake_clock import FakeClock
from tests.support.fake_requests import FakeRequests


class FakeMedia(FakeRequests):
    """What `bot.matrix.synapse.media.Media` offers to the services."""

    server = "example.org"

    def __init__(self, clock: FakeClock) -> None:
        super().__init__(clock)
        self.files: dict[str, UserID] = {}
        """Who uploaded each file."""
        self.protected: set[str] = set()
        self.looked_at: list[str] = []

    def upload(self, media_id: str, sender: UserID) -> str:
        """Add a file; return its address."""
        self.files[media_id] = sender
        return f"mxc://{self.server}/{media_id}"

    async def uploader(self, media_id: str) -> UserID | None:
        self.looked_at.append(media_id)
        async with self.question("uploader"):
            if media_id not in self.files:
                raise OutcomeError(NotFound())
            return None if media_id in self.protected else self.files[media_id]

    async def delete(self, media_id: str) -> Outcome:
        async with self.request("delete") as failure:
            if failure is not None:
                return failure
            return NotFound() if self.files.pop(media_id, None) is None else Done()

    async def usable(self) -> Outcome:
        async with self.request("usable") as failure:
            return failure or NotFound()
