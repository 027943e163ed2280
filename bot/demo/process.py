"""Runs the real bot as a process of its own, with a real configuration file, for the audience."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

import bot

if TYPE_CHECKING:
    from bot.demo.homeserver import Account

START_TIMEOUT: Final = 30
"""Seconds that the bot has to log in; it takes one or two on an idle machine."""
STOP_TIMEOUT: Final = 5
"""Seconds between asking the bot to stop and killing it."""
READY: Final = "ready as"
"""What the bot writes into its log when it has logged in."""

DIRECTLY: Final = {"NO_PROXY": "*", "no_proxy": "*"}
"""The homeserver is on this machine, whatever proxy leads out of it."""

CONFIG: Final = """\
homeserver: {homeserver}
user_id: {user_id}
password: {password}
data_dir: {data_dir}
"""


class BotError(Exception):
    """The bot did not start, or ended by itself."""


class BotProcess:
    """`python -m bot run --config …`, with its files in `folder`."""

    def __init__(self, homeserver: str, account: Account, folder: Path) -> None:
        folder.mkdir(mode=0o700)
        self.user_id = account.user_id
        self.log_path = folder / "bot.log"
        self._config = folder / "config.yaml"
        values = {
            "homeserver": homeserver,
            "user_id": account.user_id,
            "password": account.password,
            "data_dir": str(folder / "data"),
        }
        # A JSON string is a YAML string, whatever is in it.
        self._config.write_text(CONFIG.format_map({k: json.dumps(v) for k, v in values.items()}))
        self._process: subprocess.Popen[bytes] | None = None

    async def __aenter__(self) -> Self:
        try:
            await self._start()
        except BaseException:
            await self._stop()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stop()

    def check(self) -> None:
        """Raise `BotError` when the bot is no longer running."""
        status = None if self._process is None else self._process.poll()
        if status is not None:
            raise BotError(f"the bot ended by itself (exit status {status})")

    async def _start(self) -> None:
        # The settings of another bot, which would overrule the file.
        others = [name for name in os.environ if name.upper().startswith("EPHEMERAL_BOT_")]
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(  # noqa: ASYNC220, S603 (our own interpreter)
                [sys.executable, "-m", "bot", "run", "--config", str(self._config)],
                # From here `-m bot` is this very package.
                cwd=Path(bot.__file__).parent.parent,
                env={name: value for name, value in os.environ.items() if name not in others}
                | DIRECTLY,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                # Ctrl-C is for the demonstration, which then stops the bot in order.
                start_new_session=True,
            )
        try:
            async with asyncio.timeout(START_TIMEOUT):
                while READY not in self.log_path.read_text(errors="replace"):
                    self.check()
                    await asyncio.sleep(0.05)
        except TimeoutError:
            raise BotError(f"the bot was not ready within {START_TIMEOUT} s") from None

    async def _stop(self) -> None:
        """Stop in order, or by force after five seconds. It is dead even if this is cancelled."""
        process, self._process = self._process, None
        if process is None:
            return
        try:
            process.terminate()
            await asyncio.to_thread(process.wait, STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            pass
        finally:
            process.kill()
            await asyncio.to_thread(process.wait)
