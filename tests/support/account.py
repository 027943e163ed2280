"""What a homeserver keeps of one account: its devices, its cross-signing keys, its secrets."""

from __future__ import annotations

import copy
from typing import Any

from tests.support.scripted_homeserver import (
    GONE_WRONG,
    NO_SUCH_THING,
    NOT_KNOWN,
    Answer,
    Asked,
    Json,
    error,
)

UPLOADED = "one_time_key_counts"
DEMAND: Json = {"flows": [{"stages": ["m.login.password"]}], "session": "a session"}


class Account:
    """Answers as a homeserver does; hand it to a `StandIn` as its handler."""

    def __init__(self, user_id: str) -> None:
        self.user_id = user_id
        self.devices: Json = {}
        self.keys: Json = {}
        """The cross-signing keys, by the names that an upload gives them."""
        self.data: dict[str, Json] = {}
        self.password: str | None = None
        """What an upload of cross-signing keys takes, if anything."""
        self.failures: Json = {}
        """What an upload of signatures is answered with."""
        self.fails_on: set[str] = set()
        """The last parts of the paths on which nothing works."""

    def __call__(self, asked: Asked) -> Answer | Json:
        where, body = asked.where, asked.body
        if where[-1] in self.fails_on or "/".join(where) in self.fails_on:
            return GONE_WRONG
        match asked.method, *where:
            case "POST", "keys", "upload":
                if "device_keys" in body:
                    device = body["device_keys"]
                    self.devices.setdefault(device["device_id"], device)
                return {UPLOADED: {"signed_curve25519": 50}}
            case "POST", "keys", "query":
                return self._query()
            case "POST", "keys", "device_signing", "upload":
                return self._publish(dict(body))
            case "POST", "keys", "signatures", "upload":
                return self._sign(body[self.user_id])
            case method, "user", self.user_id, "account_data", kind:
                if method == "PUT":
                    self.data[kind] = body
                kept: Answer | Json = self.data.get(kind, NO_SUCH_THING)
                return kept
        return NOT_KNOWN

    def _query(self) -> Json:
        found: Json = {"device_keys": {self.user_id: self.devices}}
        for name, key in self.keys.items():
            found[f"{name}s"] = {self.user_id: key}
        return copy.deepcopy(found)

    def _publish(self, body: Json) -> Answer | Json:
        proof: Any = body.pop("auth", None)
        if self.password is not None and proof is None:
            return Answer(401, DEMAND)
        if self.password is not None and proof != {"password": self.password}:
            return Answer(401, DEMAND | error(401, "M_FORBIDDEN").body)
        self.keys = body
        return {}

    def _sign(self, signed: Json) -> Json:
        if not self.failures:
            for name, thing in signed.items():
                if name in self.devices:
                    self.devices[name] = thing
                else:
                    self.keys["master_key"] = thing
        return {"failures": self.failures}

    @property
    def master(self) -> str:
        """The public half of the master key."""
        return str(next(iter(self.keys["master_key"]["keys"].values())))
