"""The demonstration: a homeserver, the real bot and two people, for the length of one play."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import shutil
import signal
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

import aiohttp
from rich.console import Console

from bot.demo.homeserver import Homeserver, HomeserverError
from bot.demo.message import remaining, summary
from bot.demo.people import Device, DeviceError
from bot.demo.process import BotError, BotProcess
from bot.demo.screen import screen_for
from bot.demo.stage import ROOM_NAME, Play, set_up

if TYPE_CHECKING:
    from bot.core.types import RoomID
    from bot.demo.homeserver import Account
    from bot.demo.screen import Screen

INTERRUPTED: Final = 130
"""The exit status after Ctrl-C, as shells have it."""
STOPPED_BY: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
PREFIX: Final = "ephemeral-bot-demo-"

KEPT: Final = """
Everything keeps running. Log in with any Matrix client; Ctrl-C ends it.

  homeserver  {url}
{accounts}
  room        {name} ({room})

In the room, say !expire 1m, or !expire help.
"""


class DemoError(Exception):
    """The demonstration could not go on; the text says why, and where to look."""


def demo(*, keep: bool) -> int:
    """Show the bot at work; return the exit status.

    0: the homeserver confirmed that every message is gone. 1: some remained, or something did not
    work. 130: interrupted. With `keep` everything runs on after the play, until it is interrupted.
    """
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="replace")  # not every terminal has a thumbs-up
    return show(screen_for(Console()), keep=keep)


def show(screen: Screen, *, keep: bool = False) -> int:
    """Show the bot at work on `screen`; return the exit status as `demo` does."""
    # The libraries' complaints would tear the picture; what matters comes as an exception.
    logging.getLogger().addHandler(logging.NullHandler())
    try:
        with screen:
            return asyncio.run(_until_interrupted(screen, keep=keep))
    except DemoError as error:
        with contextlib.suppress(OSError):
            sys.stderr.write(f"ephemeral-bot: {error}\n")
        return 1
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # Nobody reads any more, and the interpreter is not to complain about that at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 1


async def _until_interrupted(screen: Screen, *, keep: bool) -> int:
    told = asyncio.Event()
    for number in STOPPED_BY:
        asyncio.get_running_loop().add_signal_handler(number, told.set)
    showing = asyncio.create_task(_show(screen, keep=keep))
    waiting = asyncio.create_task(told.wait())
    try:
        await asyncio.wait({showing, waiting}, return_when=asyncio.FIRST_COMPLETED)
        if showing.done():
            return showing.result()
        with contextlib.suppress(OSError):
            screen.doing("Stopping")
        # Once: another Ctrl-C does not interrupt the tidying up.
        showing.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await showing
        return INTERRUPTED
    finally:
        waiting.cancel()


async def _show(screen: Screen, *, keep: bool) -> int:
    """Put everything up in a temporary folder, and away again, however it ends."""
    with tempfile.TemporaryDirectory(prefix=PREFIX) as name:
        folder = Path(name)
        try:
            return await _act(screen, folder, keep=keep)
        except BrokenPipeError:
            raise
        except (HomeserverError, BotError, DeviceError, aiohttp.ClientError, OSError) as error:
            reason = str(error).partition("\n")[0].removesuffix("; its last lines:")
            raise DemoError(f"{reason}. {_save_logs(folder)}".rstrip()) from error


async def _act(screen: Screen, folder: Path, *, keep: bool) -> int:
    screen.doing("Starting a homeserver (Synapse, on this machine only)")
    async with contextlib.AsyncExitStack() as stack:
        server = await stack.enter_async_context(Homeserver(folder / "synapse"))
        accounts = {name: await server.register(name) for name in ("alice", "bob", "bot")}
        screen.doing("Starting the bot")
        bot = await stack.enter_async_context(
            BotProcess(server.url, accounts["bot"], folder / "bot")
        )
        screen.doing("Making an encrypted room")
        alice, bob = [
            await stack.enter_async_context(Device(server.url, accounts[name], folder / name))
            for name in ("alice", "bob")
        ]
        room = await set_up(alice, bob, bot)
        play = Play(alice=alice, bob=bob, bot=bot, room=room, screen=screen)
        await play.perform()
        remained = remaining(play.messages)
        screen.finish(summary(play.messages), well=not remained)
        if remained:
            screen.tell("\n".join([*remained, _save_logs(folder)]))
        if keep:
            screen.tell(_kept(server.url, accounts, room))
            while server.running:
                bot.check()
                await asyncio.sleep(0.2)
            raise HomeserverError("the homeserver ended by itself")
        return 1 if remained else 0


def _kept(url: str, accounts: dict[str, Account], room: RoomID) -> str:
    wide = max(len(account.user_id) for account in accounts.values())
    lines = [
        f"  {name:<10}  {account.user_id:<{wide}}  password {account.password}"
        for name, account in accounts.items()
    ]
    return KEPT.format(url=url, accounts="\n".join(lines), name=ROOM_NAME, room=room)


def _save_logs(folder: Path) -> str:
    """Copy the logs out of the folder that goes away; return where to look."""
    logs = [folder / "synapse" / "homeserver.log", folder / "bot" / "bot.log"]
    saved = []
    for log in logs:
        if log.exists() and log.stat().st_size:
            handle, copy = tempfile.mkstemp(prefix=PREFIX, suffix=f"-{log.name}")
            os.close(handle)
            shutil.copyfile(log, copy)
            saved.append(copy)
    return f"To look at: {', '.join(saved)}" if saved else ""
