"""Whatever bytes stand in an answer, what cannot be represented is cut out and the rest is used."""

from __future__ import annotations

import asyncio
import copy
import json
import sqlite3
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from bot.core.types import RoomID, UserID
from bot.matrix.http import lenient_json, responses
from bot.matrix.http.json_portions import PORTION, run_through
from bot.matrix.http.lenient_json import DEEPEST, read
from bot.matrix.http.sync_trimming import LONGEST, Trimmer

BOT = UserID("@bot:example.org")
ROOM = RoomID("!room:example.org")
GOOD: dict[str, Any] = {
    "type": "m.room.message",
    "event_id": "$good",
    "sender": "@alice:example.org",
    "content": {"msgtype": "m.text", "body": 'Grüße 😀 "[{\\'},
}


def nested(levels: int, opening: str = "[", closing: str = "]", inner: str = "1") -> bytes:
    return (opening * levels + inner + closing * levels).encode()


ODD = {
    "nested lists": nested(1_200),
    "nested objects": nested(1_200, '{"a":', "}"),
    "very deeply nested": nested(200_000),
    "nested as deep as Python can still read": nested(700, '{"a":[', "]}"),
    "nested beside other things": nested(2_000, '{"b":"]}","a":[1,', '],"c":0}'),
    "an integer of too many digits": b"1" * 5_000,
    "a negative integer of too many digits": b"-" + b"9" * 100_000,
    "a fraction of too many digits": b"0." + b"3" * 100_000,
    "a number beyond all numbers": b"1e999",
    "infinity": b"-Infinity",
    "no number": b"NaN",
    "half a surrogate pair in UTF-8": b'"\xed\xa0\x80"',
    "half a surrogate pair, escaped": rb'"\ud800"',
    "half a surrogate pair after a whole one": rb'"\ud83d\ude00\ude00\\ud83d"',
    "half a surrogate pair in a key": rb'{"\uDFFFx": {"a": 1}}',
    "half a surrogate pair deep down": nested(1_200, inner=r'"\ud800"'),
    "bytes that are no UTF-8": b'"\xff\xfe\xc0\x80\xf4\x90\x80\x80 \xe2\x82"',
    "signs that should be escaped": b'"a\x00b\nc\x1f"',
    "escaped zero": rb'"\u0000"',
    "one key many times": b'{"a": 1, "a": [2], "a": {"a": 3}}',
    "an empty key": b'{"": {"": ""}}',
    "keys of objects": b'{"__proto__": {"constructor": 1}, "__class__": 2}',
    "a very long text": b'"' + b"x" * 1_000_000 + b'"',
    "a very long key": b'{"' + b"y" * 100_000 + b'": 1}',
    "backslashes": b'"' + rb"\\\"" * 10_000 + b'"',
    "very many empty lists": b"[" + b"[]," * 100_000 + b"[]]",
    "nothing": b"null",
    "minus nothing": b"-0",
    "spaces": b" \t\r\n [ \n ] ",
}


def answer(odd: bytes, place: str) -> bytes:
    """Return an answer to a sync that holds something odd beside one good message."""
    good = json.dumps(GOOD, ensure_ascii=False).encode()
    event = b'{"type": "m.room.name", "sender": "@a:x", "content": %b, "unsigned": %b}' % (odd, odd)
    parts = {
        name: odd if place == name else event if place == f"{name} event" else b"{}"
        for name in ("to_device", "timeline", "state", "invite", "device_lists", "account", "room")
    }
    return (
        b'{"to_device": {"events": [%(to_device)b]}, "account_data": %(account)b,'
        b' "device_lists": {"changed": [%(device_lists)b, "@alice:example.org"]},'
        b' "rooms": {"invite": {"!i:x": {"invite_state": {"events": [%(invite)b]}}},'
        b' "join": {"!odd:x": %(room)b, "!room:example.org": {'
        b' "state": {"events": [%(state)b]},'
        b' "timeline": {"events": [%(timeline)b, %(good)b, %(timeline)b]}}}},'
        b' "next_batch": "s1"}'
        % {**{name.encode(): part for name, part in parts.items()}, b"good": good}
    )


PLACES = [
    *("to_device", "timeline", "state", "invite", "device_lists", "account", "room"),
    *("to_device event", "timeline event", "state event", "invite event"),
]


def found_in(raw: bytes) -> list[Any]:
    """Return the room's messages as the bot sees them."""
    body = responses.parse(raw)
    batch = responses.read_sync(body, BOT)
    assert batch.next_batch == "s1"
    assert body["device_lists"]["changed"][-1] == "@alice:example.org"
    [timeline] = [room.timeline for room in batch.joined if room.room_id == ROOM]
    return timeline


def bear(found: Any) -> None:
    """Do to what was read all that is done with it later."""
    assert json.loads(json.dumps(found, ensure_ascii=False, allow_nan=False).encode()) == found
    assert copy.deepcopy(found) == found
    with sqlite3.connect(":memory:") as db:
        db.execute("SELECT ?", (str(found),)).fetchone()
    db.close()


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("odd", ODD)
def test_an_odd_thing_hides_no_good_message_beside_it(odd: str, place: str) -> None:
    raw = answer(ODD[odd], place)
    assert GOOD in found_in(raw)
    bear(responses.parse(raw))


texts = st.text(st.characters(), max_size=9).map(lambda text: json.dumps(text).encode())
escapes = st.lists(
    st.sampled_from(
        [rb"\ud83d", rb"\ude00", rb"\\", rb"\"", b"[", b"}", b"u", b"\xed\xa0\x80", b"d83d"]
    )
).map(lambda parts: b'"' + b"".join(parts) + b'"')
numbers = st.integers(0, 6_000).flatmap(
    lambda digits: st.sampled_from([b"7" * (digits + 1), b"-1e" + b"9" * (digits % 400 + 1)])
)
scalars = st.sampled_from([b"null", b"true", b"0.5", b"NaN"]) | numbers | texts | escapes


def joined(inner: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    lists = st.lists(inner, max_size=4).map(lambda parts: b"[" + b", ".join(parts) + b"]")
    pairs = st.tuples(texts | escapes, inner).map(b":".join)
    objects = st.lists(pairs, max_size=4).map(lambda parts: b"{" + b",".join(parts) + b"}")
    return lists | objects


def deepened(inner: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    levels = st.sampled_from([1, 2, 90, 99, 100, 101, 500, 2_000])
    ways = st.sampled_from([(b"[", b"]"), (b'{"a":', b"}"), (b'[{"]":', b"},2]"), (b'["[",', b"]")])
    return st.tuples(inner, levels, ways).map(lambda o: o[2][0] * o[1] + o[0] + o[2][1] * o[1])


documents = st.recursive(scalars, lambda inner: joined(inner) | deepened(inner), max_leaves=8)


@settings(max_examples=300, deadline=None)
@given(odd=documents, place=st.sampled_from(PLACES))
@example(odd=nested(92), place="timeline event")
@example(odd=nested(93), place="timeline event")
def test_no_document_whatever_hides_a_good_message(odd: bytes, place: str) -> None:
    raw = answer(odd, place)
    assert GOOD in found_in(raw)
    bear(responses.parse(raw))


@settings(max_examples=200, deadline=None)
@given(odd=documents, place=st.sampled_from(PLACES), levels=st.integers(0, 9))
def test_portions_come_to_what_is_read_at_once(odd: bytes, place: str, levels: int) -> None:
    raw = answer(odd, place)
    whole = run_through(lenient_json._read(raw, 0))
    assert repr(run_through(lenient_json._read(raw, levels))) == repr(whole)


@settings(max_examples=300, deadline=None)
@given(
    signs=st.lists(st.sampled_from([*'[]{},:"', '"a"', " ", "1", "\t\n", "null", "\\"])),
    levels=st.integers(1, 5),
)
def test_portions_of_what_is_no_json_are_nothing(signs: list[str], levels: int) -> None:
    raw = "".join(signs).encode()
    assert run_through(lenient_json._read(raw, levels)) == read(raw)


async def test_others_have_turns_while_a_long_answer_is_read() -> None:
    raw = json.dumps({"rooms": {"events": [GOOD] * 4_000}}).encode()
    reading = asyncio.create_task(lenient_json.read_by_portions(raw, 3))
    turns = 0
    while not reading.done():
        await asyncio.sleep(0)
        turns += 1
    assert await reading == (json.loads(raw), 0)
    assert turns > len(raw) // PORTION


plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.text() | st.floats(-1e9, 1e9),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@given(document=plain, ascii_only=st.booleans())
def test_an_ordinary_document_is_read_as_it_is(document: Any, ascii_only: bool) -> None:
    raw = json.dumps(document, ensure_ascii=ascii_only).encode(errors="surrogatepass")
    halves = any(0xD800 <= ord(sign) <= 0xDFFF for sign in str(document))
    found, cut = read(raw)
    assert halves or (found, cut) == (document, 0)


def test_only_what_is_too_deep_is_cut() -> None:
    least = nested(DEEPEST - 1)
    deep = b'{"a": 1, "deep": %b, "b": {"c": [2]}, "least": %b}' % (nested(DEEPEST), least)
    found, cut = read(deep)
    assert cut == 1
    assert (found["a"], found["b"], found["least"]) == (1, {"c": [2]}, json.loads(least))
    inner = found["deep"]
    for _ in range(DEEPEST - 2):
        [inner] = inner
    assert inner == [None]


def test_bytes_that_are_no_text_are_cut_and_counted() -> None:
    assert read(b'{"a": "\xff", "b": "\xed\xa0\x80", "c": 1}')[1] == 1
    assert read(b'{"a": "\xff", "n": NaN}')[1] == 2


def test_numbers_without_end_are_cut_and_counted() -> None:
    raw = b'{"a": 1%b, "b": 1e999, "c": NaN, "d": -Infinity, "e": 12, "f": 0.5}' % (b"0" * 5_000)
    assert read(raw) == (dict.fromkeys("abcd") | {"e": 12, "f": 0.5}, 4)


def test_what_is_cut_is_counted_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    responses.parse(b'{"secret": [%b, NaN]}' % nested(300))
    [record] = caplog.records
    assert "2 parts" in record.getMessage()
    assert "secret" not in record.getMessage()
    caplog.clear()
    responses.parse(b'{"a": [1]}')
    assert caplog.records == []


@pytest.mark.parametrize("raw", [b"", b"{", b'{"a": "', b'["\\', b"[1]]", b"<html>", b"]" * 300])
def test_what_is_no_json_is_nothing(raw: bytes) -> None:
    assert read(raw) == (None, 0)
    assert read(b"[" * 500 + raw) == (None, 0)


@pytest.mark.parametrize(
    "piece", [b"[[],", b'{"a":[', b'"\\\\\\"",', b'["', rb'"\ud800\\",', b"[", b"9", b"]["]
)
def test_a_million_signs_are_each_looked_at_once(piece: bytes) -> None:
    """Looked at again and again, they would take hours."""
    read(b"[" * 300 + piece * 1_000_000 + b"]" * 300)


# --- answers that are too long -------------------------------------------------------------------


def trimmed(raw: bytes, cuts: list[int]) -> tuple[Any, int]:
    trimmer, before = Trimmer(), 0
    for cut in sorted({0, *cuts, len(raw)} - {0}):
        trimmer.take(raw[before:cut])
        before = cut
        if before >= len(raw):
            break
    return json.loads(trimmer.kept), trimmer.cut


LONG = ["x" * LONGEST, '\\"]}' * (LONGEST // 4), [[], {}] * (LONGEST // 6), {"a": ["y" * LONGEST]}]
SHORT: list[Any] = [
    {"type": "m.dummy", "content": {"to_device": ['\\"', "]", {}]}},
    None,
    7,
    "}",
    [],
]


@settings(max_examples=60, deadline=None)
@given(
    events=st.lists(st.sampled_from([0, 1, 2, 3, 4, 5, 6, 7, 8]), max_size=6),
    cuts=st.lists(st.integers(0, 400_000) | st.integers(0, 300), max_size=40),
)
def test_long_to_device_events_are_left_out_however_the_answer_comes(
    events: list[int], cuts: list[int]
) -> None:
    found = [(SHORT + [{"content": one} for one in LONG])[which] for which in events]
    rooms = {"join": {"!r:x": {"timeline": {"events": [{"content": LONG[0]}, GOOD]}}}}
    body = {
        "next_batch": "s\\",
        "to_device": {"events": found},
        "rooms": rooms,
        "z": {"to_device": 1},
    }
    kept = [one if which < len(SHORT) else None for which, one in zip(events, found, strict=True)]
    expected = body | {"to_device": {"events": kept}}
    assert trimmed(json.dumps(body).encode(), cuts) == (
        expected,
        sum(e >= len(SHORT) for e in events),
    )


@pytest.mark.parametrize("piece", [b"x" * 10_000, b"[]," * 3_000, b'"\\"",{' * 1_000])
def test_what_is_left_out_is_never_all_held(piece: bytes) -> None:
    trimmer = Trimmer()
    trimmer.take(b'{"to_device": {"events": [{"content": [' + b'"' * (piece[:1] == b"x"))
    for _ in range(200):
        trimmer.take(piece)
        assert len(trimmer.kept) <= LONGEST + 100


def test_the_fast_way_is_the_plain_parser(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lenient_json, "_without_depths", None)
    assert read(answer(b"{}", "timeline"))[1] == 0
