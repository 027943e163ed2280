"""What is found out with an administrator's token: the rate limit, and whose files may go."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from bot.attachments import FORBIDDEN, REJECTED, trouble_of
from bot.config import Settings
from bot.custody import CustodyError
from bot.limits import LIFTED, look, read_token
from bot.matrix.media import Media
from bot.model import NotFound, Outcome
from bot.schedule import describe


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One line of the list; good, with a remedy: it works, and could be better."""

    good: bool
    what: str
    remedy: str = ""


def short(outcome: Outcome) -> str:
    """Return what an operator may want to know of an answer, in a word or two."""
    return describe(outcome)


async def rate(settings: Settings, admin_token_file: Path | None) -> Finding:
    """Say which rate limit holds, as far as that can be seen: an account cannot see its own."""
    if settings.as_token_text():
        return Finding(
            good=True, what="rate limit: none, if the registration says rate_limited: false"
        )
    if admin_token_file is None:
        return Finding(
            good=True,
            what="rate limit: cannot be seen without an administrator's token",
            remedy="give one with --admin-token-file; lift-rate-limit lifts the limit",
        )
    try:
        found = await look(settings, read_token(admin_token_file))
    except CustodyError as error:
        return Finding(good=False, what="rate limit: cannot be seen", remedy=str(error))
    remedy = "" if found == LIFTED else "ephemeral-bot lift-rate-limit lifts it"
    return Finding(good=True, what=f"rate limit: {found}", remedy=remedy)


async def files(media: Media) -> Finding:
    """Try the administrator's token, and whether the homeserver says whose a file is."""
    try:
        outcome = await media.usable()
    finally:
        await media.close()
    if isinstance(outcome, NotFound):
        return Finding(good=True, what=f"files on {media.server} can be deleted")
    trouble = trouble_of(outcome)
    remedy = "give it an access token of a server administrator, and restart the bot"
    if trouble not in {REJECTED, FORBIDDEN}:
        remedy = "mend that, or set media.delete to false" if trouble else "try again later"
    return Finding(good=False, what=f"files: {trouble or short(outcome)}", remedy=remedy)
