"""What the bot says in a room: short, friendly, exact. Purely from data to text."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass

from bot.chat.commands import TABLE
from bot.core.durations import SECOND, compact, words
from bot.core.lifetimes import OFF, LifetimeLimits, Setting
from bot.core.timers import MANY
from bot.core.types import Millis

LONGEST_NAME = 32
"""Characters of a display name; the id says who it is."""
_QUOTES = str.maketrans(dict.fromkeys('"“”„‟«»❝❞〝〞', "'"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Permission:
    """What the bot may do in a room, for people to read: its level and the one it needs."""

    have: int
    need: int

    @property
    def suffices(self) -> bool:
        """Whether the bot may redact."""
        return self.have >= self.need


@dataclass(frozen=True, slots=True, kw_only=True)
class Fingerprints:
    """The bot's public keys, for people to compare: unpadded base64."""

    master: str
    """Of the account's identity; empty while the account's keys are not the bot's own."""
    device_id: str
    device: str


def person(name: str, user_id: str) -> str:
    """Return whom it is about: the id, and before it the name, set apart from the bot's words.

    Anybody can choose any name, and a whole sentence for one.
    """
    name, who = plain_name(name).translate(_QUOTES), clean(user_id)
    return f"“{name}” ({who})" if name else who


def plain_name(name: str) -> str:
    """Return a display name without signs that could rearrange the line around it, and short."""
    name = clean(name)
    return name if len(name) <= LONGEST_NAME else name[:LONGEST_NAME] + "…"


def clean(name: str) -> str:
    """Return a name or an id in one line: without controls, and signs that turn the direction."""
    seen = "".join(sign for sign in name if sign.isspace() or unicodedata.category(sign)[0] != "C")
    return " ".join(seen.split())


def welcome(
    prefix: str, permission: Permission | None, lifetime: Millis | None, back: int = 0
) -> str:
    """Greet a room: what the bot does, what it needs, what waits since it was removed."""
    does = f"I make messages disappear: say {prefix} 1d, and every new message goes after a day."
    if lifetime is not None:
        does = f"I make messages disappear: here, every new one goes after {words(lifetime)}."
    needs = "I need the right to remove messages"
    if permission is not None and not permission.suffices:
        needs += f" (power level {permission.need}; I have {permission.have})"
    elif permission is not None:
        needs += ", which I have"
    text = f"{does}\n{needs}. {prefix} help says more."
    return f"{text}\nWhat waited when I was removed still goes: {messages(back)}." if back else text


def messages(count: int) -> str:
    """Count messages."""
    return "1 message" if count == 1 else f"{figure(count)} messages"


def figure(count: int) -> str:
    """Write a number of messages, of which no more than `MANY` are counted."""
    return f"at least {MANY:,}" if count >= MANY else f"{count:,}"


def announcement(
    who: str,
    setting: Setting,
    limits: LifetimeLimits,
    *,
    pending: int = 0,
    permission: Permission | None = None,
    note: str = "",
) -> str:
    """Say who changed the room's lifetime, and to what."""
    if note == "unreadable":
        return f"{clean(who)} set a lifetime that I cannot read. {_goes_on(setting, limits)}"
    if setting is None or setting == OFF:
        text = f"{clean(who)} turned disappearing messages off: new messages stay."
        return f"{text} {still_going(pending)}".rstrip()
    lifetime = limits.clamp(setting)
    text = f"{clean(who)} set disappearing messages to {words(setting)}."
    if lifetime < setting:
        text += f" The longest I am allowed is {words(lifetime)}, so I use that."
    elif lifetime > setting:
        text += f" The shortest I am allowed is {words(lifetime)}, so I use that."
    if note == "after_read":
        text += " I count from sending, not from reading."
    elif note:
        text += " I do not know this kind of timer, and count from sending."
    if permission is not None and not permission.suffices:
        text += f" {paused(permission)}"
    return text


def _goes_on(setting: Setting, limits: LifetimeLimits) -> str:
    """Say what holds where nothing was changed."""
    lifetime = limits.default if setting is None else setting and limits.clamp(setting)
    goes = f"Messages disappear as before: after {words(lifetime)}." if lifetime else ""
    return goes or "New messages stay, as before."


def still_going(pending: int) -> str:
    """Say what `off` leaves to be done."""
    if pending == 0:
        return ""
    if pending == 1:
        return "1 message sent before still goes."
    return f"{figure(pending)} messages sent before still go."


def paused(permission: Permission) -> str:
    """Say that the bot lacks the power, and what helps."""
    return (
        f"But I cannot remove messages: that needs power level {permission.need}, and I have"
        f" {permission.have}. I begin as soon as I have it."
    )


def unchanged(setting: Setting) -> str:
    """Answer a command that changes nothing."""
    if setting is None or setting == OFF:
        return "Disappearing messages are off already."
    return f"Messages disappear after {words(setting)} already."


def suspended(permission: Permission) -> str:
    """Tell the room that its messages stay for now."""
    return (
        f"I can no longer remove messages: that needs power level {permission.need}, and I have"
        f" {permission.have}. Until then they stay; nothing is forgotten."
    )


def resumed(pending: int) -> str:
    """Tell the room that its messages go again."""
    are = "is" if pending == 1 else "are"
    waiting = f" {messages(pending)} {are} waiting." if pending else ""
    return f"I can remove messages again.{waiting}"


def redactions_refused(older_than: Millis) -> str:
    """Tell the room that messages stay which should go, and that the homeserver is the reason."""
    which = f"messages older than {words(older_than)}" if older_than else "some messages"
    return (
        f"The server does not let me remove {which} here. They stay until it does; I keep trying."
    )


def moved(lifetime: Millis | None, permission: Permission | None) -> str:
    """Say in the room that succeeds another that all goes on as before."""
    if lifetime is None:
        return "Messages stay here as in the old room."
    text = f"Messages disappear here as in the old room: after {words(lifetime)}."
    if permission is not None and not permission.suffices:
        text += f" {paused(permission)}"
    return text


def needs(lifetime: Millis | None, permission: Permission) -> str:
    """Say in the room that succeeds another what it takes to go on as before."""
    there = "messages stay" if lifetime is None else f"messages disappear after {words(lifetime)}"
    return (
        f"In the old room, {there}. To go on like that here I need power level {permission.need},"
        f" and I have {permission.have}. I begin as soon as I have it."
    )


def room_replaced() -> str:
    """Say in a room that was replaced that the bot needs to be asked into the new one."""
    return (
        "This room was replaced by a new one, which I could not join by myself. Invite me there,"
        " and I go on as here. What waits here still disappears."
    )


def refused(who: str, need: int, have: int) -> str:
    """Tell somebody that the room does not let them."""
    return f"{clean(who)}, changing this needs power level {need} here, and you have {have}."


def powerless(need: int, have: int) -> str:
    """Say that the bot may not write the room's lifetime."""
    return (
        f"I may not change this room's settings: that needs power level {need}, and I have {have}."
        " Nothing was changed. Give me that level and say it again."
    )


def allowed_lifetimes(limits: LifetimeLimits) -> str:
    """Name the bounds."""
    return f"between {words(limits.minimum)} and {words(limits.maximum)}"


def outside(prefix: str, limits: LifetimeLimits) -> str:
    """Refuse a lifetime outside the bounds."""
    return (
        f"That is outside the limits, {allowed_lifetimes(limits)}. Nothing was changed."
        f" For example: {prefix} {compact(example(limits))}"
    )


def example(limits: LifetimeLimits) -> Millis:
    """Return a lifetime that would be accepted, for people to copy."""
    rounded = -(-limits.minimum // SECOND) * SECOND
    return next((one for one in (86_400_000, 3_600_000) if limits.allows(one)), rounded)


def invalid(prefix: str, limits: LifetimeLimits, reason: str = "") -> str:
    """Answer what is no command."""
    why = reason or "I do not understand that."
    best = f"{prefix} {compact(example(limits))}"
    return f"{why} Try {best}, or anything {allowed_lifetimes(limits)}. {prefix} off ends it."


def key_never_came(who: str) -> str:
    """Ask for a message again whose key never came."""
    return (
        f"I could not read a message of {clean(who)}: its key never came to me. If it was a"
        " command, please say it again. It disappears like any other."
    )


def too_many_commands(who: str) -> str:
    """Say that commands over the limit are passed over."""
    return f"{clean(who)}, that was a lot of commands. I listen again in a minute."


def unsigned(who: str) -> str:
    """Refuse a command from a device that its owner has not verified."""
    return (
        f"{clean(who)}, commands count here only from a verified device. Verify the one you are"
        " using from another of yours, or with your recovery key, and say it again."
    )


def write_refused() -> str:
    """Take back a lifetime that counted from its command on, and could not be written down."""
    return (
        "The homeserver did not let me write that lifetime into the room, so it does not hold."
        " What was said since the command may still go by it."
    )


def missed() -> str:
    """Own up to a part of the timeline that the homeserver does not let the bot read."""
    return (
        "I could not read everything that was said here: the homeserver did not give it to me."
        " Messages among it may stay."
    )


def overtaken(who: str) -> str:
    """Answer a command after which somebody else has changed the lifetime."""
    return f"{clean(who)}, the lifetime was changed meanwhile; yours does not hold."


def right_unknown(who: str) -> str:
    """Answer a command whose right could not be looked up."""
    return (
        f"{clean(who)}, I could not look up who may do this here. Nothing was changed; please say"
        " it again."
    )


def distrusted(trouble: str) -> str:
    """Say what is wrong with the bot's identity, which only its operator can mend."""
    return f"My operator should look at my identity: {trouble}."


def fingerprint(keys: Fingerprints, trouble: str = "") -> str:
    """Show the bot's keys."""
    rows = ["Compare these with what your app shows of me:"]
    if keys.master:
        rows.append(f"identity {grouped(keys.master)}")
    rows.append(f"device {keys.device_id} {grouped(keys.device)}")
    if trouble:
        rows.append(distrusted(trouble))
    elif not keys.master:
        rows.append("My identity is being looked at; ask again in a minute.")
    return "\n".join(rows)


def grouped(key: str) -> str:
    """Return a key in groups of four, as apps show it."""
    return " ".join(key[at : at + 4] for at in range(0, len(key), 4))


def help_text(prefix: str, limits: LifetimeLimits) -> str:
    """List the commands."""
    rows = [f"{row.usage(prefix)}: {row.help}" for row in TABLE]
    rows.append(
        f"A lifetime is anything {allowed_lifetimes(limits)}. It holds for everybody's messages."
    )
    return "\n".join(rows)
