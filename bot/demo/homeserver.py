"""Runs a real Synapse as a child process on loopback, for the demonstration and for the tests."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import importlib.util
import logging
import secrets
import socket
import subprocess
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Self

import aiohttp

from bot.core.types import UserID
from bot.demo.synapse_config import write_config

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from bot.demo.synapse_config import Limits

logger = logging.getLogger(__name__)

START_TIMEOUT: Final = 60
"""Seconds that Synapse has to answer; it takes one or two on an idle machine."""

STOP_TIMEOUT: Final = 5
"""Seconds between asking Synapse to stop and killing it."""

# The pipe on standard input is the leash: it closes when this process ends, however it ends, and
# then the child ends too. In its own session the child does not get the terminal's Ctrl-C, so the
# bot can still say goodbye to a living homeserver.
CHILD: Final = """
import os, threading
def leash():
    os.read(0, 1)
    os._exit(1)
threading.Thread(target=leash, daemon=True).start()
from synapse.app.homeserver import main
main()
"""


class HomeserverError(Exception):
    """Synapse is missing, did not start, or refused an administrative request."""


class PortTakenError(HomeserverError):
    """Somebody else took the port between the choice and the start."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """A local account and one logged-in device of it."""

    user_id: UserID
    password: str = field(repr=False)
    access_token: str = field(repr=False)
    device_id: str


class Homeserver:
    """A Synapse on a free loopback port with its data in `folder`; nothing leaves the machine.

    `extra` replaces top-level keys of Synapse's configuration, for instance
    `{"redaction_retention_period": "1s"}`. As an async context manager it starts and stops.
    """

    def __init__(
        self,
        folder: Path,
        *,
        server_name: str = "demo.localhost",
        limits: Limits = "lifted",
        extra: Mapping[str, Any] | None = None,
    ) -> None:
        self.folder = folder.resolve()
        self.server_name = server_name
        self.log_path = self.folder / "homeserver.log"
        self._limits = limits
        self._extra = dict(extra or {})
        self._shared_secret = secrets.token_hex(32)
        self._port = 0
        self._child: subprocess.Popen[bytes] | None = None
        self._admin: Account | None = None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    @property
    def url(self) -> str:
        """The base URL; it stays the same over restarts. There is none before the first start."""
        if not self._port:
            raise HomeserverError("the homeserver has not been started")
        return f"http://127.0.0.1:{self._port}"

    @property
    def running(self) -> bool:
        """Whether the process is alive."""
        return self._child is not None and self._child.poll() is None

    @property
    def pid(self) -> int:
        """The number of its process, while it runs."""
        if self._child is None:
            raise HomeserverError("the homeserver is not running")
        return self._child.pid

    async def start(self) -> None:
        """Start, or start again with the same port and data; return when clients are answered.

        Raises `HomeserverError` with the end of Synapse's log if it dies or stays silent.
        """
        if self.running:
            return
        if importlib.util.find_spec("synapse") is None:
            raise HomeserverError(
                "Synapse is not installed; it comes with: pip install 'matrix-ephemeral-bot[demo]'"
            )
        try:
            await self._start_on(self._port or _free_port())
        except PortTakenError:
            if self._port:
                raise
            await self._start_on(_free_port())

    async def stop(self) -> None:
        """Stop in order, or by force after five seconds. Does nothing when it is not running."""
        child, self._child = self._child, None
        if child is None:
            return
        try:
            child.terminate()
            await asyncio.to_thread(child.wait, STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            logger.warning("the homeserver did not stop within %d s and is killed", STOP_TIMEOUT)
        finally:
            await _end(child)

    async def kill(self) -> None:
        """End at once, as a crash would; the data stays. Does nothing when it is not running."""
        child, self._child = self._child, None
        if child is not None:
            await _end(child)

    async def register(
        self,
        localpart: str,
        password: str | None = None,
        admin: bool = False,
        *,
        display_name: str | None = None,
    ) -> Account:
        """Make an account through the shared-secret API, which no rate limit slows down.

        Without a password a random one is made. Raises `HomeserverError` if the name is taken.
        """
        password = password or secrets.token_urlsafe(16)
        path = "/_synapse/admin/v1/register"
        nonce = (await self._request("GET", path))["nonce"]
        fields = (nonce, localpart, password, "admin" if admin else "notadmin")
        body = {
            "nonce": nonce,
            "username": localpart,
            "displayname": display_name or localpart,
            "password": password,
            "admin": admin,
            "mac": hmac.digest(
                self._shared_secret.encode(), "\0".join(fields).encode(), "sha1"
            ).hex(),
        }
        return _account(await self._request("POST", path, body), password)

    async def login(self, localpart: str, password: str, device_id: str | None = None) -> Account:
        """Log in with a password: a new device, or the named one again."""
        body = {
            "type": "m.login.password",
            "identifier": {"type": "m.id.user", "user": localpart},
            "password": password,
        }
        if device_id is not None:
            body["device_id"] = device_id
        return _account(await self._request("POST", "/_matrix/client/v3/login", body), password)

    async def admin_token(self) -> str:
        """Return the access token of a server administrator, made on the first call."""
        if self._admin is None:
            self._admin = await self.register(f"admin-{secrets.token_hex(4)}", admin=True)
        return self._admin.access_token

    async def _request(self, method: str, path: str, body: Any = None) -> dict[str, Any]:
        async with (
            aiohttp.ClientSession(self.url) as http,
            http.request(method, path, json=body) as answer,
        ):
            content: dict[str, Any] = await answer.json()
            if answer.status != 200:
                raise HomeserverError(f"{method} {path}: {answer.status} {content.get('error')}")
            return content

    async def _start_on(self, port: int) -> None:
        config = write_config(
            self.folder,
            port=port,
            server_name=self.server_name,
            shared_secret=self._shared_secret,
            limits=self._limits,
            extra=self._extra,
        )
        log_start = self.log_path.stat().st_size if self.log_path.exists() else 0
        child = self._spawn(config)
        started = False
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(START_TIMEOUT):
                    started = await _answers(child, f"http://127.0.0.1:{port}")
        finally:
            if not started:
                await _end(child)
        if not started:
            raise self._failure(child.returncode, log_start)
        self._port, self._child = port, child

    def _spawn(self, config: Path) -> subprocess.Popen[bytes]:
        with self.log_path.open("ab") as log:
            return subprocess.Popen(  # noqa: S603 (our own interpreter with our own arguments)
                [sys.executable, "-P", "-c", CHILD, "-c", str(config)],
                cwd=self.folder,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def _failure(self, status: int, log_start: int) -> HomeserverError:
        with self.log_path.open("rb") as log:
            log.seek(log_start)
            said = log.read().decode(errors="replace")
        tail = "\n".join(said.splitlines()[-20:])
        kind = PortTakenError if "Address already in use" in said else HomeserverError
        return kind(f"Synapse did not start (exit status {status}); its last lines:\n{tail}")


def _account(answer: Mapping[str, Any], password: str) -> Account:
    return Account(
        user_id=UserID(answer["user_id"]),
        password=password,
        access_token=answer["access_token"],
        device_id=answer["device_id"],
    )


async def _answers(child: subprocess.Popen[bytes], url: str) -> bool:
    """Wait for an answer from `url`; False when the child ended before there was one."""
    # A stranger on the port may accept and never answer: look at the child again soon.
    timeout = aiohttp.ClientTimeout(total=2)
    async with aiohttp.ClientSession(timeout=timeout) as http:
        while child.poll() is None:
            with contextlib.suppress(aiohttp.ClientError, TimeoutError):
                async with http.get(f"{url}/_matrix/client/versions") as answer:
                    # The port could be answered by whoever kept our child from having it.
                    if answer.status == 200 and child.poll() is None:
                        return True
            await asyncio.sleep(0.02)
    return False


async def _end(child: subprocess.Popen[bytes]) -> None:
    """Kill what is left of the child and collect it. It is dead even if this is cancelled."""
    child.kill()
    if child.stdin is not None:
        child.stdin.close()
    await asyncio.to_thread(child.wait)


def _free_port() -> int:
    """Return a free loopback port.

    It is below the range that outgoing connections draw from, so that nobody is given it while
    the homeserver is stopped between two starts.
    """
    for _ in range(100):
        port = 20_000 + secrets.randbelow(10_000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise HomeserverError("no free port between 20000 and 29999 on 127.0.0.1")
