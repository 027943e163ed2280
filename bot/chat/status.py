"""What the bot says when somebody asks how things stand. Purely from data to text."""

from __future__ import annotations

from typing import Protocol

from bot.chat import notices
from bot.chat.notices import Permission
from bot.core.durations import SECOND
from bot.core.durations import words as length
from bot.core.types import Millis


class Files(Protocol):
    """What the notice writer asks of whoever deletes files."""

    @property
    def server(self) -> str: ...  # noqa: D102
    @property
    def trouble(self) -> str: ...  # noqa: D102


class Behind(Protocol):
    """More is due than the homeserver lets through."""

    @property
    def late(self) -> int: ...  # noqa: D102
    @property
    def interval(self) -> Millis: ...  # noqa: D102


class Load(Protocol):
    """What the notice writer asks of whoever redacts."""

    @property
    def behind(self) -> Behind | None: ...  # noqa: D102


def status(
    lifetime: Millis | None,
    *,
    pending: int,
    next_in: Millis | None,
    permission: Permission | None,
    reading: bool,
    refused: int = 0,
    trouble: str = "",
    files: str = "",
    slow: str = "",
) -> str:
    """Say what is set, what is waiting or refused, and whether the bot can do its work."""
    waiting = pending - refused
    text = "Messages stay: no lifetime is set."
    if lifetime is not None:
        text = f"Messages disappear after {length(lifetime)}."
    if waiting:
        text += " 1 is waiting" if waiting == 1 else f" {notices.figure(waiting)} are waiting"
    if waiting and next_in is not None:
        whole = max(0, next_in) // SECOND * SECOND
        text += f"; the next goes in {length(whole)}." if whole else "; the next goes now."
    if refused:
        text += (
            f" The server does not let me remove {notices.messages(refused)} that should be gone."
        )
    if lifetime is not None or pending:
        text += f" {files or files_stay()}"
    if reading:
        text += " I am still reading what was said while I was away."
    if permission is not None and not permission.suffices:
        text += f" {notices.paused(permission)}"
    if slow:
        text += f" {slow}"
    if trouble:
        text += f" {notices.distrusted(trouble)}"
    return text


def slow(late: int, interval: Millis) -> str:
    """Say that a rate limit is in the way, which only the operator can lift."""
    every = length(max(SECOND, round(interval / SECOND) * SECOND))
    return (
        f"The server lets me remove one message in {every}, and {notices.figure(late)} are late in"
        " all. My operator can lift that limit."
    )


def files_stay() -> str:
    """Say that only the message goes, and not the file it shows."""
    return "Their files stay on the server."


def files_go(server: str) -> str:
    """Say whose copies of files go with their messages."""
    return f"Their files on {server} are deleted too."


def files_wait() -> str:
    """Say that files stay until the operator has mended something."""
    return "Their files stay for now: my operator should look at my log."
