// Runs checks of `matrix.py` with a client that is written in JavaScript, in Node, Bun or a page.
//
// A client is an async function `open(url, subprotocols, compress)` that gives a session, or throws `Refused`. A
// session knows its `subprotocol` and whether it is `compressed`, and has a method for each step.

const CHECK_MS_MAX = 20_000;

// The upgrade was answered with this status; undefined where a client does not tell.
export class Refused extends Error {
    constructor(status) {
        super(`refused with ${status}`);
        this.status = status;
    }
}

// What arrives while nobody waits for it is kept, in order. When `end` was called, waiting beyond what came fails.
export class Inbox {
    #kept = [];
    #asked = [];

    put(value) {
        if (this.#asked.length > 0) this.#asked.shift()(value);
        else this.#kept.push(value);
    }

    next() {
        if (this.#kept.length > 0) return Promise.resolve(this.#kept.shift());
        return new Promise((resolve) => this.#asked.push(resolve));
    }

    // The next, which must be an event of this name.
    async expect(name) {
        const [found, value] = await this.next();
        same(found, name, `what came (${brief(value)})`);
        return value;
    }
}

// Text as it is, binary as bytes.
function expand(kind, [unit, times]) {
    if (kind === "text") return unit.repeat(times);
    const bytes = Uint8Array.from(unit.match(/../g) ?? [], (pair) => parseInt(pair, 16));
    const whole = new Uint8Array(bytes.length * times);
    for (let i = 0; i < times; i++) whole.set(bytes, i * bytes.length);
    return whole;
}

function brief(value) {
    const text = value instanceof Uint8Array ? `bytes ${value.slice(0, 20)}` : JSON.stringify(value) ?? "";
    return text.length < 80 ? text : `${text.slice(0, 70)}… (${value.length} long)`;
}

function equal(a, b) {
    if (!(a instanceof Uint8Array) || !(b instanceof Uint8Array)) return a === b;
    return a.length === b.length && a.every((byte, i) => byte === b[i]);
}

export function same(found, wanted, what) {
    if (!equal(found, wanted)) throw new Error(`${what}: ${brief(found)} instead of ${brief(wanted)}`);
}

// Runs one step; true if it ended the connection.
async function step(session, [name, ...args]) {
    switch (name) {
        case "send":
            await session.send(expand(...args));
            return false;
        case "fragments":
            await session.fragments(args[1].map((content) => expand(args[0], content)));
            return false;
        case "expect":
            same(await session.receive(), expand(...args), "message");
            return false;
        case "ping":
            await session.ping(args[0]);
            return false;
        case "close":
            same(await session.close(...args), args[0], "the answer to our close code");
            return true;
        case "expect_close": {
            const { code, reason } = await session.waitClosed();
            same(code, args[0], "close code");
            if (args[1] !== null) same(reason, args[1], "close reason");
            return true;
        }
        default:
            throw new Error(`unknown step ${name}`);
    }
}

async function check(open, url, wanted) {
    const refused = wanted.refused ?? 101;
    let session;
    try {
        session = await open(url + wanted.path, wanted.subprotocols ?? [], wanted.compress);
    } catch (error) {
        if (!(error instanceof Refused)) throw error;
        same(error.status ?? (refused === 101 ? "a refusal" : refused), refused, "status");
        return;
    }
    same(101, refused, "status");
    if ("subprotocol" in wanted) same(session.subprotocol, wanted.subprotocol, "subprotocol");
    if ("compressed" in wanted) same(session.compressed, wanted.compressed, "compressed");
    for (const one of wanted.steps) {
        if (await step(session, one)) return;
    }
    await step(session, ["close", 1000, ""]);
}

// Runs the checks of a job one after the other; `report` gets each one's result.
export async function run(open, job, report) {
    for (const wanted of job.checks) {
        const result = { name: wanted.name };
        let timer;
        const late = new Promise((_, reject) => {
            timer = setTimeout(() => reject(new Error("took too long")), CHECK_MS_MAX);
        });
        try {
            await Promise.race([check(open, job.url, wanted), late]);
        } catch (error) {
            result.problem = String(error);
        }
        clearTimeout(timer);
        report(result);
    }
}

// Runs the job from the standard input.
export async function main(open) {
    let text = "";
    for await (const piece of process.stdin) text += piece;
    await run(open, JSON.parse(text), (result) => console.log(JSON.stringify(result)));
    process.exit(0);
}
