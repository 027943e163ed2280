"""What the bot says of its own identity, and that it tries until that is settled."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING, Any

import pytest

from bot.chat import notices
from bot.chat.notices import Fingerprints
from bot.core.outcomes import OutcomeError, Unreachable
from bot.core.topics import Topics
from bot.core.types import RoomID
from bot.matrix.identity.cross_signing import SigningState, _signed_by
from bot.matrix.identity.private_keys import PrivateKeys
from bot.services.device_signing import REMEDIES, WORDS, DeviceSigning
from tests.on_synapse.test_cross_signing import own_keys, signed
from tests.on_synapse.test_lifecycle import settle_in
from tests.operator.test_identity import device, device_id, master
from tests.support.fake_homeserver import BOB, BOT, FakeClock

if TYPE_CHECKING:
    from tests.support.bot_process import Bots
    from tests.support.harness import Harness
    from tests.support.people import People

MASTER = "nqOvzeuGWT/sRx3h7+MHoInYj3Uk2LD/unI9kDYcHwk"
DEVICE = "lEuiRJBit0IG6nUf5pUzWTUEsRVVe/HJkoKuEww9ULI"
SHOWN = "nqOv zeuG WT/s Rx3h 7+MH oInY j3Uk 2LD/ unI9 kDYc Hwk"


class Signing:
    """Cross-signing that answers what the test has laid down, one answer for each try."""

    def __init__(self, *answers: str | OutcomeError) -> None:
        self._answers = list(answers)
        self.master = MASTER
        self.device_id = "ABCDEF"
        self.fingerprint = DEVICE

    async def ensure_signed(self) -> str:
        answer = self._answers.pop(0)
        if isinstance(answer, OutcomeError):
            raise answer
        return answer


@dataclass
class Known:
    """An identity whose standing is known."""

    trouble: str = ""
    fingerprints: Fingerprints = Fingerprints(master=MASTER, device_id="ABCDEF", device=DEVICE)  # noqa: RUF009


async def settled(*answers: str | OutcomeError) -> DeviceSigning:
    clock = FakeClock()
    identity = DeviceSigning(Signing(*answers), Topics(), clock, random=Random(1))
    await identity.sign()
    return identity


@pytest.fixture
def room(harness: Harness) -> RoomID:
    room = harness.homeserver.make_room()
    harness.homeserver.set_member(room, BOB, "join", displayname="bob")
    return room


async def said(harness: Harness, room: RoomID, text: str) -> str:
    """Let somebody say something; return what the bot answers."""
    async with harness.running(*harness.everything):
        await harness.said_in(room, text)
    last = harness.homeserver.rooms[room].events[-1]
    assert last["sender"] == harness.homeserver.own_id
    return str(last["content"]["body"])


# --- Settling ----------------------------------------------------------------------------------


async def test_a_signed_device_is_no_trouble() -> None:
    identity = await settled("signed")
    assert identity.trouble == ""
    assert identity.fingerprints == Known().fingerprints


@pytest.mark.parametrize("signing_state", WORDS)
async def test_any_other_standing_has_words_and_a_remedy(
    signing_state: str, caplog: pytest.LogCaptureFixture
) -> None:
    identity = await settled(signing_state)
    assert identity.trouble
    assert identity.fingerprints.master == ""
    (record,) = caplog.records
    assert record.getMessage() == f"{identity.trouble} ({REMEDIES[signing_state]})"


def test_every_standing_has_its_words() -> None:
    assert set(WORDS) == set(SigningState) - {SigningState.SIGNED, SigningState.UNSIGNED}
    assert set(REMEDIES) == set(SigningState) - {SigningState.SIGNED}


async def test_before_it_is_settled_only_the_device_is_known(harness: Harness) -> None:
    away = OutcomeError(Unreachable(reason="reset"))
    identity = DeviceSigning(Signing(away, "signed"), Topics(), harness.clock, random=Random(1))
    async with harness.running(identity):
        assert identity.fingerprints.master == ""
        assert "ask again in a minute" in notices.fingerprint(identity.fingerprints)
        await harness.advance(3_600_000)
        assert identity.fingerprints.master == MASTER


@pytest.mark.parametrize("signatures", [None, 7, [], {BOT: 7}, {BOT: []}, {BOT: {"ed25519:x": 7}}])
def test_a_signature_of_any_shape_is_good_or_is_not(signatures: Any) -> None:
    seeds = PrivateKeys.make(BOT)
    own = {BOT: {f"ed25519:{seeds.public('self_signing')}": signatures}}
    for found in (signatures, own):
        assert not _signed_by({"signatures": found}, BOT, seeds)


# --- Saying it -----------------------------------------------------------------------------------


async def test_the_fingerprint_command_shows_keys_in_groups_of_four(
    harness: Harness, room: RoomID
) -> None:
    harness.outbox._notices._identity = Known()
    assert await said(harness, room, "!expire fingerprint") == (
        "Compare these with what your app shows of me:\n"
        f"identity {SHOWN}\n"
        "device ABCDEF lEui RJBi t0IG 6nUf 5pUz WTUE sRVV e/HJ koKu Eww9 ULI"
    )


async def test_the_status_tells_trouble_with_the_identity_and_nothing_else(
    harness: Harness, room: RoomID
) -> None:
    harness.outbox._notices._identity = Known()
    assert "identity" not in await said(harness, room, "!expire status")
    harness.outbox._notices._identity = Known(trouble=WORDS["lost"])
    answer = await said(harness, room, "!expire status")
    assert f"My operator should look at my identity: {WORDS['lost']}." in answer


def test_trouble_stands_below_the_fingerprint() -> None:
    keys = Fingerprints(master="", device_id="ABCDEF", device=DEVICE)
    rows = notices.fingerprint(keys, WORDS["replaced"]).split("\n")
    assert [row.split()[0] for row in rows] == ["Compare", "device", "My"]


@pytest.mark.synapse
async def test_the_fingerprints_are_those_that_others_see(people: People, bots: Bots) -> None:
    alice, bot = await people("alice"), await bots()
    await signed(bot)
    room = await settle_in(alice, bot)
    await alice.send(room, "!expire fingerprint")
    answer = await alice.until_notice(room, bot.user_id, "Compare these")
    assert f"identity {notices.grouped(await master(alice, bot))}\n" in answer
    ed25519 = (await device(alice, bot))["keys"][f"ed25519:{device_id(bot)}"]
    assert answer.endswith(f"device {device_id(bot)} {notices.grouped(ed25519)}")
    assert bot.user_id in (await own_keys(alice, bot.user_id))["master_keys"]
