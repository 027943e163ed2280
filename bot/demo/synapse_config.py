"""Writes the configuration of a Synapse that serves loopback only and sends nothing anywhere."""

from __future__ import annotations

import json
import secrets
from base64 import b64encode
from typing import TYPE_CHECKING, Any, Final, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

Limits = Literal["default", "lifted"]
"""`default`: sending and redacting are limited as Synapse ships; `lifted`: nothing is limited."""

UNLIMITED: Final = {"per_second": 1_000_000, "burst_count": 1_000_000}

# What a handful of accounts on one machine would run into long before the limits that matter.
SETUP_LIMITS: Final[dict[str, Any]] = {
    "rc_registration": UNLIMITED,
    "rc_login": {"address": UNLIMITED, "account": UNLIMITED, "failed_attempts": UNLIMITED},
    "rc_joins": {"local": UNLIMITED, "remote": UNLIMITED},
    "rc_joins_per_room": UNLIMITED,
    "rc_invites": {"per_room": UNLIMITED, "per_user": UNLIMITED, "per_issuer": UNLIMITED},
    "rc_room_creation": UNLIMITED,
    "rc_key_requests": UNLIMITED,
    "rc_media_create": UNLIMITED,
    "rc_profile": UNLIMITED,
    "rc_user_directory": UNLIMITED,
    "rc_reports": UNLIMITED,
    "rc_delayed_event_mgmt": UNLIMITED,
}
SENDING_LIMITS: Final[dict[str, Any]] = {
    "rc_message": UNLIMITED,
    "rc_admin_redaction": UNLIMITED,
}

LOGGING: Final = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"line": {"format": "%(asctime)s %(levelname)s %(name)s: %(message)s"}},
    "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "line"}},
    # Synapse greets at WARNING; a clean run leaves an empty log.
    "loggers": {"synapse.config.logger": {"level": "ERROR"}},
    "root": {"level": "WARNING", "handlers": ["stderr"]},
}


def write_config(
    folder: Path,
    *,
    port: int,
    server_name: str,
    shared_secret: str,
    limits: Limits,
    extra: Mapping[str, Any],
) -> Path:
    """Write the configuration into `folder`, which is made if need be; return the file's path.

    The server's signing key is made once and kept. `extra` replaces top-level keys.
    The files are JSON, which is YAML too.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    signing_key = folder / "signing.key"
    if not signing_key.exists():
        seed = b64encode(secrets.token_bytes(32)).decode().rstrip("=")
        signing_key.write_text(f"ed25519 a_demo {seed}\n")
    logging = folder / "logging.yaml"
    logging.write_text(json.dumps(LOGGING, indent=1))
    config = {
        "server_name": server_name,
        "signing_key_path": str(signing_key),
        "log_config": str(logging),
        "database": {"name": "sqlite3", "args": {"database": str(folder / "homeserver.db")}},
        "media_store_path": str(folder / "media"),
        "registration_shared_secret": shared_secret,
        "macaroon_secret_key": shared_secret,
        "form_secret": shared_secret,
        "bcrypt_rounds": 4,
        "presence": {"enabled": False},
        **_network(port),
        **SETUP_LIMITS,
        **(SENDING_LIMITS if limits == "lifted" else {}),
        **extra,
    }
    path = folder / "homeserver.yaml"
    path.write_text(json.dumps(config, indent=1))
    return path


def _network(port: int) -> dict[str, Any]:
    """One listener on loopback, and no federation, key servers, previews, pushes or statistics."""
    listener = {
        "type": "http",
        "port": port,
        "bind_addresses": ["127.0.0.1"],
        "resources": [{"names": ["client"]}],
    }
    return {
        "listeners": [listener],
        "public_baseurl": f"http://127.0.0.1:{port}/",
        "federation_domain_whitelist": [],
        "trusted_key_servers": [],
        "suppress_key_server_warning": True,
        "url_preview_enabled": False,
        "push": {"enabled": False},
        "report_stats": False,
    }
