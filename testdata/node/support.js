// What the scenarios stand on: a client, waiting on views, a proxy that can cut connections, and the line protocol with the
// test that runs us. Nothing here sleeps: every wait ends with an event or fails after LIMIT_MS with what was seen last.

import assert from 'node:assert/strict';
import {connect, createServer} from 'node:net';
import {createInterface} from 'node:readline';

// Far above what any step takes on a busy two-core machine (a reconnect after a failed attempt: 5 s).
const LIMIT_MS = 30_000;

/** Rejects when `promise` takes longer than LIMIT_MS, with `describe()` in the message. */
export function limited(promise, describe) {
  let timer;
  const limit = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`gave up after ${LIMIT_MS} ms: ${describe()}`)), LIMIT_MS);
  });
  return Promise.race([promise, limit]).finally(() => clearTimeout(timer));
}

/** Follows a query: `until` waits for a state of its result, `latest` is the one seen last. */
export class Follower {
  #view;
  #listeners = new Set();
  latest = {data: undefined, type: 'unknown', error: undefined};
  updates = 0;

  constructor(zero, query) {
    this.#view = zero.materialize(query);
    this.#view.addListener((data, type, error) => {
      // The view changes its arrays in place; keep what was shown at this moment.
      this.latest = {data: structuredClone(data), type, error};
      this.updates++;
      for (const listener of [...this.#listeners]) {
        listener();
      }
    });
  }

  until(predicate, what) {
    let listener;
    const seen = new Promise((resolve, reject) => {
      listener = () => {
        try {
          if (predicate(this.latest)) {
            resolve(this.latest);
          }
        } catch (error) {
          reject(error);
        }
      };
      this.#listeners.add(listener);
      listener();
    }).finally(() => this.#listeners.delete(listener));
    return limited(seen, () => `${what}; last seen ${JSON.stringify(this.latest)?.slice(0, 2000)}`);
  }

  /** Waits until the server has said that the result is whole. */
  async complete() {
    return (await this.until(({type}) => type === 'complete', 'complete')).data;
  }

  /** Waits until the result equals `expected`. */
  async equals(expected, what) {
    try {
      await this.until(({data, type}) => type === 'complete' && same(data, expected), what);
    } catch (error) {
      assert.deepEqual(this.latest.data, expected, what);
      throw error;
    }
  }

  destroy() {
    this.#view.destroy();
  }
}

export function same(a, b) {
  try {
    assert.deepEqual(a, b);
    return true;
  } catch {
    return false;
  }
}

/** A TCP proxy to `target`, to cut the connections of a client that goes through it. */
export class Proxy {
  #server;
  #target;
  #sockets = new Set();
  #waiting;

  static async start(target) {
    const proxy = new Proxy();
    proxy.#target = new URL(target);
    proxy.#server = createServer(client => {
      if (proxy.#waiting) {
        proxy.#waiting.push(client);
      } else {
        proxy.#forward(client);
      }
    });
    await new Promise(resolve => proxy.#server.listen(0, '127.0.0.1', resolve));
    return proxy;
  }

  #forward(client) {
    const upstream = connect({host: this.#target.hostname, port: Number(this.#target.port)});
    const pairs = [
      [client, upstream],
      [upstream, client],
    ];
    for (const [from, to] of pairs) {
      this.#sockets.add(from);
      from.on('error', () => to.destroy());
      from.on('close', () => {
        this.#sockets.delete(from);
        to.destroy();
      });
      from.pipe(to);
    }
  }

  get url() {
    return `http://127.0.0.1:${this.#server.address().port}`;
  }

  /** Holds new connections until `mend`, so that a client's attempt succeeds the moment it can instead of being repeated. */
  hold() {
    this.#waiting ??= [];
  }

  /** Cuts every connection, and holds new ones. */
  cut() {
    this.hold();
    for (const socket of this.#sockets) {
      socket.destroy();
    }
  }

  mend() {
    const waiting = this.#waiting ?? [];
    this.#waiting = undefined;
    waiting.forEach(client => this.#forward(client));
  }

  async close() {
    this.cut();
    await new Promise(resolve => this.#server.close(resolve));
  }
}

/** Waits until the client's connection has the given state (`connected`, `connecting`, …). */
export function connection(zero, name) {
  const {state} = zero.connection;
  let stop;
  const seen = new Promise(resolve => {
    const look = current => current.name === name && resolve();
    stop = state.subscribe(look);
    look(state.current);
  }).finally(() => stop());
  return limited(seen, () => `connection ${name}; it is ${JSON.stringify(state.current)}`);
}

const lines = createInterface({input: process.stdin})[Symbol.asyncIterator]();

/** Asks the test that runs us to do something that only it can, such as killing the server, and waits until it is done. */
export async function ask(what) {
  console.log(JSON.stringify({ask: what}));
  const {value, done} = await limited(lines.next(), () => `the answer to ${what}`);
  assert(!done, `the test went away before it answered ${what}`);
  assert.equal(value, what);
}
