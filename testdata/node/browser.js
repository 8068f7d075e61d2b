// The real client in a real browser, against a running server: `node browser.js`, with SERVER_URL, DATABASE_URL (Postgres
// with the small issue tracker) and CHROMIUM. Two tabs of one browser share IndexedDB and a client group; one is cut off,
// reloaded while it is, and comes back. Chromium is driven over its DevTools protocol, which Node's own WebSocket speaks.

import assert from 'node:assert/strict';
import {spawn} from 'node:child_process';
import {mkdtemp, rm} from 'node:fs/promises';
import {createServer} from 'node:http';
import {tmpdir} from 'node:os';
import {join} from 'node:path';
import {createInterface} from 'node:readline';
// Comes with the client's own tools.
import {build} from 'esbuild';
import postgres from 'postgres';
import {limited, Proxy} from './support.js';

const {SERVER_URL, DATABASE_URL, CHROMIUM} = process.env;

/** A web server with the page. */
async function servePage() {
  const {outputFiles} = await build({
    entryPoints: [join(import.meta.dirname, 'page.js')],
    bundle: true,
    format: 'esm',
    write: false,
    logLevel: 'error',
  });
  const html = '<!doctype html><meta charset="utf-8"><title>tracker</title><script type="module" src="/page.js"></script>';
  const server = createServer((request, response) => {
    const [type, body] = request.url === '/page.js' ? ['text/javascript', outputFiles[0].text] : ['text/html', html];
    response.writeHead(200, {'content-type': type}).end(body);
  });
  await new Promise(resolve => server.listen(0, '127.0.0.1', resolve));
  return server;
}

/** A browser without a window, and a way to speak with it. */
class Browser {
  #process;
  #profile;
  #socket;
  #next = 1;
  #waiting = new Map();

  static async start() {
    const browser = new Browser();
    browser.#profile = await mkdtemp(join(tmpdir(), 'chromium-'));
    // The sandbox needs rights that a container or root's session often lacks; only our own page is shown.
    const flags = ['--headless=new', '--no-sandbox', '--disable-gpu', '--disable-dev-shm-usage', '--no-first-run'];
    browser.#process = spawn(
      CHROMIUM,
      [...flags, '--remote-debugging-port=0', `--user-data-dir=${browser.#profile}`, 'about:blank'],
      {stdio: ['ignore', 'ignore', 'pipe']},
    );
    const said = [];
    const found = new Promise((resolve, reject) => {
      browser.#process.on('exit', code => reject(new Error(`${CHROMIUM} ended with ${code}: ${said.join('\n')}`)));
      createInterface({input: browser.#process.stderr}).on('line', line => {
        said.push(line);
        const [, url] = /DevTools listening on (ws:\S+)/.exec(line) ?? [];
        if (url) {
          resolve(url);
        }
      });
    });
    const socket = new WebSocket(await limited(found, () => `${CHROMIUM}: ${said.join('\n')}`));
    browser.#socket = socket;
    socket.onmessage = ({data}) => {
      const {id, result, error} = JSON.parse(data);
      const waiting = browser.#waiting.get(id);
      browser.#waiting.delete(id);
      error ? waiting?.reject(new Error(error.message)) : waiting?.resolve(result);
    };
    await new Promise((resolve, reject) => Object.assign(socket, {onopen: resolve, onerror: reject}));
    return browser;
  }

  send(method, params, sessionId) {
    const id = this.#next++;
    const answered = new Promise((resolve, reject) => this.#waiting.set(id, {resolve, reject}));
    this.#socket.send(JSON.stringify({id, method, params, sessionId}));
    return limited(answered, () => `${method} ${JSON.stringify(params)}`);
  }

  async tab(url) {
    const {targetId} = await this.send('Target.createTarget', {url});
    const {sessionId} = await this.send('Target.attachToTarget', {targetId, flatten: true});
    return new Tab(this, sessionId, url);
  }

  async close() {
    const ended = new Promise(resolve => this.#process.on('exit', resolve));
    await this.send('Browser.close').catch(() => this.#process.kill());
    await ended;
    await rm(this.#profile, {recursive: true, force: true, maxRetries: 5});
  }
}

class Tab {
  #browser;
  #session;
  #url;

  constructor(browser, session, url) {
    this.#browser = browser;
    this.#session = session;
    this.#url = url;
  }

  /** The value of an expression in the page; a promise is awaited. */
  async value(expression) {
    const {result, exceptionDetails} = await this.#browser.send(
      'Runtime.evaluate',
      {expression, awaitPromise: true, returnByValue: true},
      this.#session,
    );
    assert(!exceptionDetails, exceptionDetails?.exception?.description ?? exceptionDetails?.text);
    return result.value;
  }

  /** Waits until the page shows something; `predicate` is the text of a function of what is seen and the connection. */
  async until(predicate, what) {
    // The page's script may still be on its way. A tab in the background gets no frames, but timers.
    const ready = `new Promise(r => { const look = () => (window.until ? r() : setTimeout(look, 10)); look(); })`;
    try {
      return await this.value(`(async () => { await ${ready}; return window.until(${predicate}); })()`);
    } catch (error) {
      if (/context was destroyed|Cannot find context/.test(error.message)) {
        // A navigation was still on its way.
        return this.until(predicate, what);
      }
      const seen = await this.value('JSON.stringify([window.seen, window.connection?.()])').catch(() => 'nothing');
      throw new Error(`${what}: ${error.message}; the page shows ${seen}`);
    }
  }

  /** Waits until the page shows these titles. */
  async shows(titles, what) {
    const expected = JSON.stringify(titles);
    await this.until(`seen => seen.type === 'complete' && JSON.stringify(seen.titles) === '${expected}'`, what);
  }

  /** Makes it the visible tab: a hidden one does not connect again. */
  async show() {
    await this.#browser.send('Page.bringToFront', {}, this.#session);
  }

  async reload() {
    await this.#browser.send('Page.navigate', {url: this.#url}, this.#session);
  }
}

const sql = postgres(DATABASE_URL, {max: 2, onnotice: () => {}});
const page = await servePage();
const proxy = await Proxy.start(SERVER_URL);
const browser = await Browser.start();
try {
  const top = async () =>
    (await sql`SELECT title FROM issue ORDER BY modified DESC, id COLLATE "C" LIMIT 3`).map(({title}) => title);
  const at = server => `http://127.0.0.1:${page.address().port}/?server=${encodeURIComponent(server)}`;
  const first = await top();
  const one = await browser.tab(at(proxy.url));
  await one.shows(first, 'the first answer');
  const two = await browser.tab(at(proxy.url));
  await two.shows(await top(), 'the second tab');
  assert.equal(await one.value('clientGroup()'), await two.value('clientGroup()'), 'tabs share a client group');

  await sql`UPDATE issue SET title = 'for both', modified = '2041-01-01' WHERE id = 'i20'`;
  for (const tab of [one, two]) {
    await tab.shows(await top(), 'a change while connected');
  }

  proxy.cut();
  await one.until((seen, connection) => connection !== 'connected', 'the connection is gone');
  const before = await top();
  await sql`UPDATE issue SET title = 'while away', modified = '2042-01-01' WHERE id = 'i21'`;
  await one.reload();
  // The client writes to IndexedDB now and then, so that the newest change may not be there yet.
  const held = JSON.stringify([first, before].map(titles => JSON.stringify(titles)));
  const isHeld = `seen => seen.type === 'unknown' && ${held}.includes(JSON.stringify(seen.titles))`;
  await one.until(isHeld, 'what IndexedDB holds, without a server');
  proxy.mend();
  for (const tab of [one, two]) {
    await tab.show();
    await tab.shows(await top(), 'what was missed');
  }
  await sql`DELETE FROM issue WHERE id IN ('i20', 'i21')`;
  for (const tab of [one, two]) {
    await tab.shows(await top(), 'live again');
  }
} finally {
  proxy.mend();
  await browser.close();
  await proxy.close();
  page.close();
  await sql.end();
}
process.exit(0);
