"""Decides when messages are due that a sweep finds while it reads a room backwards."""

from __future__ import annotations

from dataclasses import dataclass, field

from bot.core.default_lifetime import Defaults, DefaultSaid, before_event, held_at
from bot.core.lifetimes import LifetimeLimits, Setting
from bot.core.policy import NewTimer, lifetime
from bot.core.timeline import Change, Item, MediaReference, Message, RedactedEvent
from bot.core.types import EventID, Millis


@dataclass(slots=True, kw_only=True)
class PolicyBackward:
    """How a room stood at a place of its timeline, for who walks back from there."""

    setting: Setting
    until: list[tuple[EventID, Setting]] = field(default_factory=list)
    """Messages at which another setting begins, which held before: commands, the newest first."""
    defaults: Defaults = ()
    """The operator's defaults before this place, where nobody had set a lifetime."""

    def decide(
        self, items: list[Item], *, limits: LifetimeLimits
    ) -> tuple[list[NewTimer], list[MediaReference]]:
        """Walk back along `items`, newest first; return timers, oldest first, and files."""
        found: list[NewTimer] = []
        for item in items:
            if isinstance(item, Change):
                self._pass_change(item)
            elif isinstance(item, DefaultSaid):
                self.defaults = before_event(item.defaults) or self.defaults
            elif isinstance(item, Message):
                span = self._lifetime(item, limits)
                due = None if span is None else item.sent + span
                if due is not None or item.parent is not None:
                    ask = item.parent is not None and due is not None
                    new_timer = NewTimer(
                        event_id=item.event_id, due=due, parent=item.parent, ask=ask
                    )
                    found.append(new_timer)
            if isinstance(item, Message | RedactedEvent):
                self._pass_command(item.event_id)
        return found[::-1], [item for item in items if isinstance(item, MediaReference)]

    def _lifetime(self, message: Message, limits: LifetimeLimits) -> Millis | None:
        """A default holds for what stands after it began, and says that it was sent after that."""
        if self.setting is None:
            return held_at(self.defaults, message.said_at)
        return lifetime(self.setting, limits)

    def _pass_change(self, change: Change) -> None:
        """What the bot set goes on to hold, back to the command; else something else held."""
        earlier = [change.before, *(setting for _, setting in change.marks)]
        marks = [(place, was) for (place, _), was in zip(change.marks, earlier, strict=False)]
        if marks:
            self.until += marks[::-1]
        elif self.until:
            self.until[-1] = (self.until[-1][0], change.before)
        else:
            self.setting = change.before

    def _pass_command(self, event_id: EventID) -> None:
        for number, (place, was) in enumerate(self.until):
            if place == event_id:
                self.setting, self.until = was, self.until[number + 1 :]
                return
