"""The recovery key is written as other clients write it, and a mistake in it is found."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bot.core import recovery_key
from bot.core.recovery_key import RecoveryKeyError

keys = st.binary(min_size=32, max_size=32)

# The first and the last by matrix-js-sdk's encodeRecoveryKey; the second is of matrix-rust-sdk's
# own tests, where the same key is given in hexadecimal digits.
WRITTEN = [
    (bytes(range(32)).hex(), "EsSz ykH7 LCZx 7Cae cmKD wcmY JRXi Ybtu 8iQ3 t8Ez nRwK pUY1"),
    (
        "77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a",
        "EsTc LW2K PGiF wKEA 3As5 g5c4 BXwk qeeJ ZJV8 Q9fu gUMN UE4d",
    ),
    ("ff" * 32, "EsUK 2TRo ZKTB CKmv wEDA o6rq tTYu aKzp eJ9f 95nM 3VHk Xbnq"),
]
GOOD = WRITTEN[0][1]


@pytest.mark.parametrize(("key", "written"), WRITTEN)
def test_a_recovery_key_is_written_as_other_clients_write_it(key: str, written: str) -> None:
    assert recovery_key.write(bytes.fromhex(key)) == written
    assert recovery_key.read(written) == bytes.fromhex(key)


@given(keys, st.sampled_from(["", " ", "\n", "\t "]))
def test_a_recovery_key_is_read_with_whatever_space_is_in_it(key: bytes, space: str) -> None:
    written = recovery_key.write(key).replace(" ", space)
    assert recovery_key.read(f"{space}{written}\r\n") == key


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "a recovery key",
        GOOD[:-1],
        GOOD + "1",
        "1" + GOOD,
        GOOD[:-1] + "2",
        GOOD.replace("z", "2", 1),
        GOOD.lower(),
        GOOD.replace("E", "É", 1),
        "z" * 10_000,
        "1" * 48,
    ],
)
def test_a_recovery_key_with_a_mistake_is_refused_and_not_repeated(text: str) -> None:
    with pytest.raises(RecoveryKeyError, match=r"^is no recovery key") as caught:
        recovery_key.read(text)
    assert not text.strip() or text not in str(caught.value)


@given(st.text())
def test_any_text_is_a_recovery_key_or_is_refused(text: str) -> None:
    with pytest.raises(RecoveryKeyError):
        recovery_key.read(text)
