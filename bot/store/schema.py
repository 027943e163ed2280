"""The tables, as they came to be: one script a version."""

from __future__ import annotations

from typing import Final

# AUTOINCREMENT: an id is never used again. Whoever is at work on a row that is gone meanwhile
# must not settle the row that came after it.
MIGRATIONS: Final = (
    """
    CREATE TABLE meta (
        key TEXT PRIMARY KEY,
        value ANY
    ) STRICT, WITHOUT ROWID;

    CREATE TABLE rooms (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        room_id TEXT NOT NULL UNIQUE,
        setting INTEGER,
        policy_digest TEXT NOT NULL DEFAULT '',
        commanded INTEGER NOT NULL DEFAULT 0,
        encrypted INTEGER NOT NULL DEFAULT 0,
        suspended INTEGER NOT NULL DEFAULT 0,
        review INTEGER NOT NULL DEFAULT 0,
        greeting INTEGER NOT NULL DEFAULT 0,
        segment INTEGER NOT NULL DEFAULT 0,
        last_digest TEXT NOT NULL DEFAULT ''
    ) STRICT;

    CREATE TABLE timers (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        room INTEGER NOT NULL REFERENCES rooms (id) ON DELETE CASCADE,
        event_id TEXT NOT NULL,
        due INTEGER NOT NULL,
        next INTEGER NOT NULL,
        attempts INTEGER NOT NULL DEFAULT 0,
        generation INTEGER NOT NULL DEFAULT 0,
        sent_at INTEGER,
        UNIQUE (room, event_id)
    ) STRICT;
    CREATE INDEX timers_next ON timers (room, next);

    CREATE TABLE gaps (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        room INTEGER NOT NULL REFERENCES rooms (id) ON DELETE CASCADE,
        segment INTEGER NOT NULL,
        position INTEGER NOT NULL DEFAULT 0,
        token TEXT NOT NULL,
        stop_digest TEXT NOT NULL,
        policy_digest TEXT NOT NULL,
        stop_at INTEGER NOT NULL,
        since INTEGER NOT NULL,
        until INTEGER NOT NULL,
        next INTEGER NOT NULL DEFAULT 0,
        attempts INTEGER NOT NULL DEFAULT 0,
        done INTEGER NOT NULL DEFAULT 0,
        UNIQUE (room, segment)
    ) STRICT;

    CREATE TABLE unread (
        room INTEGER NOT NULL REFERENCES rooms (id) ON DELETE CASCADE,
        segment INTEGER NOT NULL,
        position INTEGER NOT NULL,
        item TEXT NOT NULL,
        event_id TEXT,
        PRIMARY KEY (room, segment, position)
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX unread_event ON unread (room, event_id) WHERE event_id IS NOT NULL;

    CREATE TABLE owed (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        room INTEGER NOT NULL REFERENCES rooms (id) ON DELETE CASCADE,
        key TEXT NOT NULL,
        kind TEXT NOT NULL,
        args TEXT NOT NULL,
        next INTEGER NOT NULL DEFAULT 0,
        attempts INTEGER NOT NULL DEFAULT 0,
        UNIQUE (room, key)
    ) STRICT;

    CREATE TABLE invites (
        room_id TEXT PRIMARY KEY,
        inviter TEXT,
        next INTEGER NOT NULL DEFAULT 0,
        attempts INTEGER NOT NULL DEFAULT 0
    ) STRICT, WITHOUT ROWID;

    CREATE TABLE unheard (
        room INTEGER NOT NULL REFERENCES rooms (id) ON DELETE CASCADE,
        event_id TEXT NOT NULL,
        sender TEXT NOT NULL,
        session_id TEXT NOT NULL,
        at INTEGER NOT NULL,
        setting INTEGER,
        policy_digest TEXT NOT NULL,
        asked INTEGER NOT NULL DEFAULT 0,
        PRIMARY KEY (room, event_id)
    ) STRICT, WITHOUT ROWID;

    CREATE TABLE opened (
        session_id TEXT NOT NULL,
        message INTEGER NOT NULL,
        at INTEGER NOT NULL,
        PRIMARY KEY (session_id, message)
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX opened_at ON opened (at);

    CREATE TABLE sessions (
        session_id TEXT PRIMARY KEY,
        used_at INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID;

    CREATE TABLE handled (
        digest TEXT PRIMARY KEY,
        at INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX handled_at ON handled (at);
    """,
    """
    ALTER TABLE timers ADD COLUMN parent TEXT;
    ALTER TABLE timers ADD COLUMN looked INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE timers ADD COLUMN backlog INTEGER NOT NULL DEFAULT 0;
    CREATE INDEX timers_parent ON timers (room, parent) WHERE parent IS NOT NULL;
    DROP INDEX timers_next;
    CREATE INDEX timers_next ON timers (room, backlog, next);

    ALTER TABLE timers ADD COLUMN local INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE gaps ADD COLUMN again INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE timers ADD COLUMN refused INTEGER;
    CREATE INDEX timers_refused ON timers (room) WHERE refused IS NOT NULL;
    ALTER TABLE rooms ADD COLUMN stuck INTEGER NOT NULL DEFAULT 0;

    CREATE TABLE left_behind (
        room_id TEXT NOT NULL,
        event_id TEXT NOT NULL,
        due INTEGER NOT NULL,
        generation INTEGER NOT NULL,
        parent TEXT,
        at INTEGER NOT NULL,
        PRIMARY KEY (room_id, event_id)
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX left_behind_at ON left_behind (at);

    ALTER TABLE unheard ADD COLUMN quiet INTEGER NOT NULL DEFAULT 0;

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

    CREATE TABLE sweeps (
        room INTEGER PRIMARY KEY REFERENCES rooms (id) ON DELETE CASCADE,
        whole INTEGER NOT NULL,
        since INTEGER NOT NULL,
        until INTEGER NOT NULL,
        token TEXT,
        setting INTEGER,
        fresh INTEGER NOT NULL DEFAULT 0,
        found INTEGER NOT NULL DEFAULT 0,
        events INTEGER NOT NULL DEFAULT 0,
        empty INTEGER NOT NULL DEFAULT 0,
        next INTEGER NOT NULL DEFAULT 0,
        attempts INTEGER NOT NULL DEFAULT 0
    ) STRICT;

    CREATE TABLE successors (
        room_id TEXT NOT NULL,
        predecessor TEXT NOT NULL,
        setting INTEGER,
        via TEXT NOT NULL,
        stage INTEGER NOT NULL,
        followed INTEGER NOT NULL DEFAULT 0,
        ungreeted INTEGER NOT NULL DEFAULT 0,
        told INTEGER NOT NULL DEFAULT 0,
        next INTEGER NOT NULL DEFAULT 0,
        attempts INTEGER NOT NULL DEFAULT 0,
        PRIMARY KEY (room_id, predecessor)
    ) STRICT, WITHOUT ROWID;

    CREATE TABLE files (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        room INTEGER REFERENCES rooms (id) ON DELETE CASCADE,
        timer INTEGER REFERENCES timers (id) ON DELETE SET NULL,
        media_id TEXT NOT NULL,
        owner TEXT NOT NULL,
        next INTEGER NOT NULL DEFAULT 0,
        attempts INTEGER NOT NULL DEFAULT 0,
        UNIQUE (timer, media_id)
    ) STRICT;
    CREATE INDEX files_media ON files (media_id);
    CREATE INDEX files_next ON files (next) WHERE timer IS NULL;
    """,
    """
    ALTER TABLE sweeps ADD COLUMN before TEXT NOT NULL DEFAULT '[]';
    """,
    """
    DROP TABLE invites;
    CREATE TABLE invites (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        room_id TEXT NOT NULL UNIQUE,
        inviter TEXT,
        server TEXT NOT NULL,
        stage INTEGER NOT NULL DEFAULT 0,
        next INTEGER NOT NULL DEFAULT 0,
        attempts INTEGER NOT NULL DEFAULT 0
    ) STRICT;
    CREATE INDEX invites_server ON invites (server, inviter);
    CREATE INDEX invites_next ON invites (stage, next, id);

    ALTER TABLE rooms ADD COLUMN inviter TEXT;
    CREATE INDEX rooms_inviter ON rooms (inviter) WHERE inviter IS NOT NULL;
    ALTER TABLE rooms ADD COLUMN review_at INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE rooms ADD COLUMN review_attempts INTEGER NOT NULL DEFAULT 0;
    CREATE INDEX rooms_review ON rooms (review_at) WHERE review > 0;
    ALTER TABLE rooms ADD COLUMN removed INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE rooms ADD COLUMN alone_at INTEGER;
    CREATE INDEX rooms_alone ON rooms (alone_at) WHERE alone_at IS NOT NULL;

    DROP TABLE left_behind;
    ALTER TABLE rooms ADD COLUMN left_at INTEGER;
    ALTER TABLE rooms ADD COLUMN came_back INTEGER NOT NULL DEFAULT 0;
    CREATE INDEX timers_tried ON timers (room) WHERE attempts > 0 AND sent_at IS NULL;
    CREATE INDEX files_room ON files (room);

    ALTER TABLE successors ADD COLUMN inviter TEXT;
    ALTER TABLE successors ADD COLUMN at INTEGER NOT NULL DEFAULT 0;
    CREATE INDEX successors_predecessor ON successors (predecessor);

    CREATE INDEX owed_room ON owed (room);
    CREATE INDEX owed_words ON owed (next, id) WHERE kind <> 'set';
    CREATE INDEX owed_setting ON owed (next, id) WHERE kind = 'set';

    ALTER TABLE gaps ADD COLUMN size INTEGER NOT NULL DEFAULT 1000;
    ALTER TABLE sweeps ADD COLUMN size INTEGER NOT NULL DEFAULT 1000;
    ALTER TABLE sweeps ADD COLUMN missed INTEGER NOT NULL DEFAULT 0;
    CREATE INDEX gaps_next ON gaps (next, id) WHERE NOT done;
    CREATE INDEX sweeps_next ON sweeps (next, room);
    CREATE INDEX successors_next ON successors (next, room_id) WHERE stage IN (0, 2);
    """,
    """
    ALTER TABLE rooms ADD COLUMN stated INTEGER;
    ALTER TABLE rooms ADD COLUMN awaits TEXT NOT NULL DEFAULT '';
    ALTER TABLE rooms ADD COLUMN revision INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE rooms ADD COLUMN encrypted_here INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE gaps ADD COLUMN encrypted INTEGER NOT NULL DEFAULT 0;
    UPDATE rooms SET stated = setting, encrypted_here = encrypted, commanded =
        EXISTS (SELECT 1 FROM owed WHERE owed.room = rooms.id AND owed.kind = 'set');
    UPDATE gaps SET encrypted = (SELECT r.encrypted FROM rooms r WHERE r.id = gaps.room);

    ALTER TABLE unheard ADD COLUMN sent INTEGER;
    ALTER TABLE unheard ADD COLUMN revision INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE unheard ADD COLUMN number INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE unheard DROP COLUMN setting;
    ALTER TABLE unheard DROP COLUMN policy_digest;

    CREATE TABLE undecided (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        room INTEGER NOT NULL REFERENCES rooms (id) ON DELETE CASCADE,
        digest TEXT NOT NULL,
        event_id TEXT NOT NULL,
        sender TEXT NOT NULL,
        setting INTEGER NOT NULL,
        sent INTEGER NOT NULL,
        at INTEGER NOT NULL,
        device_id TEXT NOT NULL,
        device_key TEXT NOT NULL,
        revision INTEGER NOT NULL,
        next INTEGER NOT NULL DEFAULT 0,
        attempts INTEGER NOT NULL DEFAULT 0,
        UNIQUE (room, digest)
    ) STRICT;
    CREATE INDEX undecided_room ON undecided (room, id);
    """,
    """
    ALTER TABLE rooms ADD COLUMN inherited INTEGER;
    ALTER TABLE rooms ADD COLUMN defaults TEXT NOT NULL DEFAULT '[]';
    ALTER TABLE rooms ADD COLUMN told_defaults TEXT NOT NULL DEFAULT '[]';
    ALTER TABLE sweeps ADD COLUMN defaults TEXT NOT NULL DEFAULT '[]';
    ALTER TABLE undecided ADD COLUMN thread TEXT NOT NULL DEFAULT '';
    ALTER TABLE rooms ADD COLUMN policy_check_at INTEGER;
    ALTER TABLE rooms ADD COLUMN policy_checks INTEGER NOT NULL DEFAULT 0;
    CREATE INDEX rooms_policy_check ON rooms (policy_check_at) WHERE policy_check_at IS NOT NULL;
    """,
    """
    DROP INDEX timers_next;
    CREATE INDEX timers_next ON timers (room, backlog, next, sent_at);
    CREATE INDEX timers_untried ON timers (room, parent)
        WHERE parent IS NOT NULL AND sent_at IS NULL AND attempts = 0;
    CREATE INDEX timers_put_off ON timers (next) WHERE next > due;

    CREATE TABLE gone_parents (
        room INTEGER NOT NULL REFERENCES rooms (id) ON DELETE CASCADE,
        parent TEXT NOT NULL,
        at INTEGER NOT NULL,
        after INTEGER NOT NULL,
        PRIMARY KEY (room, parent)
    ) STRICT, WITHOUT ROWID;
    """,
)
"""Each entry moves the schema one version on; `PRAGMA user_version` counts them."""
