"""Two real homeservers that federate over loopback, and the link between them, which can be cut."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import ipaddress
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from bot.demo.homeserver import Homeserver, _free_port
from bot.demo.synapse_config import UNLIMITED
from tests.support.bot_process import Bots
from tests.support.people import ApiError, People, Person

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping
    from pathlib import Path

HOST: Final = "127.0.0.1"
OUTAGE: Final = "2h"
"""How long a homeserver waits after one failure before it tries the other one again.

Synapse begins with ten minutes and doubles. Beyond an hour it no longer keeps what it could not
send: it sends the newest event of each room alone, and the other side has to ask for the rest.
"""


class Link:
    """What the others know a homeserver by: a port that passes everything on, unless it is cut."""

    def __init__(self) -> None:
        self.target = 0
        """The port of the homeserver's federation listener."""
        self.port = 0
        self._server: asyncio.Server | None = None
        self._passing: set[asyncio.StreamWriter] = set()
        self._is_cut = False

    async def open(self) -> None:
        """Take a port and keep it: it is part of the homeserver's name."""
        self._server = await asyncio.start_server(self._pass, HOST, 0)
        self.port = self._server.sockets[0].getsockname()[1]

    def cut(self) -> None:
        """Break what is open off, and let nothing through."""
        self._is_cut = True
        for writer in self._passing:
            writer.transport.abort()

    def heal(self) -> None:
        """Let everything through again."""
        self._is_cut = False

    async def close(self) -> None:
        self.cut()
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            if not self._is_cut:
                far_reader, far_writer = await asyncio.open_connection(HOST, self.target)
                both = {writer, far_writer}
                self._passing |= both
                await asyncio.gather(pump(reader, far_writer), pump(far_reader, writer))
                self._passing -= both
        writer.transport.abort()


async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(65_536):
            writer.write(data)
            await writer.drain()
    writer.transport.abort()


class FederatedHomeserver(Homeserver):
    """A Synapse that others reach through a link, with a certificate of its own making."""

    def __init__(self, folder: Path, link: Link, extra: Mapping[str, Any] | None = None) -> None:
        self.link = link
        certificate, key = self_signed(folder)
        super().__init__(
            folder,
            server_name=f"{HOST}:{link.port}",
            extra={
                "tls_certificate_path": str(certificate),
                "tls_private_key_path": str(key),
                "federation_domain_whitelist": None,
                "federation_verify_certificates": False,
                "ip_range_blacklist": [],
                "federation_ip_range_blacklist": [],
                "allow_profile_lookup_over_federation": True,
                "rc_federation": {"concurrent": 1_000, "reject_limit": 1_000, "sleep_limit": 1_000},
                "rc_presence": {"per_user": UNLIMITED},
                "federation": {
                    "max_short_retries": 0,
                    "max_long_retries": 0,
                    "client_timeout": "10s",
                    "destination_min_retry_interval": OUTAGE,
                    "destination_max_retry_interval": OUTAGE,
                },
                **(extra or {}),
            },
        )

    async def _start_on(self, port: int) -> None:
        if not self.link.target:
            self.link.target = _free_port()
        self._extra["listeners"] = [
            _listener(port, "client", tls=False),
            _listener(self.link.target, "federation", tls=True),
        ]
        await super()._start_on(port)


def _listener(port: int, resource: str, *, tls: bool) -> dict[str, Any]:
    return {
        "type": "http",
        "port": port,
        "tls": tls,
        "bind_addresses": [HOST],
        "resources": [{"names": [resource]}],
    }


def self_signed(folder: Path) -> tuple[Path, Path]:
    """Make a certificate that signs itself; return it and its key."""
    folder.mkdir(parents=True, exist_ok=True)
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, HOST)])
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(HOST))]),
            critical=False,
        )
        .sign(key, hashes.SHA256())
    )
    paths = folder / "tls.crt", folder / "tls.key"
    paths[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    paths[1].write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return paths


class Federation:
    """Two homeservers: `a`, where the bot is, and `b`; people on both, and bots on `a`."""

    def __init__(self, folder: Path, extra: Mapping[str, Any] | None = None) -> None:
        self._folder = folder
        self._extra = extra
        self._links = (Link(), Link())
        self._admins: dict[str, Person] = {}

    async def start(self) -> None:
        """Start both; either may find the other at once."""
        for link in self._links:
            await link.open()
        self.a, self.b = (
            FederatedHomeserver(self._folder / name, link, self._extra)
            for name, link in zip("ab", self._links, strict=True)
        )
        await asyncio.gather(self.a.start(), self.b.start())
        self.on_a = People(self.a, self._folder)
        self.on_b = People(self.b, self._folder)
        self.bots = Bots(self.a, self._folder)
        for one in (self.a, self.b):
            account = await one.register("admin", admin=True)
            self._admins[one.server_name] = Person(one.url, account)

    @asynccontextmanager
    async def outage(self) -> AsyncIterator[None]:
        """Let neither reach the other for so long that they keep nothing for each other."""
        for link in self._links:
            link.cut()
        try:
            yield
        finally:
            for link in self._links:
                link.heal()
        await self.retry(self.a, self.b)
        await self.retry(self.b, self.a)

    async def retry(self, one: FederatedHomeserver, other: FederatedHomeserver) -> None:
        """Let `one` try to reach `other` now, rather than when its patience is over."""
        where = ("federation", "destinations", other.server_name, "reset_connection")
        admin = self._admins[one.server_name]
        with contextlib.suppress(ApiError):  # it had not given up
            await admin.call("POST", *where, body={}, root="/_synapse/admin/v1")

    async def close(self) -> None:
        """Stop everything."""
        await self.bots.close()
        for admin in self._admins.values():
            await admin.close()
        await self.on_a.close()
        await self.on_b.close()
        await asyncio.gather(self.a.stop(), self.b.stop())
        for link in self._links:
            await link.close()
