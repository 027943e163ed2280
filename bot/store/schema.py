"""The tables. Times and lengths of time are in milliseconds; `room` is the number of a room's row.

A digest is a keyed hash of an id, which tells it again without keeping it. What waits for its turn
has `next`, the time before which it is not tried, and `attempts`, its failures in a row.
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
        inviter TEXT,                      -- digest of the account for which the bot is here
        last_digest TEXT NOT NULL DEFAULT '',  -- of the last event read

        -- How the room stands where its timeline is read to (core/policy.py, RoomState).
        setting INTEGER,                   -- the lifetime in force; 0: off; NULL: nobody set one
        stated INTEGER,                    -- the same, as the room's state says it
        policy_digest TEXT NOT NULL DEFAULT '',  -- of the state event that says it
        commanded INTEGER NOT NULL DEFAULT 0,  -- a command set it, the state does not say it yet
        awaits TEXT NOT NULL DEFAULT '',   -- digest of the state event that is to say it
        revision INTEGER NOT NULL DEFAULT 0,  -- how often the lifetime was changed
        encrypted_here INTEGER NOT NULL DEFAULT 0,  -- encryption is on there
        encrypted INTEGER NOT NULL DEFAULT 0,  -- encryption is on, wherever that was seen

        -- The operator's default, where nobody has set a lifetime (core/default_lifetime.py).
        inherited INTEGER,                 -- what holds where the timeline is read to
        defaults TEXT NOT NULL DEFAULT '[]',  -- JSON: since when which held
        told_defaults TEXT NOT NULL DEFAULT '[]',  -- the same, as the bot wrote it into the room

        segment INTEGER NOT NULL DEFAULT 0,  -- where new items stand behind the gaps; 0: no gap

        -- What the bot may do here is looked at anew.
        suspended INTEGER NOT NULL DEFAULT 0,  -- the bot lacks the power to redact
        stuck INTEGER NOT NULL DEFAULT 0,  -- the room knows of messages that cannot be redacted
        greeting INTEGER NOT NULL DEFAULT 0,  -- the bot has just come
        removed INTEGER NOT NULL DEFAULT 0,  -- a sync says that the bot is no longer here
        review INTEGER NOT NULL DEFAULT 0,  -- how often a look was asked for since the last one
        review_at INTEGER NOT NULL DEFAULT 0,
        review_attempts INTEGER NOT NULL DEFAULT 0,
        alone_at INTEGER,                  -- when to look whether the bot is alone; NULL: it is not
        policy_check_at INTEGER,           -- when to compare the lifetime with the state
        policy_checks INTEGER NOT NULL DEFAULT 0,

        left_at INTEGER,                   -- when the bot left; 0: all of it may be deleted now
        came_back INTEGER NOT NULL DEFAULT 0  -- when it returned, until its timers are in order
    ) STRICT;
    CREATE INDEX rooms_inviter ON rooms (inviter) WHERE inviter IS NOT NULL;
    CREATE INDEX rooms_review ON rooms (review_at) WHERE review > 0;
    CREATE INDEX rooms_alone ON rooms (alone_at) WHERE alone_at IS NOT NULL;
    CREATE INDEX rooms_policy_check ON rooms (policy_check_at) WHERE policy_check_at IS NOT NULL;

    -- One pending redaction each.
    CREATE TABLE timers (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        room INTEGER NOT NULL REFERENCES rooms (id) ON DELETE CASCADE,
        event_id TEXT NOT NULL,
        due INTEGER NOT NULL,
        next INTEGER NOT NULL,
        attempts INTEGER NOT NULL DEFAULT 0,
        generation INTEGER NOT NULL DEFAULT 0,  -- redactions that were accepted and did not happen
        sent_at INTEGER,                   -- when the redaction was accepted; it is not seen yet
        refused INTEGER,                   -- from which age on it is refused; 0: not for its age
        parent TEXT,                       -- the message that this edit, reaction or vote is of
        looked INTEGER NOT NULL DEFAULT 0,  -- what belongs to the message is known
        backlog INTEGER NOT NULL DEFAULT 0,  -- it was overdue already when it was stored
        local INTEGER NOT NULL DEFAULT 0,  -- due was computed from the bot's own clock
        UNIQUE (room, event_id)
    ) STRICT;
    CREATE INDEX timers_next ON timers (room, backlog, next, sent_at);
    CREATE INDEX timers_parent ON timers (room, parent) WHERE parent IS NOT NULL;
    CREATE INDEX timers_refused ON timers (room) WHERE refused IS NOT NULL;
    CREATE INDEX timers_tried ON timers (room) WHERE attempts > 0 AND sent_at IS NULL;
    CREATE INDEX timers_untried ON timers (room, parent)
        WHERE parent IS NOT NULL AND sent_at IS NULL AND attempts = 0;
    CREATE INDEX timers_put_off ON timers (next) WHERE next > due;

    -- Edits, reactions and votes of messages that have no timer: these may be gone already.
    CREATE TABLE orphans (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        room INTEGER NOT NULL REFERENCES rooms (id) ON DELETE CASCADE,
        event_id TEXT NOT NULL,
        parent TEXT NOT NULL,
        next INTEGER NOT NULL DEFAULT 0,
        attempts INTEGER NOT NULL DEFAULT 0,
        UNIQUE (room, event_id)
    ) STRICT;
    CREATE INDEX orphans_next ON orphans (next, id);
    CREATE INDEX orphans_parent ON orphans (room, parent);

    -- Messages that are gone, of which more belongs to them than one transaction makes due.
    CREATE TABLE gone_parents (
        room INTEGER NOT NULL REFERENCES rooms (id) ON DELETE CASCADE,
        parent TEXT NOT NULL,
        at INTEGER NOT NULL,               -- when it was seen to be gone: they are due then
        after INTEGER NOT NULL,            -- the timer up to which they were made due
        PRIMARY KEY (room, parent)
    ) STRICT, WITHOUT ROWID;

    -- Files that messages show. A row without a timer is one whose message is gone.
    CREATE TABLE files (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        room INTEGER REFERENCES rooms (id) ON DELETE CASCADE,
        timer INTEGER REFERENCES timers (id) ON DELETE SET NULL,
        media_id TEXT NOT NULL,
        owner TEXT NOT NULL,               -- digest of the sender
        next INTEGER NOT NULL DEFAULT 0,
        attempts INTEGER NOT NULL DEFAULT 0,
        UNIQUE (timer, media_id)
    ) STRICT;
    CREATE INDEX files_media ON files (media_id);
    CREATE INDEX files_next ON files (next) WHERE timer IS NULL;
    CREATE INDEX files_room ON files (room);

    -- Parts of a timeline still to be read (core/timeline.py, Gap).
    CREATE TABLE gaps (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        room INTEGER NOT NULL REFERENCES rooms (id) ON DELETE CASCADE,
        segment INTEGER NOT NULL,          -- where its items stand: gaps.py
        position INTEGER NOT NULL DEFAULT 0,  -- of the last item read, which is the earliest
        token TEXT NOT NULL,               -- what comes before it is still to be read
        stop_digest TEXT NOT NULL,         -- of the last event that was read before the gap
        stop_at INTEGER NOT NULL,          -- an event of the bot from before then ends it as well
        policy_digest TEXT NOT NULL,       -- as of the room when the gap began
        encrypted INTEGER NOT NULL DEFAULT 0,  -- the room was encrypted before the gap
        since INTEGER NOT NULL,            -- the lifetime of what is found began between this time
        until INTEGER NOT NULL,            -- and that one
        again INTEGER NOT NULL DEFAULT 0,  -- it was read before; a command was understood late
        done INTEGER NOT NULL DEFAULT 0,   -- it is read, or given up
        size INTEGER NOT NULL DEFAULT 1000,  -- events to ask for at once
        next INTEGER NOT NULL DEFAULT 0,
        attempts INTEGER NOT NULL DEFAULT 0,
        UNIQUE (room, segment)
    ) STRICT;
    CREATE INDEX gaps_next ON gaps (next, id) WHERE NOT done;

    -- What was read in gaps, and what came after them; in this order they are the timeline.
    CREATE TABLE unread (
        room INTEGER NOT NULL REFERENCES rooms (id) ON DELETE CASCADE,
        segment INTEGER NOT NULL,
        position INTEGER NOT NULL,
        item TEXT NOT NULL,                -- JSON; of a message: when it began, and its parent
        event_id TEXT,                     -- of a message
        PRIMARY KEY (room, segment, position)
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX unread_event ON unread (room, event_id) WHERE event_id IS NOT NULL;

    -- Rooms that are read backwards for messages that have no timer (core/timeline.py, Sweep).
    CREATE TABLE sweeps (
        room INTEGER PRIMARY KEY REFERENCES rooms (id) ON DELETE CASCADE,
        whole INTEGER NOT NULL,            -- nothing is known of the room
        since INTEGER NOT NULL,            -- as of a gap
        until INTEGER NOT NULL,
        token TEXT,                        -- what comes before it is still to be read; NULL: all
        setting INTEGER,                   -- the lifetime in force there
        before TEXT NOT NULL DEFAULT '[]',  -- JSON: before which messages another was in force
        defaults TEXT NOT NULL DEFAULT '[]',  -- JSON: the operator's, as far as they held there
        fresh INTEGER NOT NULL DEFAULT 0,  -- messages found in this walk
        found INTEGER NOT NULL DEFAULT 0,  -- and in all of them
        events INTEGER NOT NULL DEFAULT 0,  -- read in all walks
        empty INTEGER NOT NULL DEFAULT 0,  -- walks since the last that found something
        missed INTEGER NOT NULL DEFAULT 0,  -- a gap was given up, and the room was told
        size INTEGER NOT NULL DEFAULT 1000,
        next INTEGER NOT NULL DEFAULT 0,
        attempts INTEGER NOT NULL DEFAULT 0
    ) STRICT;
    CREATE INDEX sweeps_next ON sweeps (next, room);

    -- Answers, warnings and state events that are to be sent.
    CREATE TABLE owed (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        room INTEGER NOT NULL REFERENCES rooms (id) ON DELETE CASCADE,
        key TEXT NOT NULL,                 -- of what is said once
        kind TEXT NOT NULL,
        args TEXT NOT NULL,                -- JSON
        next INTEGER NOT NULL DEFAULT 0,
        attempts INTEGER NOT NULL DEFAULT 0,
        UNIQUE (room, key)
    ) STRICT;
    CREATE INDEX owed_room ON owed (room);
    CREATE INDEX owed_words ON owed (next, id) WHERE kind <> 'set';
    CREATE INDEX owed_setting ON owed (next, id) WHERE kind = 'set';

    -- Messages whose key has not come: each may be a command, or show a file.
    CREATE TABLE unheard (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        room INTEGER NOT NULL REFERENCES rooms (id) ON DELETE CASCADE,
        event_id TEXT NOT NULL,
        sender TEXT NOT NULL,
        session_id TEXT NOT NULL,
        sent INTEGER,                      -- when its lifetime began; NULL: when it was read
        at INTEGER NOT NULL,               -- when it was read
        quiet INTEGER NOT NULL DEFAULT 0,  -- it may show a file, but is no command
        asked INTEGER NOT NULL DEFAULT 0,  -- the key was requested
        revision INTEGER NOT NULL DEFAULT 0,  -- as of the room at the message's place
        UNIQUE (room, event_id)
    ) STRICT;

    -- Commands that wait until the homeserver says what their sender may.
    CREATE TABLE undecided (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        room INTEGER NOT NULL REFERENCES rooms (id) ON DELETE CASCADE,
        digest TEXT NOT NULL,              -- of the command's event
        event_id TEXT NOT NULL,
        sender TEXT NOT NULL,
        setting INTEGER NOT NULL,          -- the lifetime that is asked for; 0: off
        sent INTEGER NOT NULL,             -- when its own lifetime began
        at INTEGER NOT NULL,               -- when it was read
        device_id TEXT NOT NULL,           -- that encrypted it; empty: none
        device_key TEXT NOT NULL,
        thread TEXT NOT NULL DEFAULT '',   -- the root of the thread that it stands in
        revision INTEGER NOT NULL,         -- as of the room at the command's place
        next INTEGER NOT NULL DEFAULT 0,
        attempts INTEGER NOT NULL DEFAULT 0,
        UNIQUE (room, digest)
    ) STRICT;
    CREATE INDEX undecided_room ON undecided (room, id);

    -- Commands that have counted, so that none counts twice.
    CREATE TABLE handled (
        digest TEXT PRIMARY KEY,
        at INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX handled_at ON handled (at);

    -- Messages that were decrypted: their session is to be ratcheted past them.
    CREATE TABLE opened (
        session_id TEXT NOT NULL,
        message INTEGER NOT NULL,          -- its index in the session
        at INTEGER NOT NULL,               -- when it was read
        PRIMARY KEY (session_id, message)
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX opened_at ON opened (at);

    -- Megolm sessions, which outlive what was read with them.
    CREATE TABLE sessions (
        session_id TEXT PRIMARY KEY,
        used_at INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID;

    -- Rooms that the bot is invited into; of none of them is there a row in rooms.
    CREATE TABLE invites (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        room_id TEXT NOT NULL UNIQUE,
        inviter TEXT,                      -- the account itself
        server TEXT NOT NULL,              -- of the account
        stage INTEGER NOT NULL DEFAULT 0,  -- core/invitations.py, InviteStage
        next INTEGER NOT NULL DEFAULT 0,
        attempts INTEGER NOT NULL DEFAULT 0
    ) STRICT;
    CREATE INDEX invites_server ON invites (server, inviter);
    CREATE INDEX invites_next ON invites (stage, next, id);

    -- Rooms that another one's tombstone names; kept when all is done, so that each counts once.
    CREATE TABLE successors (
        room_id TEXT NOT NULL,
        predecessor TEXT NOT NULL,
        inviter TEXT,                      -- digest of who replaced the room
        setting INTEGER,                   -- the lifetime that goes along
        via TEXT NOT NULL,                 -- a server through which to join
        stage INTEGER NOT NULL,            -- core/successors.py, Stage
        followed INTEGER NOT NULL DEFAULT 0,  -- the bot joined by itself
        ungreeted INTEGER NOT NULL DEFAULT 0,  -- what is said of the old room greets the new one
        told INTEGER NOT NULL DEFAULT 0,   -- the room knows what the bot needs
        at INTEGER NOT NULL DEFAULT 0,     -- when the tombstone was seen
        next INTEGER NOT NULL DEFAULT 0,
        attempts INTEGER NOT NULL DEFAULT 0,
        PRIMARY KEY (room_id, predecessor)
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX successors_predecessor ON successors (predecessor);
    CREATE INDEX successors_next ON successors (next, room_id) WHERE stage IN (0, 2);
"""

MIGRATIONS: Final = (TABLES,)
"""Each script moves the schema one version on; `PRAGMA user_version` counts them."""
