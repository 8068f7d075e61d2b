// What the unmodified client writes, and for whom: `node mutations.js PACKAGE`. SERVER_URL is a sync server that passes
// tokens on to the API server API_URL, JWT_SERVER_URL one that verifies them with SECRET and lets CRUD mutations do what
// permissions allow; both are on DATABASE_URL. Reports a JSON line per scenario; exits 1 when one fails.

import assert from 'node:assert/strict';
import {createHmac} from 'node:crypto';
import postgres from 'postgres';
import {define} from './model.js';
import {defineTrackerMutators} from './mutators.js';
import {connection, Follower, limited, Proxy} from './support.js';

const {SERVER_URL, JWT_SERVER_URL, API_URL, DATABASE_URL, SECRET} = process.env;
const zeroPackage = await import(process.argv[2] ?? '@rocicorp/zero');
const only = process.argv[3];
const {schema, zql, queries} = define(zeroPackage);
const {schema: legacySchema} = define(zeroPackage, {enableLegacyQueries: true, enableLegacyMutators: true});
const mutators = defineTrackerMutators(zeroPackage, zql);
const sql = postgres(DATABASE_URL, {max: 4, onnotice: () => {}});

let stores = 0;
let tokens = 0;
const newToken = () => `u1.${tokens++}`;

const options = {userID: 'u1', kvStore: 'mem', logLevel: 'error'};

/** A client with custom mutators. */
function client(changed = {}) {
  const storageKey = `mutations-${stores++}`;
  const auth = newToken();
  return new zeroPackage.Zero({...options, server: SERVER_URL, storageKey, schema, mutators, auth, ...changed});
}

/** A client that writes by itself, with a token that says who it is. */
function legacyClient(auth) {
  const storageKey = `mutations-${stores++}`;
  return new zeroPackage.Zero({...options, server: JWT_SERVER_URL, storageKey, schema: legacySchema, auth});
}

function jwt(claims, secret = SECRET) {
  const part = value => Buffer.from(JSON.stringify(value)).toString('base64url');
  const signed = `${part({alg: 'HS256', typ: 'JWT'})}.${part(claims)}`;
  return `${signed}.${createHmac('sha256', secret).update(signed).digest('base64url')}`;
}

/** Tells the API server how to behave, or asks it what it saw. */
async function api(action, text = '') {
  const response = await fetch(`${API_URL}/control/${action}`, {method: 'POST', body: text});
  assert.equal(response.status, 200, action);
  return (await response.json()).result;
}

const lastToken = async path => {
  const calls = (await api('seen')).filter(call => call.path === path);
  return calls.at(-1)?.authorization;
};

const row = async id => (await sql`SELECT * FROM issue WHERE id = ${id}`)[0];
const until = (promise, what) => limited(promise, () => what);
const titled = (page, title, what) => page.until(({data}) => data?.title === title, what);

const scenarios = {
  async 'a mutation is shown at once and becomes what the server makes of it'() {
    const zero = client();
    const page = new Follower(zero, queries.issues.page({id: 'custom1'}));
    assert.equal(await page.complete(), undefined);
    await api('hold');
    const mutation = zero.mutate(mutators.issue.create({id: 'custom1', title: 'new'}));
    await until(mutation.client, 'the client half');
    await titled(page, 'new', 'before the server knows');
    assert.equal(await row('custom1'), undefined);
    await api('release');
    const result = await until(mutation.server, 'the server half');
    assert.equal(result?.type ?? 'success', 'success');
    await titled(page, 'new (seen by the server)', 'what the server made of it');
    assert.equal((await row('custom1')).created.toISOString(), '2024-01-02T03:04:05.678Z');
    await zero.close();
  },

  async 'an error of the server is told and undone, and nothing else'() {
    const zero = client();
    const page = new Follower(zero, queries.issues.page({id: 'i20'}));
    const {title} = (await page.complete());
    await api('hold');
    const refused = zero.mutate(mutators.issue.refused({id: 'i20'}));
    const raised = zero.mutate(mutators.issue.raise({id: 'i20', by: 100}));
    await titled(page, 'never to stay', 'the optimistic change');
    await api('release');
    const result = await until(refused.server.catch(error => error), 'the error');
    assert.match(JSON.stringify(result), /this is refused/);
    assert.match(JSON.stringify(result), /a test/);
    await until(raised.server, 'the mutation after it');
    await page.until(({data}) => data.title === title && data.priority >= 100, 'one undone, one done');
    assert((await row('i20')).priority >= 100);
    // Results that were seen are cleaned up.
    await cleanedUp();
    await zero.close();
  },

  async 'a mutation that waits is made again on what comes meanwhile'() {
    const zero = client();
    const page = new Follower(zero, queries.issues.page({id: 'i21'}));
    await page.complete();
    await api('hold');
    const mutation = zero.mutate(mutators.issue.raise({id: 'i21', by: 1}));
    await until(mutation.client, 'the client half');
    await sql`UPDATE issue SET priority = 50 WHERE id = 'i21'`;
    await page.until(({data}) => data.priority === 51, 'rebased');
    await api('release');
    await until(mutation.server, 'the server half');
    assert.equal((await row('i21')).priority, 51);
    await sql`UPDATE issue SET priority = 7 WHERE id = 'i21'`;
    await page.until(({data}) => data.priority === 7, 'and no longer pending');
    await zero.close();
  },

  async 'mutations made without a connection are sent when there is one'() {
    const proxy = await Proxy.start(SERVER_URL);
    const zero = client({server: proxy.url});
    const page = new Follower(zero, queries.issues.page({id: 'offline1'}));
    assert.equal(await page.complete(), undefined);
    proxy.cut();
    await connection(zero, 'connecting');
    const made = [
      zero.mutate(mutators.issue.create({id: 'offline1', title: 'offline'})),
      zero.mutate(mutators.issue.raise({id: 'offline1', by: 2})),
      zero.mutate(mutators.issue.raise({id: 'offline1', by: 3})),
    ];
    await page.until(({data}) => data?.priority === 6, 'the optimistic changes');
    proxy.mend();
    for (const mutation of made) {
      await until(mutation.server, 'the server half');
    }
    await titled(page, 'offline (seen by the server)', 'what the server made of it');
    assert.equal((await row('offline1')).priority, 6);
    await zero.close();
    await proxy.close();
  },

  async 'two tabs see what each of them writes'() {
    const storageKey = `mutations-${stores++}`;
    const auth = newToken();
    const [one, two] = [client({storageKey, auth}), client({storageKey, auth})];
    const pages = [one, two].map(zero => new Follower(zero, queries.issues.page({id: 'i22'})));
    await Promise.all(pages.map(page => page.complete()));
    await sql`UPDATE issue SET priority = 0 WHERE id = 'i22'`;
    await Promise.all(pages.map(page => page.until(({data}) => data.priority === 0, 'before')));
    await Promise.all([
      until(one.mutate(mutators.issue.raise({id: 'i22', by: 1})).server, 'the first'),
      until(two.mutate(mutators.issue.raise({id: 'i22', by: 10})).server, 'the second'),
    ]);
    await Promise.all(pages.map(page => page.until(({data}) => data.priority === 11, 'both')));
    await one.close();
    await two.close();
  },

  async 'a token that is not known is asked for again'() {
    const wrong = newToken();
    await api('forget', wrong);
    const zero = client({auth: wrong});
    const page = new Follower(zero, queries.issues.page({id: 'i23'}));
    await connection(zero, 'needs-auth');
    assert.equal(zero.connection.state.current.reason.status, 401);
    const good = newToken();
    zero.connection.connect({auth: good});
    assert.equal((await page.complete()).id, 'i23');
    assert.equal(await lastToken('/query'), `Bearer ${good}`);

    // A newer one is used from then on, without a new connection.
    const newer = newToken();
    zero.connection.connect({auth: newer});
    await until(zero.mutate(mutators.issue.raise({id: 'i23', by: 1})).server, 'a mutation');
    assert.equal(await lastToken('/mutate'), `Bearer ${newer}`);
    assert.equal(zero.connection.state.current.name, 'connected');

    // One that ends makes the mutation wait for the next.
    await api('forget', newer);
    await sql`UPDATE issue SET priority = 0 WHERE id = 'i23'`;
    await page.until(({data}) => data.priority === 0, 'before');
    const waiting = zero.mutate(mutators.issue.raise({id: 'i23', by: 5}));
    const told = waiting.server.catch(error => error);
    await connection(zero, 'needs-auth');
    const {reason} = zero.connection.state.current;
    assert.deepEqual([reason.type, reason.status], ['mutate', 401]);
    const newest = newToken();
    zero.connection.connect({auth: newest});
    await connection(zero, 'connected');
    await page.until(({data, type}) => type === 'complete' && data.priority === 5, 'the mutation');
    await arrived('i23', 5);
    await told;
    await zero.close();
  },

  async 'an API server that is away stops who writes, and nobody else'() {
    const [writer, reader] = [client(), client()];
    const pages = [writer, reader].map(zero => new Follower(zero, queries.issues.page({id: 'i24'})));
    await Promise.all(pages.map(page => page.complete()));
    await sql`UPDATE issue SET priority = 0 WHERE id = 'i24'`;
    await Promise.all(pages.map(page => page.until(({data}) => data.priority === 0, 'before')));
    await api('fail', '503');
    const mutation = writer.mutate(mutators.issue.raise({id: 'i24', by: 1}));
    const told = mutation.server.catch(error => error);
    await connection(writer, 'error');
    await api('fail', '0');
    await sql`UPDATE issue SET title = 'meanwhile' WHERE id = 'i24'`;
    await titled(pages[1], 'meanwhile', 'the other client');
    writer.connection.connect();
    await connection(writer, 'connected');
    await arrived('i24', 1);
    await pages[0].until(({data}) => data.title === 'meanwhile' && data.priority === 1, 'all of it');
    await told;
    await writer.close();
    await reader.close();
  },

  async 'CRUD mutations do what permissions allow'() {
    await permit();
    const zero = legacyClient(jwt({sub: 'u1', iat: 1}));
    const page = id => new Follower(zero, zero.query.issue.where('id', id).one());
    const [own, foreign, made] = ['crud-own', 'crud-foreign', 'crud-made'].map(page);
    const issue = (id, creatorID) => ({id, title: id, open: true, priority: 1, creatorID, created: 0, modified: 1500});
    await sql`INSERT INTO issue VALUES ('crud-own', 'o', null, true, 1, 'u1', null, now(), now()),
                                       ('crud-foreign', 'f', null, true, 1, 'u2', null, now(), now())`;
    await titled(own, 'o', 'its own');
    await titled(foreign, 'f', 'everybody reads everything');
    await zero.mutate.issue.insert(issue('crud-made', 'u1'));
    await made.until(({data}) => data?.modified === 1500, 'an insert');
    await zero.mutate.issue.update({id: 'crud-made', title: 'updated', description: 'd'});
    await zero.mutate.issue.upsert({...issue('crud-made', 'u1'), priority: 9});
    await made.until(({data}) => data?.priority === 9, 'an upsert');
    await zero.mutateBatch(async tx => {
      await tx.issue.update({id: 'crud-own', priority: 5});
      await tx.issue.update({id: 'crud-own', title: 'batched'});
    });
    await titled(own, 'batched', 'a batch');
    // Nobody writes what is another one's; what was shown at once is taken back.
    await zero.mutate.issue.update({id: 'crud-foreign', title: 'stolen'});
    await titled(foreign, 'stolen', 'the optimistic change');
    await titled(foreign, 'f', 'taken back');
    await zero.mutate.issue.insert(issue('crud-denied', 'u2'));
    await zero.mutate.issue.delete({id: 'crud-made'});
    await made.until(({data}) => data === undefined, 'a delete');
    await limited(gone('crud-made'), () => 'the delete upstream');
    assert.equal(await row('crud-denied'), undefined);
    const {title, priority} = await row('crud-own');
    assert.deepEqual([title, priority, (await row('crud-foreign')).title], ['batched', 5, 'f']);
    await zero.close();
  },

  async 'a token of another secret or another time is asked for again'() {
    await permit();
    const now = Math.floor(Date.now() / 1000);
    for (const wrong of [jwt({sub: 'u1'}, 'guessed'), jwt({sub: 'u1', exp: now - 60}), jwt({sub: 'u2'}), 'nonsense']) {
      const zero = legacyClient(wrong);
      const page = new Follower(zero, zero.query.issue.where('id', 'i25').one());
      await connection(zero, 'needs-auth');
      zero.connection.connect({auth: jwt({sub: 'u1', iat: now, exp: now + 3600})});
      assert.equal((await page.complete()).id, 'i25');
      // While connected, a token that has ended is refused as well.
      zero.connection.connect({auth: jwt({sub: 'u1', iat: now + 1, exp: now - 1})});
      await connection(zero, 'needs-auth');
      zero.connection.connect({auth: jwt({sub: 'u1', iat: now + 2})});
      await connection(zero, 'connected');
      await zero.close();
    }
  },

  async 'permissions are in force as they are deployed'() {
    await permit();
    const zero = legacyClient(jwt({sub: 'u1'}));
    const list = new Follower(zero, zero.query.issue.where('priority', '>', 0).limit(5));
    await list.until(({data, type}) => type === 'complete' && data.length === 5, 'everything');
    await permit([]);
    await list.until(({data}) => data.length === 0, 'nothing');
    await permit();
    await list.until(({data}) => data.length === 5, 'everything again');
    await zero.close();
  },
};

/** Deploys permissions: who created an issue may write it; who may read is given. */
async function permit(readers = [['allow', {type: 'and', conditions: []}]]) {
  const creator = [
    [
      'allow',
      {
        type: 'simple',
        op: '=',
        left: {type: 'column', name: 'creator_id'},
        right: {type: 'static', anchor: 'authData', field: 'sub'},
      },
    ],
  ];
  const row = {select: readers, insert: creator, update: {preMutation: creator, postMutation: creator}, delete: creator};
  await sql`UPDATE jwt.permissions SET permissions = ${sql.json({tables: {issue: {row}}})}`;
}

/** Waits until a statement's outcome upstream is what it should be: there is no event for it. */
async function eventually(check) {
  while (!(await check())) {
    await new Promise(resolve => setImmediate(resolve));
  }
}

const gone = id => eventually(async () => (await row(id)) === undefined);
const arrived = (id, priority) =>
  limited(eventually(async () => (await row(id)).priority === priority), () => `priority ${priority} upstream`);
const cleanedUp = () =>
  limited(eventually(async () => (await sql`SELECT FROM zql_0.mutations`).length === 0), () => 'the clean-up');

let failed = false;
for (const [scenario, run] of Object.entries(scenarios)) {
  if (only !== undefined && !scenario.includes(only)) {
    continue;
  }
  const started = performance.now();
  try {
    await run();
    console.log(JSON.stringify({scenario, ms: Math.round(performance.now() - started)}));
  } catch (error) {
    failed = true;
    console.log(JSON.stringify({scenario, error: error.stack}));
    await api('release');
    await api('fail', '0');
  }
}
await sql.end();
process.exit(failed ? 1 : 0);
