"""The tables.

`room` is the number of a room's row; a digest is a keyed hash of an id, which tells it again
without keeping it. Lengths of time are in milliseconds, and times in milliseconds since the epoch.
A time is called `since`, `until`, `sent`, or something that ends in `_at`: clock_shift.py finds
them by that. What waits for its turn has `retry_at`, the time before which it is not tried, and
`attempts`, its failures in a row.
"""

from __future__ import annotations

from typing import Final

MARK: Final = 0x4D455042
"""`PRAGMA application_id` of the bot's databases. Early development versions had none."""

# AUTOINCREMENT: an id is never used again. Whoever is at work on a row that is gone meanwhile
# must not end the row that came after it.
TABLES: Final = f"""
    PRAGMA application_id = {MARK};

    -- Single values: the sync token, when it came (synced_at), the key of the digests (secret).
    CREATE TABLE meta (
        key TEXT PRIMARY KEY,
        value ANY
    ) STRICT, WITHOUT ROWID;

    CREATE TABLE rooms (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        room_id TEXT NOT NULL UNIQUE,      -- with a prefix, once the bot has left: left_rooms.py
        inviter_digest TEXT,               -- of the account for which the bot is here
        last_event_digest TEXT NOT NULL DEFAULT '',  -- of the last event that was read

        -- How the room stands where its timeline is read to (core/policy.py, RoomState).
        setting INTEGER,                   -- the lifetime in force; 0: off; NULL: nobody set one
        state_setting INTEGER,             -- the same, as the room's state says it
        policy_digest TEXT NOT NULL DEFAULT '',  -- of the state event that says it
        set_by_command INTEGER NOT NULL DEFAULT 0,  -- and not by the room's state yet
        awaited_digest TEXT NOT NULL DEFAULT '',  -- of the state event that is to say it
        revision INTEGER NOT NULL DEFAULT 0,  -- how often the lifetime was changed
        encrypted_so_far INTEGER NOT NULL DEFAULT 0,  -- encryption is on there
        encrypted INTEGER NOT NULL DEFAULT 0,  -- encryption is on, wherever that was seen

        -- The operator's default, where nobody has set a lifetime (core/default_lifetime.py).
        default_lifetime INTEGER,          -- what holds where the timeline is read to
        defaults TEXT NOT NULL DEFAULT '[]',  -- JSON: since when which held
        published_defaults TEXT NOT NULL DEFAULT '[]',  -- the same, as the room's state says it

        timeline_part INTEGER NOT NULL DEFAULT 0,  -- where new items stand; 0: no gap

        -- What the bot may do here is looked at anew.
        suspended INTEGER NOT NULL DEFAULT 0,  -- the bot lacks the power to redact
        refusal_notified INTEGER NOT NULL DEFAULT 0,  -- the room knows of refused messages
        just_joined INTEGER NOT NULL DEFAULT 0,
        removed INTEGER NOT NULL DEFAULT 0,  -- a sync says that the bot is no longer here
        reviews_asked INTEGER NOT NULL DEFAULT 0,  -- since the last look
        review_at INTEGER NOT NULL DEFAULT 0,
        review_attempts INTEGER NOT NULL DEFAULT 0,
        alone_check_at INTEGER,            -- when to look whether the bot is alone; NULL: it is not
        policy_check_at INTEGER,           -- when to compare the lifetime with the state
        policy_check_attempts INTEGER NOT NULL DEFAULT 0,

        left_at INTEGER,                   -- when the bot left; 0: all of it may be deleted now
        returned_at INTEGER NOT NULL DEFAULT 0  -- when it returned, until its timers are in order
    ) STRICT;
    CREATE INDEX rooms_inviter ON rooms (inviter_digest) WHERE inviter_digest IS NOT NULL;
    CREATE INDEX rooms_review ON rooms (review_at) WHERE reviews_asked > 0;
    CREATE INDEX rooms_alone ON rooms (alone_check_at) WHERE alone_check_at IS NOT NULL;
    CREATE INDEX rooms_policy_check ON rooms (policy_check_at) WHERE policy_check_at IS NOT NULL;

    -- One pending redaction each.
    CREATE TABLE timers (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        room INTEGER NOT NULL REFERENCES rooms (id) ON DELETE CASCADE,
        event_id TEXT NOT NULL,
        due INTEGER NOT NULL,
        retry_at INTEGER NOT NULL,
        attempts INTEGER NOT NULL DEFAULT 0,
        redaction_round INTEGER NOT NULL DEFAULT 0,  -- accepted in vain so often
        redaction_sent_at INTEGER,         -- when the redaction was accepted; it is not seen yet
        refused_age INTEGER,               -- from which age on it is refused; 0: not for its age
        parent TEXT,                       -- the message that this edit, reaction or vote is of
        relations_loaded INTEGER NOT NULL DEFAULT 0,  -- what belongs to the message is known
        backlog INTEGER NOT NULL DEFAULT 0,  -- it was overdue when it was stored, or fell behind
        from_local_clock INTEGER NOT NULL DEFAULT 0,  -- due was computed from the bot's own clock
        UNIQUE (room, event_id)
    ) STRICT;
    CREATE INDEX timers_retry ON timers (room, backlog, retry_at, redaction_sent_at);
    CREATE INDEX timers_parent ON timers (room, parent) WHERE parent IS NOT NULL;
    CREATE INDEX timers_refused ON timers (room) WHERE refused_age IS NOT NULL;
    CREATE INDEX timers_tried ON timers (room) WHERE attempts > 0 AND redaction_sent_at IS NULL;
    CREATE INDEX timers_untried ON timers (room, parent)
        WHERE parent IS NOT NULL AND redaction_sent_at IS NULL AND attempts = 0;
    CREATE INDEX timers_put_off ON timers (retry_at) WHERE retry_at > due;

    -- Edits, reactions and votes of messages that have no timer: these may be gone already.
    CREATE TABLE pending_relations (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        room INTEGER NOT NULL REFERENCES rooms (id) ON DELETE CASCADE,
        event_id TEXT NOT NULL,
        parent TEXT NOT NULL,
        retry_at INTEGER NOT NULL DEFAULT 0,
        attempts INTEGER NOT NULL DEFAULT 0,
        UNIQUE (room, event_id)
    ) STRICT;
    CREATE INDEX pending_relations_retry ON pending_relations (retry_at, id);
    CREATE INDEX pending_relations_parent ON pending_relations (room, parent);

    -- Messages that are gone, of which more belongs to them than one transaction makes due.
    CREATE TABLE gone_parents (
        room INTEGER NOT NULL REFERENCES rooms (id) ON DELETE CASCADE,
        parent TEXT NOT NULL,
        gone_at INTEGER NOT NULL,          -- when it was seen to be gone: they are due then
        last_child INTEGER NOT NULL,       -- the timer up to which they were made due
        PRIMARY KEY (room, parent)
    ) STRICT, WITHOUT ROWID;

    -- Files that messages show. A row without a timer is one whose message is gone.
    CREATE TABLE media (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        room INTEGER REFERENCES rooms (id) ON DELETE CASCADE,
        timer INTEGER REFERENCES timers (id) ON DELETE SET NULL,
        media_id TEXT NOT NULL,
        owner_digest TEXT NOT NULL,        -- of the sender
        retry_at INTEGER NOT NULL DEFAULT 0,
        attempts INTEGER NOT NULL DEFAULT 0,
        UNIQUE (timer, media_id)
    ) STRICT;
    CREATE INDEX media_by_id ON media (media_id);
    CREATE INDEX media_retry ON media (retry_at) WHERE timer IS NULL;
    CREATE INDEX media_room ON media (room);

    -- Parts of a timeline still to be read (core/timeline.py, Gap).
    CREATE TABLE gaps (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        room INTEGER NOT NULL REFERENCES rooms (id) ON DELETE CASCADE,
        timeline_part INTEGER NOT NULL,    -- where its items stand: gaps.py
        position INTEGER NOT NULL DEFAULT 0,  -- of the last item read, which is the earliest
        token TEXT NOT NULL,               -- what comes before it is still to be read
        stop_digest TEXT NOT NULL,         -- of the last event that was read before the gap
        stop_at INTEGER NOT NULL,          -- an event of the bot from before then ends it as well
        policy_digest TEXT NOT NULL,       -- as of the room when the gap began
        encrypted INTEGER NOT NULL DEFAULT 0,  -- the room was encrypted before the gap
        since INTEGER NOT NULL,            -- the lifetime of what is found began between this time
        until INTEGER NOT NULL,            -- and that one
        reread INTEGER NOT NULL DEFAULT 0,  -- it was read before; a command was understood late
        done INTEGER NOT NULL DEFAULT 0,   -- it is read, or given up
        size INTEGER NOT NULL DEFAULT 1000,  -- events to ask for at once
        retry_at INTEGER NOT NULL DEFAULT 0,
        attempts INTEGER NOT NULL DEFAULT 0,
        UNIQUE (room, timeline_part)
    ) STRICT;
    CREATE INDEX gaps_retry ON gaps (retry_at, id) WHERE NOT done;

    -- What was read in gaps, and what came after them; in this order they are the timeline.
    CREATE TABLE gap_items (
        room INTEGER NOT NULL REFERENCES rooms (id) ON DELETE CASCADE,
        timeline_part INTEGER NOT NULL,
        position INTEGER NOT NULL,
        event_id TEXT,                     -- of a message; else the item is JSON
        sent INTEGER,                      -- when the message's lifetime began
        parent TEXT,                       -- as of a timer
        item TEXT,
        PRIMARY KEY (room, timeline_part, position)
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX gap_items_event ON gap_items (room, event_id) WHERE event_id IS NOT NULL;

    -- Rooms that are read backwards for messages that have no timer (core/timeline.py, Sweep).
    CREATE TABLE sweeps (
        room INTEGER PRIMARY KEY REFERENCES rooms (id) ON DELETE CASCADE,
        whole_room INTEGER NOT NULL,       -- nothing is known of the room
        since INTEGER NOT NULL,            -- as of a gap
        until INTEGER NOT NULL,
        token TEXT,                        -- what comes before it is still to be read; NULL: all
        setting INTEGER,                   -- the lifetime in force there
        earlier_settings TEXT NOT NULL DEFAULT '[]',  -- JSON: before which messages
        defaults TEXT NOT NULL DEFAULT '[]',  -- JSON: the operator's, as far as they held there
        found_this_walk INTEGER NOT NULL DEFAULT 0,  -- messages without a timer
        found INTEGER NOT NULL DEFAULT 0,  -- and in all of them
        events_read INTEGER NOT NULL DEFAULT 0,  -- and in all walks
        empty_walks INTEGER NOT NULL DEFAULT 0,  -- walks since the last that found something
        gap_given_up INTEGER NOT NULL DEFAULT 0,  -- a gap was given up, and the room was told
        size INTEGER NOT NULL DEFAULT 1000,
        retry_at INTEGER NOT NULL DEFAULT 0,
        attempts INTEGER NOT NULL DEFAULT 0
    ) STRICT;
    CREATE INDEX sweeps_retry ON sweeps (retry_at, room);

    -- Answers, warnings and state events that are to be sent.
    CREATE TABLE outbox (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        room INTEGER NOT NULL REFERENCES rooms (id) ON DELETE CASCADE,
        key TEXT NOT NULL,                 -- of what is said once
        kind TEXT NOT NULL,
        args TEXT NOT NULL,                -- JSON
        retry_at INTEGER NOT NULL DEFAULT 0,
        attempts INTEGER NOT NULL DEFAULT 0,
        UNIQUE (room, key)
    ) STRICT;
    CREATE INDEX outbox_room ON outbox (room);
    CREATE INDEX outbox_words ON outbox (retry_at, id) WHERE kind <> 'set';
    CREATE INDEX outbox_setting ON outbox (retry_at, id) WHERE kind = 'set';

    -- Messages whose key has not come: each may be a command, or show a file.
    CREATE TABLE undecryptable (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        room INTEGER NOT NULL REFERENCES rooms (id) ON DELETE CASCADE,
        event_id TEXT NOT NULL,
        sender TEXT NOT NULL,
        session_id TEXT NOT NULL,
        sent INTEGER,                      -- when its lifetime began; NULL: when it was read
        read_at INTEGER NOT NULL,
        not_a_command INTEGER NOT NULL DEFAULT 0,  -- it may show a file, but is no command
        key_requested INTEGER NOT NULL DEFAULT 0,
        revision INTEGER NOT NULL DEFAULT 0,  -- as of the room at the message's place
        UNIQUE (room, event_id)
    ) STRICT;

    -- Commands that wait until the homeserver says what their sender may.
    CREATE TABLE pending_commands (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        room INTEGER NOT NULL REFERENCES rooms (id) ON DELETE CASCADE,
        digest TEXT NOT NULL,              -- of the command's event
        event_id TEXT NOT NULL,
        sender TEXT NOT NULL,
        needed_right TEXT NOT NULL,        -- what it takes to be allowed it
        request TEXT NOT NULL,             -- JSON: what it asks for
        sent INTEGER NOT NULL,             -- when its own lifetime began
        read_at INTEGER NOT NULL,
        device_id TEXT NOT NULL,           -- that encrypted it; empty: none
        device_key TEXT NOT NULL,
        thread TEXT NOT NULL DEFAULT '',   -- the root of the thread that it stands in
        revision INTEGER NOT NULL,         -- as of the room at the command's place
        retry_at INTEGER NOT NULL DEFAULT 0,
        attempts INTEGER NOT NULL DEFAULT 0,
        UNIQUE (room, digest)
    ) STRICT;
    CREATE INDEX pending_commands_retry ON pending_commands (retry_at, id);
    CREATE INDEX pending_commands_room ON pending_commands (room, id);

    -- Commands that have counted, so that none counts twice.
    CREATE TABLE handled_commands (
        digest TEXT PRIMARY KEY,
        handled_at INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX handled_commands_handled ON handled_commands (handled_at);

    -- Messages that were decrypted: their session is to be ratcheted past them.
    CREATE TABLE key_uses (
        session_id TEXT NOT NULL,
        message_index INTEGER NOT NULL,
        read_at INTEGER NOT NULL,
        PRIMARY KEY (session_id, message_index)
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX key_uses_read ON key_uses (read_at);

    -- Megolm sessions, which outlive what was read with them.
    CREATE TABLE megolm_sessions (
        session_id TEXT PRIMARY KEY,
        used_at INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID;

    -- Rooms that the bot is invited into, until it is in them or has declined.
    CREATE TABLE invitations (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        room_id TEXT NOT NULL UNIQUE,
        inviter TEXT,                      -- the account itself
        server TEXT NOT NULL,              -- of the account
        stage INTEGER NOT NULL DEFAULT 0,  -- core/invitations.py, InviteStage
        retry_at INTEGER NOT NULL DEFAULT 0,
        attempts INTEGER NOT NULL DEFAULT 0
    ) STRICT;
    CREATE INDEX invitations_server ON invitations (server, inviter);
    CREATE INDEX invitations_retry ON invitations (stage, retry_at, id);

    -- Rooms that another one's tombstone names; kept when all is done, so that each counts once.
    CREATE TABLE successors (
        room_id TEXT NOT NULL,
        predecessor TEXT NOT NULL,
        inviter_digest TEXT,               -- of who replaced the room
        setting INTEGER,                   -- the lifetime that goes along
        via TEXT NOT NULL,                 -- a server through which to join
        stage INTEGER NOT NULL,            -- core/successors.py, Stage
        joined_by_bot INTEGER NOT NULL DEFAULT 0,  -- without an invitation
        welcome_withheld INTEGER NOT NULL DEFAULT 0,  -- word of the old room greets it
        needs_announced INTEGER NOT NULL DEFAULT 0,  -- the room knows what the bot needs
        claimed_at INTEGER NOT NULL DEFAULT 0,  -- when the tombstone was seen
        retry_at INTEGER NOT NULL DEFAULT 0,
        attempts INTEGER NOT NULL DEFAULT 0,
        PRIMARY KEY (room_id, predecessor)
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX successors_predecessor ON successors (predecessor);
    CREATE INDEX successors_retry ON successors (retry_at, room_id) WHERE stage IN (0, 2);
"""

RELATIONS_SEEN: Final = """
    -- Messages with timers up to this one may have edits, reactions or votes that no sync showed.
    ALTER TABLE rooms ADD COLUMN unseen_up_to INTEGER NOT NULL DEFAULT 0;
    UPDATE rooms SET unseen_up_to = (SELECT coalesce(max(id), 0) FROM timers);
"""

MIGRATIONS: Final = (TABLES, RELATIONS_SEEN)
"""Each script moves the schema one version on; `PRAGMA user_version` counts them."""
