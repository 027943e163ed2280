"""Power levels: what a room's own state says, whatever its JSON looks like."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bot.core.power_levels import CREATOR, Power

ALICE = "@alice:example.org"
BOB = "@bob:example.org"
BOT = "@bot:example.org"
POLICY = "com.beeper.disappearing_timer"
REDACTION = "m.room.redaction"


def create(version: Any = "10", *, sender: Any = ALICE, **content: Any) -> dict[str, Any]:
    """Return a whole m.room.create event; `version=None` leaves the room version out."""
    if version is not None:
        content["room_version"] = version
    return {"type": "m.room.create", "state_key": "", "sender": sender, "content": content}


def read(power_levels: dict[str, Any] | None) -> Power:
    return Power.read(create("10", creator=ALICE), power_levels)


SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.sampled_from(["50", "-1", "1.5", "", "12", ALICE, BOB, "9" * 5000])
)
JSON: st.SearchStrategy[Any] = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from([ALICE, BOB, REDACTION, "x"]), inner, max_size=3)
    ),
    max_leaves=8,
)


def json_object(*keys: str) -> st.SearchStrategy[Any]:
    """Any JSON, and most often an object that has some of these keys."""
    return st.fixed_dictionaries({}, optional=dict.fromkeys(keys, JSON)) | JSON


CREATES = st.fixed_dictionaries(
    {},
    optional={
        "sender": JSON,
        "content": json_object("room_version", "creator", "additional_creators"),
    },
)
LEVELS = json_object(
    "users", "users_default", "events", "events_default", "state_default", "redact"
)


# --- What a room's power levels say ------------------------------------------------------------


def test_a_listed_user_has_the_listed_level_and_all_others_the_default() -> None:
    power = read({"users": {BOB: 50}, "users_default": 10})
    assert (power.of(BOB), power.of(BOT), power.of("not a user id")) == (50, 10, 10)


def test_a_user_removed_from_the_list_falls_back_to_the_default() -> None:
    before = read({"users": {BOB: 100}, "users_default": 5})
    after = read({"users": {}, "users_default": 5})
    assert (before.of(BOB), after.of(BOB)) == (100, 5)


def test_a_demoted_user_loses_the_rights_of_the_old_level() -> None:
    assert read({"users": {BOB: 100}}).may_redact(BOB)
    after = read({"users": {BOB: 0}})
    assert after.of(BOB) == 0
    assert not after.may_redact(BOB)
    assert not after.may_send_state(BOB, POLICY)


def test_a_level_below_the_default_counts() -> None:
    power = read({"users": {BOB: -1}})
    assert power.of(BOB) == -1
    assert not power.may_send(BOB, "m.room.message")
    assert power.may_send(BOT, "m.room.message")


def test_what_is_not_said_has_the_specification_s_default() -> None:
    power = read({})
    assert power.of(BOB) == 0
    assert power.to_send_state(POLICY) == 50
    assert power.to_send("m.room.message") == 0
    assert power.to_redact == 50


def test_state_events_and_message_events_have_a_default_of_their_own() -> None:
    power = read({"state_default": 60, "events_default": 20})
    assert power.to_send_state(POLICY) == 60
    assert power.to_send("m.room.message") == 20


def test_a_level_for_the_type_goes_before_both_defaults() -> None:
    power = read({"events": {POLICY: 30}, "state_default": 60, "events_default": 20})
    assert power.to_send_state(POLICY) == power.to_send(POLICY) == 30
    assert power.to_send_state("m.room.name") == 60


@pytest.mark.parametrize("level", [49, 50, 51])
def test_a_level_suffices_from_the_one_required_on(level: int) -> None:
    power = read({"users": {BOB: level}, "events": {"m.reaction": 50}})
    assert power.may_send_state(BOB, POLICY) is (level >= 50)
    assert power.may_send(BOB, "m.reaction") is (level >= 50)
    assert power.may_redact(BOB) is (level >= 50)


@pytest.mark.parametrize(
    ("power_levels", "needed"),
    [
        ({"redact": 30}, 30),
        ({"redact": 0}, 0),
        ({"events": {REDACTION: 75}}, 75),
        ({"events": {REDACTION: 20}}, 50),
        ({"events_default": 60}, 60),
        ({"events_default": 60, "events": {REDACTION: 0}}, 50),
        ({"state_default": 90}, 50),
        ({"redact": 80, "events": {REDACTION: 75}, "events_default": 60}, 80),
    ],
)
def test_redacting_others_takes_the_rights_to_redact_and_to_send_redactions(
    power_levels: dict[str, Any], needed: int
) -> None:
    assert read(power_levels).to_redact == needed
    assert read({**power_levels, "users": {BOT: needed}}).may_redact(BOT)
    assert not read({**power_levels, "users": {BOT: needed - 1}}).may_redact(BOT)


# --- Who is what without an entry in `users` ---------------------------------------------------


@pytest.mark.parametrize("version", [None, "1", "6", "10", "org.matrix.msc3757.10"])
def test_up_to_version_10_the_creator_is_whom_the_content_names(version: str | None) -> None:
    power = Power.read(create(version, sender=BOB, creator=ALICE), None)
    assert (power.of(ALICE), power.of(BOB)) == (100, 0)


@pytest.mark.parametrize("version", ["11", "org.matrix.msc3757.11"])
def test_in_version_11_the_creator_is_the_sender(version: str) -> None:
    power = Power.read(create(version, sender=BOB, creator=ALICE), None)
    assert (power.of(ALICE), power.of(BOB)) == (0, 100)


@pytest.mark.parametrize("version", ["1", "11", "12"])
def test_without_power_levels_only_the_creator_may_redact_or_send_state(version: str) -> None:
    power = Power.read(create(version, creator=ALICE), None)
    assert (power.to_redact, power.to_send_state(POLICY), power.to_send("m.reaction")) == (
        50,
        50,
        0,
    )
    assert power.may_redact(ALICE)
    assert power.may_send_state(ALICE, POLICY)
    assert not power.may_redact(BOB)
    assert not power.may_send_state(BOB, POLICY)
    assert power.may_send(BOB, "m.room.message")


@pytest.mark.parametrize("version", ["1", "10", "11"])
def test_before_version_12_power_levels_put_the_creator_among_the_users(version: str) -> None:
    created = create(version, creator=ALICE, additional_creators=[BOB])
    power = Power.read(created, {"users": {}, "users_default": 7})
    assert (power.of(ALICE), power.of(BOB)) == (7, 7)
    assert Power.read(created, {"users": {ALICE: 25}}).of(ALICE) == 25


@pytest.mark.parametrize("power_levels", [{}, [], "", 0, False])
def test_broken_power_levels_are_not_the_same_as_none(power_levels: Any) -> None:
    assert Power.read(create("11"), None).of(ALICE) == 100
    assert Power.read(create("11"), power_levels).of(ALICE) == 0


@pytest.mark.parametrize("version", ["12", "13", "99", "org.matrix.hydra.11", "com.example.new"])
@pytest.mark.parametrize("power_levels", [None, {}, {"users": {ALICE: 0, BOB: -5}, "redact": 100}])
def test_from_version_12_on_creators_stand_above_every_level(
    version: str, power_levels: dict[str, Any] | None
) -> None:
    power = Power.read(create(version, additional_creators=[BOB]), power_levels)
    assert power.of(ALICE) == power.of(BOB) == CREATOR
    assert power.of(BOT) == 0
    assert power.may_redact(BOB)
    assert not power.may_redact(BOT)


def test_from_version_12_on_the_content_does_not_name_the_creator() -> None:
    assert Power.read(create("12", creator=BOB), None).of(BOB) == 0


def test_creators_exceed_the_highest_level_of_canonical_json() -> None:
    power = Power.read(create("12"), {"users": {BOB: 2**53 - 1}, "redact": 2**53 - 1})
    assert power.of(BOB) == power.to_redact == 2**53 - 1
    assert power.of(ALICE) == CREATOR == 2**53


@pytest.mark.parametrize("additional", [None, BOB, {BOB: 1}, [[BOB]], [{"user_id": BOB}], 12, [12]])
def test_additional_creators_are_a_list_of_user_ids_or_nothing(additional: Any) -> None:
    power = Power.read(create("12", additional_creators=additional), {})
    assert power.of(BOB) == 0
    assert power.of(ALICE) == CREATOR
    assert power.creators == {ALICE}


def test_what_is_no_user_id_does_not_hide_the_other_additional_creators() -> None:
    assert Power.read(create("12", additional_creators=[None, {}, BOB]), {}).of(BOB) == CREATOR


@pytest.mark.parametrize("version", [12, 12.0, True, ["12"], {"12": "12"}])
def test_a_room_version_that_is_no_string_makes_nobody_all_powerful(version: Any) -> None:
    assert Power.read(create(version), {}).of(ALICE) == 0


@pytest.mark.parametrize("created", [None, {}, {"sender": ALICE}, {"sender": ALICE, "content": []}])
def test_without_a_sound_create_event_nobody_is_a_creator(created: Any) -> None:
    assert Power.read(created, None).of(ALICE) == 0
    assert Power.read(created, {"users": {BOB: 50}}).of(BOB) == 50


# --- Levels of every shape ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "level"),
    [
        ("50", 50),
        ("000100", 100),
        ("+100", 100),
        ("-1", -1),
        (" 50\n", 50),
        ("\u00a0-50\t ", -50),
        (2**53 - 1, 2**53 - 1),
        (2**60, 2**53 - 1),
        (-(2**60), 1 - 2**53),
        ("9" * 30, 2**53 - 1),
    ],
)
def test_integers_and_integers_in_strings_are_levels(written: Any, level: int) -> None:
    power = read({"users": {BOB: written}, "redact": written, "events": {POLICY: written}})
    assert (power.of(BOB), power.redact, power.to_send_state(POLICY)) == (level, level, level)
    defaults = read(dict.fromkeys(("users_default", "events_default", "state_default"), written))
    assert defaults.of(BOB) == defaults.to_send("x") == defaults.to_send_state("x") == level


@pytest.mark.parametrize(
    "written",
    [
        *(None, True, False, 75.0, 75.9, float("nan"), float("inf"), [], [75], {}, {"level": []}),
        *("", " ", "75.0", "1e2", "0x4b", "7 5", "7_5", "+-75", "- 75", "\u0667\u0665", "abc"),
        pytest.param("7" * 5000, id="more digits than int() takes"),
    ],
)
def test_anything_else_is_no_level_and_leaves_the_default(written: Any) -> None:
    power = read(
        {
            "users": {BOB: written, BOT: 75},
            "users_default": 1,
            "events": {POLICY: written, REDACTION: 75},
            "state_default": 60,
            "events_default": 2,
        }
    )
    assert (power.of(BOB), power.of(BOT)) == (1, 75)
    assert (power.to_send_state(POLICY), power.to_send(POLICY), power.to_redact) == (60, 2, 75)
    keys = ("users_default", "events_default", "state_default", "redact", "users", "events")
    assert read(dict.fromkeys(keys, written)) == read({})


@given(CREATES | st.none(), LEVELS)
def test_any_json_can_be_read_and_answers_every_question(created: Any, levels: Any) -> None:
    power = Power.read(created, levels)
    for user in (ALICE, BOB, BOT):
        assert type(power.of(user)) is int
        assert (power.of(user) == CREATOR) is (user in power.creators)
        assert power.may_redact(user) is (power.of(user) >= power.to_redact)
        for kind in (POLICY, REDACTION, "x"):
            assert power.may_send(user, kind) is (power.of(user) >= power.to_send(kind))
            assert power.may_send_state(user, kind) is (power.of(user) >= power.to_send_state(kind))
    assert -CREATOR < power.to_redact < CREATOR
    assert power.to_redact >= power.redact
    assert power.to_redact >= power.to_send(REDACTION)


@given(JSON, LEVELS)
def test_create_events_that_are_no_objects_can_be_read(created: Any, levels: Any) -> None:
    assert Power.read(created, levels).creators == frozenset()


@given(LEVELS)
def test_only_the_create_event_makes_a_creator(levels: Any) -> None:
    power = Power.read(create("12", sender=BOT), levels)
    assert power.creators == {BOT}
    assert max(power.of(ALICE), power.of(BOB)) < CREATOR


@given(LEVELS)
def test_reading_changes_nothing_that_was_read(levels: Any) -> None:
    before = repr(levels)
    first = Power.read(create("12"), levels)
    assert repr(levels) == before
    assert Power.read(create("12"), levels) == first
