// Does once what a new device of an account does with the account's secret storage.
//
// Standard input: one JSON object. `do` is "open": take the identity from the secret storage with
// the recovery key `key`. Or it is "make": make an identity and a secret storage for the account.
// Standard output: one JSON object. The keys live in memory and go with the process.

for (const level of ["debug", "info", "log", "trace"]) console[level] = () => {};
console.warn = console.error;

const { text } = await import("node:stream/consumers");
const sdk = await import("matrix-js-sdk");
const { decodeRecoveryKey } = await import("matrix-js-sdk/lib/crypto-api/recovery-key.js");

const wanted = JSON.parse(await text(process.stdin));

/** Log in as a new device; secret storage is opened with the key of this moment. */
async function enter() {
    const { homeserver: baseUrl, user, password } = wanted;
    const answer = await sdk.createClient({ baseUrl }).loginRequest({
        type: "m.login.password",
        identifier: { type: "m.id.user", user },
        password,
    });
    const client = sdk.createClient({
        baseUrl,
        userId: answer.user_id,
        deviceId: answer.device_id,
        accessToken: answer.access_token,
        cryptoCallbacks: {
            getSecretStorageKey: async ({ keys }) => [Object.keys(keys)[0], key],
            cacheSecretStorageKey: (_id, _info, made) => (key = made),
        },
    });
    await client.initRustCrypto({ useIndexedDB: false });
    await client.startClient({ initialSyncLimit: 1 });
    while (client.getSyncState() !== "SYNCING") await new Promise((done) => setTimeout(done, 20));
    return client;
}

/** How the account's identity stands with this device. */
async function identity(client) {
    const crypto = client.getCrypto();
    await crypto.userHasCrossSigningKeys(client.getUserId(), true);
    const own = await crypto.getDeviceVerificationStatus(client.getUserId(), client.getDeviceId());
    return {
        master: await crypto.getCrossSigningKeyId("master"),
        ready: await crypto.isCrossSigningReady(),
        signed: own.signedByOwner && own.crossSigningVerified,
        stored: Object.values((await crypto.getCrossSigningStatus()).privateKeysCachedLocally),
    };
}

async function open() {
    key = decodeRecoveryKey(wanted.key);
    const client = await enter();
    const storage = client.secretStorage;
    const [, info] = await storage.getKey();
    const fits = await storage.checkKey(key, info);
    if (!fits) return { fits };
    await client.getCrypto().userHasCrossSigningKeys(client.getUserId(), true);
    await client.getCrypto().bootstrapCrossSigning({
        authUploadDeviceSigningKeys: () => {
            throw new Error("the identity was to be taken over, not made anew");
        },
    });
    return { fits, ...(await identity(client)) };
}

async function make() {
    const client = await enter();
    const crypto = client.getCrypto();
    await crypto.bootstrapCrossSigning({
        authUploadDeviceSigningKeys: (request) => request(null),
    });
    const made = await crypto.createRecoveryKeyFromPassphrase();
    await crypto.bootstrapSecretStorage({ createSecretStorageKey: async () => made });
    return { key: made.encodedPrivateKey, ...(await identity(client)) };
}

let key;
const result = await { open, make }[wanted.do]();
process.stdout.write(JSON.stringify(result) + "\n", () => process.exit(0));
