"""The seeds of the cross-signing keys on the disk, whatever cuts off their replacement."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from bot.core.outcomes import OutcomeError
from bot.core.types import UserID
from bot.matrix.identity.private_keys import PrivateKeyFile, PrivateKeys

if TYPE_CHECKING:
    from pathlib import Path

BOT = UserID("@bot:example.org")


@pytest.fixture
def where(tmp_path: Path) -> Path:
    return tmp_path / "cross_signing.json"


def test_a_replacement_that_was_cut_off_leaves_the_private_keys_that_count(where: Path) -> None:
    file, old, new = PrivateKeyFile(where), PrivateKeys.make(BOT), PrivateKeys.make(BOT)
    file.save(old)
    file.set_aside()
    assert file.load(old.public("master")) == old
    file.save(new)
    assert file.load(old.public("master")) == old
    assert file.load(new.public("master")) == new
    assert {path.stat().st_mode & 0o777 for path in where.parent.iterdir()} == {0o600}


@pytest.mark.parametrize("took_place", [True, False])
def test_a_replacement_ends_with_one_file(where: Path, took_place: bool) -> None:
    file, old, new = PrivateKeyFile(where), PrivateKeys.make(BOT), PrivateKeys.make(BOT)
    file.save(old)
    file.set_aside()
    file.save(new)
    counts = new if took_place else old
    file.end_replacement(counts)
    assert PrivateKeys.load(where) == counts
    assert [path.name for path in where.parent.iterdir()] == ["cross_signing.json"]


@pytest.mark.parametrize("text", ["", "{}", "[]", "7", '{"user_id": "@bot:example.org"}', "\0"])
def test_a_file_of_something_else_is_said_to_be_so(where: Path, text: str) -> None:
    where.write_text(text)
    with pytest.raises(ValueError, match=r".") as caught:
        PrivateKeyFile(where).load(None)
    assert not isinstance(caught.value, OutcomeError)


@pytest.mark.parametrize("seed", ["", "short", "é" * 43, 7, None])
def test_a_seed_that_is_not_32_bytes_is_refused_and_not_repeated(seed: Any) -> None:
    good = PrivateKeys.make(BOT)
    with pytest.raises(ValueError, match="the seed of the master key is not 32 bytes") as caught:
        PrivateKeys(
            user_id=BOT,
            master=seed,
            self_signing=good.self_signing,
            user_signing=good.user_signing,
        )
    assert not seed or str(seed) not in str(caught.value)
    assert good.master not in repr(good)
