// A person with Element's crypto: one device on matrix-js-sdk, driven by JSON lines.
// With the argument `libolm`, on the last matrix-js-sdk that could encrypt with libolm.
//
// Standard input:  {"id": 1, "do": "login", "with": {...}}, and so on, a line each.
// Standard output: {"id": 1, "result": ...} or {"id": 1, "error": "..."}, in any order.
// The process ends when its standard input does. The keys live in memory: one process, one device.

import { webcrypto } from "node:crypto";
import { createInterface } from "node:readline";

// Whatever the sdk says goes to standard error, and only if it is a complaint.
for (const level of ["debug", "info", "log", "trace"]) console[level] = () => {};
console.warn = console.error;

const libolm = process.argv[2] === "libolm";
if (libolm) {
    // The sdk looks for it here, before anything of it is loaded.
    globalThis.Olm = (await import("@matrix-org/olm")).default;
    await globalThis.Olm.init();
}
const library = libolm ? "matrix-js-sdk-libolm" : "matrix-js-sdk";
const sdk = await import(library);
const api = await import(`${library}/lib/crypto-api/index.js`);
const { PollStartEvent } = await import(`${library}/lib/extensible_events_v1/PollStartEvent.js`);
const { PollResponseEvent } = await import(
    `${library}/lib/extensible_events_v1/PollResponseEvent.js`
);
const { PollEndEvent } = await import(`${library}/lib/extensible_events_v1/PollEndEvent.js`);

const MODES = {
    all: () => new api.AllDevicesIsolationMode(false),
    signed: () => new api.OnlySignedDevicesIsolationMode(),
};
const ENCRYPTION = {
    type: "m.room.encryption",
    state_key: "",
    content: { algorithm: "m.megolm.v1.aes-sha2" },
};
// A picture of one transparent pixel.
const PIXEL = Buffer.from(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhfDwAChwGA60e6kgAAAABJRU5ErkJggg==",
    "base64",
);

let client;
// What events were when they could be read, by their ids: a redacted one no longer tells.
const kinds = new Map();
// The verification under way, if there is one.
let verification;

async function until(look, what, within = 15_000) {
    const end = Date.now() + within;
    for (;;) {
        const seen = await look();
        if (seen) return seen;
        if (Date.now() > end) throw new Error(`waited ${within} ms in vain for ${what}`);
        await new Promise((resolve) => setTimeout(resolve, 20));
    }
}

/** Wait until this device knows the room, and knows that it is encrypted. */
async function enter(room) {
    await until(
        async () => client.getRoom(room) && client.getCrypto().isEncryptionEnabledInRoom(room),
        "the encrypted room in the sync",
    );
    return room;
}

async function send(room, type, content, thread = null) {
    return (await client.sendEvent(room, thread, type, content)).event_id;
}

function text(body, more = {}) {
    return { msgtype: "m.text", body, ...more };
}

/** Encrypt a file as the specification has it; return what goes into the event's `file`. */
async function upload(bytes, mimetype) {
    const subtle = webcrypto.subtle;
    const iv = new Uint8Array(16);
    webcrypto.getRandomValues(iv.subarray(0, 8));
    const algorithm = { name: "AES-CTR", length: 256 };
    const key = await subtle.generateKey(algorithm, true, ["encrypt", "decrypt"]);
    const counter = { name: "AES-CTR", counter: iv, length: 64 };
    const sealed = Buffer.from(await subtle.encrypt(counter, key, bytes));
    const hash = Buffer.from(await subtle.digest("SHA-256", sealed));
    const { content_uri: url } = await client.uploadContent(sealed, {
        type: "application/octet-stream",
        includeFilename: false,
    });
    const unpadded = (binary) => Buffer.from(binary).toString("base64").replace(/=+$/, "");
    return {
        v: "v2",
        url,
        mimetype,
        key: { ...(await subtle.exportKey("jwk", key)), alg: "A256CTR", ext: true },
        iv: unpadded(iv),
        hashes: { sha256: unpadded(hash) },
    };
}

/** The events of a room as a timeline shows them: of the room itself and of its threads. */
function eventsOf(room) {
    const sets = [room.getUnfilteredTimelineSet(), ...room.getThreads().map((t) => t.timelineSet)];
    const events = sets.flatMap((set) => set.getTimelines()).flatMap((t) => t.getEvents());
    const sent = events.filter((event) => event.status === null);
    return [...new Map(sent.map((event) => [event.getId(), event])).values()];
}

async function show(event) {
    const info = event.isEncrypted()
        ? await client.getCrypto().getEncryptionInfoForEvent(event)
        : null;
    return {
        event_id: event.getId(),
        sender: event.getSender(),
        type: event.getType(),
        was: kinds.get(event.getId()) ?? null,
        content: event.getContent(),
        encrypted: event.isEncrypted(),
        redacted: event.isRedacted(),
        // Why it could not be decrypted, if it could not.
        failure: event.isDecryptionFailure() ? event.decryptionFailureReason : null,
        shield: info && {
            colour: api.EventShieldColour[info.shieldColour].toLowerCase(),
            reason:
                info.shieldReason === null
                    ? null
                    : api.EventShieldReason[info.shieldReason].toLowerCase(),
        },
    };
}

const commands = {
    async login({ homeserver, user, password }) {
        const door = sdk.createClient({ baseUrl: homeserver });
        const answer = await door.loginRequest({
            type: "m.login.password",
            identifier: { type: "m.id.user", user },
            password,
        });
        client = sdk.createClient({
            baseUrl: homeserver,
            userId: answer.user_id,
            deviceId: answer.device_id,
            accessToken: answer.access_token,
            cryptoStore: libolm ? new sdk.MemoryCryptoStore() : undefined,
        });
        client.on("Event.decrypted", (event, error) => {
            const type = event.getType();
            const kind = type === "m.room.message" ? event.getContent().msgtype : type;
            if (!error) kinds.set(event.getId(), kind);
        });
        if (libolm) {
            await client.initLegacyCrypto();
            client.setGlobalErrorOnUnknownDevices(false);
        } else {
            await client.initRustCrypto({ useIndexedDB: false });
        }
        await client.startClient({ initialSyncLimit: 100, threadSupport: true });
        await until(() => client.getSyncState() === "SYNCING", "the first sync");
        return { crypto: client.getCrypto().getVersion() };
    },

    /** Make cross-signing keys and sign this device, as Element does at the first login. */
    async bootstrap() {
        await client.getCrypto().bootstrapCrossSigning({
            authUploadDeviceSigningKeys: (request) => request(null),
        });
        const me = client.getUserId();
        await until(async () => {
            const own = await client.getCrypto().getDeviceVerificationStatus(
                me,
                client.getDeviceId(),
            );
            return own?.crossSigningVerified;
        }, "the own device to be signed");
    },

    isolate({ mode }) {
        client.getCrypto().setDeviceIsolationMode(MODES[mode]());
    },

    async create_room({ name }) {
        const body = { preset: "private_chat", name, initial_state: [ENCRYPTION] };
        return enter((await client.createRoom(body)).room_id);
    },

    async join({ room }) {
        return enter((await client.joinRoom(room)).roomId);
    },

    async invite({ room, who }) {
        await client.invite(room, who);
    },

    members({ room }) {
        return client.getRoom(room).getJoinedMembers().map((member) => member.userId);
    },

    async set_power({ room, who, level }) {
        await client.setPowerLevel(room, who, level);
    },

    say({ room, body }) {
        return send(room, "m.room.message", text(body));
    },

    edit({ room, event, body }) {
        const relation = { rel_type: "m.replace", event_id: event };
        const content = text(`* ${body}`, { "m.new_content": text(body), "m.relates_to": relation });
        return send(room, "m.room.message", content);
    },

    react({ room, event, key }) {
        const relation = { rel_type: "m.annotation", event_id: event, key };
        return send(room, "m.reaction", { "m.relates_to": relation });
    },

    reply({ room, event, body }) {
        const relation = { "m.in_reply_to": { event_id: event } };
        return send(room, "m.room.message", text(body, { "m.relates_to": relation }));
    },

    thread({ room, event, body }) {
        const relation = {
            rel_type: "m.thread",
            event_id: event,
            is_falling_back: true,
            "m.in_reply_to": { event_id: event },
        };
        const where = client.getRoom(room);
        if (!where.getThread(event)) {
            where.createThread(event, where.findEventById(event), [], false);
        }
        return send(room, "m.room.message", text(body, { "m.relates_to": relation }), event);
    },

    poll_start({ room, question, answers }) {
        const poll = PollStartEvent.from(question, answers, "m.poll.disclosed").serialize();
        return send(room, poll.type, poll.content);
    },

    async poll_vote({ room, event, answer }) {
        const start = client.getRoom(room).findEventById(event);
        const poll = start.unstableExtensibleEvent.answers[answer].id;
        const vote = PollResponseEvent.from([poll], event).serialize();
        return send(room, vote.type, vote.content);
    },

    poll_end({ room, event, body }) {
        const end = PollEndEvent.from(event, body).serialize();
        return send(room, end.type, end.content);
    },

    async image({ room, body }) {
        const file = await upload(PIXEL, "image/png");
        const info = { mimetype: "image/png", size: PIXEL.length, w: 1, h: 1 };
        return send(room, "m.room.message", { msgtype: "m.image", body, file, info });
    },

    async sticker({ room, body }) {
        const { content_uri: url } = await client.uploadContent(PIXEL, { type: "image/png" });
        const info = { mimetype: "image/png", size: PIXEL.length, w: 1, h: 1 };
        return (await client.sendStickerMessage(room, url, info, body)).event_id;
    },

    async timeline({ room }) {
        return Promise.all(eventsOf(client.getRoom(room)).map(show));
    },

    /** Wait for an event whose body contains `text`. */
    async hear({ room, text, sender, seconds }) {
        const event = await until(
            () =>
                eventsOf(client.getRoom(room)).find(
                    (event) =>
                        event.getSender() === sender && event.getContent().body?.includes(text),
                ),
            `an event with ${JSON.stringify(text)}`,
            seconds * 1000,
        );
        return show(event);
    },

    /** How each device of an account stands with this one. */
    async devices({ user }) {
        const crypto = client.getCrypto();
        const devices = (await crypto.getUserDeviceInfo([user], true)).get(user) ?? new Map();
        const standing = {};
        for (const device of devices.keys()) {
            const status = await crypto.getDeviceVerificationStatus(user, device);
            standing[device] = { signed_by_owner: status.signedByOwner, verified: status.isVerified() };
        }
        return standing;
    },

    /** Encrypt what is said in rooms to verify somebody: the sdk does not, and other clients do. */
    seal() {
        const plain = client.http.authedRequest.bind(client.http);
        client.http.authedRequest = async (method, path, query, body, options) => {
            const [, room, type] = /rooms\/([^/]+)\/send\/([^/]+)\//.exec(path) ?? [];
            if (!room || type === "m.room.encrypted") {
                return plain(method, path, query, body, options);
            }
            const content = typeof body === "string" ? JSON.parse(body) : body;
            const sent = { event_id: await send(decodeURIComponent(room), type, content) };
            return options.json === false ? JSON.stringify(sent) : sent;
        };
    },

    /** Ask somebody to be verified, over to-device messages or in a room; return what is shown. */
    async verify({ user, device, room }) {
        const crypto = client.getCrypto();
        await crypto.getUserDeviceInfo([user], true);
        if (room) await until(() => client.getRoom(room), "the room in the sync");
        const request = room
            ? await crypto.requestVerificationDM(user, room)
            : await crypto.requestDeviceVerification(user, device);
        await until(() => request.phase === api.VerificationPhase.Ready, "the other to be ready");
        const verifier = await request.startVerification("m.sas.v1");
        const done = verifier.verify();
        done.catch(() => {});
        await until(() => verifier.getShowSasCallbacks(), "the emoji");
        verification = { request, done, callbacks: verifier.getShowSasCallbacks() };
        return verification.callbacks.sas;
    },

    /** Say that what is shown is what the other sees; wait until the user is verified. */
    async confirm({ user }) {
        await verification.callbacks.confirm();
        await verification.done;
        const crypto = client.getCrypto();
        const { request } = verification;
        await until(() => request.phase === api.VerificationPhase.Done, "the end");
        // The signature counts once it has come back from the homeserver.
        await until(
            async () => (await crypto.getUserVerificationStatus(user)).isCrossSigningVerified(),
            "the user to be verified",
        );
    },

    /** Say that it is not. */
    async mismatch() {
        verification.callbacks.mismatch();
        await verification.done.catch(() => {});
        return verification.request.cancellationCode;
    },
};

async function answer(line) {
    const { id, do: name, with: args } = JSON.parse(line);
    let reply;
    try {
        reply = { id, result: (await commands[name](args ?? {})) ?? null };
    } catch (error) {
        reply = { id, error: String(error) };
        console.error(error);
    }
    process.stdout.write(`${JSON.stringify(reply)}\n`);
}

const lines = createInterface({ input: process.stdin });
lines.on("line", (line) => void answer(line));
lines.on("close", () => {
    client?.stopClient();
    process.exit(0);
});
