"""The other side of a verification, as a person's client has it: it asks, and it starts."""

from __future__ import annotations

from typing import Any

import vodozemac

from bot.matrix.verification.sas import EMOJI, Exchange, Party, Reply, commitment

KINDS = "MATRIX_KEY_VERIFICATION_"


class Starter:
    """Written from the specification; what it does wrong, a test makes it do."""

    def __init__(self, own: Party, other: Party, transaction_id: str) -> None:
        self.own, self.other, self.id = own, other, transaction_id
        self._sas = vodozemac.Sas()
        self.public = self._sas.public_key.to_base64()
        self.secret: Any = None
        self.emoji: tuple[str, ...] = ()
        self.offer: dict[str, Any] = {
            "from_device": own.device_id,
            "method": "m.sas.v1",
            "key_agreement_protocols": ["curve25519", "curve25519-hkdf-sha256"],
            "hashes": ["sha256"],
            "message_authentication_codes": ["hkdf-hmac-sha256", "hkdf-hmac-sha256.v2"],
            "short_authentication_string": ["emoji", "decimal"],
            "transaction_id": transaction_id,
        }

    @property
    def request(self) -> dict[str, Any]:
        methods = ["m.qr_code.scan.v1", "m.sas.v1"]
        return {"from_device": self.own.device_id, "methods": methods, "transaction_id": self.id}

    @property
    def key(self) -> dict[str, Any]:
        return {"key": self.public, "transaction_id": self.id}

    def compare(self, accept: dict[str, Any], key: dict[str, Any]) -> bool:
        """Take the other's key; whether it is the one that it committed itself to."""
        if accept["commitment"] != commitment(key["key"], self.offer):
            return False
        theirs = vodozemac.Curve25519PublicKey.from_base64(key["key"])
        self.secret = self._sas.diffie_hellman(theirs)
        mine = f"{self.own.user_id}|{self.own.device_id}|{self.public}"
        other = f"{self.other.user_id}|{self.other.device_id}|{key['key']}"
        made = self.secret.bytes(f"{KINDS}SAS|{mine}|{other}|{self.id}")
        self.emoji = tuple(EMOJI[place] for place in made.emoji_indices)
        return True

    def mac(self, keys: dict[str, str] | None = None) -> dict[str, Any]:
        """Say which keys are mine."""
        info = self._info(self.own, self.other)
        keys = dict(self.own.keys) if keys is None else keys
        macs = {name: self.secret.calculate_mac(key, info + name) for name, key in keys.items()}
        return {
            "mac": macs,
            "keys": self.secret.calculate_mac(",".join(sorted(macs)), info + "KEY_IDS"),
            "transaction_id": self.id,
        }

    def verified(self, mac: dict[str, Any]) -> set[str]:
        """Return the keys of the other that are verified; raise for a wrong MAC."""
        info = self._info(self.other, self.own)
        names = ",".join(sorted(mac["mac"]))
        self.secret.verify_mac(names, info + "KEY_IDS", mac["keys"])
        for name, value in mac["mac"].items():
            self.secret.verify_mac(self.other.keys[name], info + name, value)
        return set(mac["mac"])

    def _info(self, of: Party, to: Party) -> str:
        return f"{KINDS}MAC{of.user_id}{of.device_id}{to.user_id}{to.device_id}{self.id}"


def shown(alice: Starter, bot: Exchange) -> Reply:
    """Go as far as the emoji; return the bot's MAC."""
    bot.take("request", alice.request)
    ((_, accept),) = bot.take("start", alice.offer)
    (_, key), mac = bot.take("key", alice.key)
    assert alice.compare(accept, key)
    return mac
