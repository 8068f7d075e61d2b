// The unmodified client against a running server: `node scenarios.js PACKAGE`, with SERVER_URL (the sync server) and
// DATABASE_URL (Postgres with the small issue tracker). Reports a JSON line per scenario; exits 1 when one fails. With
// COMPRESSED, all sockets must be granted compression; its value is whose sockets: `node` has its own, `ws` is a package.
// Expectations are computed by SQL at the time of the check, never written down twice.

import assert from 'node:assert/strict';
import postgres from 'postgres';
import {define} from './model.js';
import {ask, connection, Follower, Proxy} from './support.js';

const {SERVER_URL, DATABASE_URL, COMPRESSED} = process.env;
// What sockets were granted, in the order in which they opened.
const granted = [];
if (COMPRESSED) {
  const Socket = COMPRESSED === 'ws' ? (await import('ws')).default : WebSocket;
  globalThis.WebSocket = class extends Socket {
    constructor(...args) {
      super(...args);
      this.addEventListener('open', () => granted.push(this.extensions));
    }
  };
}
const zeroPackage = await import(process.argv[2] ?? '@rocicorp/zero');
const only = process.argv[3];
const {schema, queries} = define(zeroPackage);
// What the API server answers for everybody.
const USER_ID = 'u1';
const sql = postgres(DATABASE_URL, {max: 4, onnotice: () => {}});

let stores = 0;

/** A client of its own group, or of the group of another one with its `storageKey`, as tabs share the browser's storage. */
function client({url = SERVER_URL, storageKey = `store-${stores++}`} = {}) {
  return new zeroPackage.Zero({
    server: url,
    userID: USER_ID,
    storageKey,
    schema,
    kvStore: 'mem',
    logLevel: 'error',
    onClientStateNotFound: () => console.error('client state not found'),
    onUpdateNeeded: reason => console.error('update needed', reason),
  });
}

const ms = column => sql`(extract(epoch from ${sql(column)}) * 1000)::float8`;

/** Issues as the client shows them, in the order of the ids given. */
async function issues(ids) {
  const rows = await sql`
    SELECT id, title, description, open, priority, creator_id AS "creatorID", assignee_id AS "assigneeID",
           ${ms('created')} AS created, ${ms('modified')} AS modified
    FROM issue WHERE id = ANY(${ids}) ORDER BY array_position(${ids}, id)`;
  return rows.map(row => ({...row}));
}

async function ids(query) {
  return (await query).map(({id}) => id);
}

async function labels(issueID) {
  const rows = await sql`
    SELECT l.id, l.name FROM label l JOIN issue_label il ON il.label_id = l.id
    WHERE il.issue_id = ${issueID} ORDER BY l.id COLLATE "C"`;
  return rows.map(row => ({...row}));
}

async function user(id) {
  const [row] = id === null ? [] : await sql`SELECT id, name, email FROM "user" WHERE id = ${id}`;
  return row && {...row};
}

/** What `issues.list` must show. */
async function expectedList(limit) {
  const top = await ids(sql`SELECT id FROM issue ORDER BY modified DESC, id COLLATE "C" LIMIT ${limit}`);
  const list = [];
  for (const issue of await issues(top)) {
    list.push({...issue, creator: await user(issue.creatorID), labels: await labels(issue.id)});
  }
  return list;
}

/** What `issues.page` must show. */
async function expectedPage(id) {
  const [issue] = await issues([id]);
  const rows = await sql`
    SELECT id, issue_id AS "issueID", creator_id AS "creatorID", body, ${ms('created')} AS created
    FROM comment WHERE issue_id = ${id} ORDER BY comment.created DESC, id COLLATE "C" LIMIT 3`;
  const comments = [];
  for (const row of rows) {
    comments.push({...row, creator: await user(row.creatorID)});
  }
  return {
    ...issue,
    creator: await user(issue.creatorID),
    assignee: await user(issue.assigneeID),
    labels: await labels(id),
    comments,
  };
}

const labelled = name => ids(sql`
  SELECT i.id FROM issue i WHERE EXISTS (
    SELECT FROM issue_label il JOIN label l ON l.id = il.label_id WHERE il.issue_id = i.id AND l.name = ${name})
  ORDER BY i.id COLLATE "C"`);

const mine = userID => ids(sql`
  SELECT i.id FROM issue i
  WHERE i.assignee_id = ${userID}
     OR i.creator_id = ${userID} AND i.open
     OR EXISTS (SELECT FROM comment c WHERE c.issue_id = i.id AND c.creator_id = ${userID} AND c.body LIKE 'Any news%')
  ORDER BY i.id COLLATE "C"`);

/** The view's objects hide what the library adds to them; compare plain data. */
const plain = value => JSON.parse(JSON.stringify(value ?? null));
const shows = (follower, expected, what) =>
  follower.until(({data, type}) => {
    if (type !== 'complete') {
      return false;
    }
    try {
      assert.deepEqual(plain(data), plain(expected));
      return true;
    } catch {
      return false;
    }
  }, what).catch(error => {
    assert.deepEqual(plain(follower.latest.data), plain(expected), what);
    throw error;
  });
const showsIDs = (follower, expected, what) =>
  follower.until(({data, type}) => type === 'complete' && data.map(({id}) => id).join() === expected.join(), what);

async function newIssue(id, minutesAhead, creatorID = 'u1') {
  await sql`INSERT INTO issue VALUES (${id}, ${`title of ${id}`}, NULL, true, 1, ${creatorID}, NULL, now(),
    '2030-01-01T00:00:00Z'::timestamptz + ${minutesAhead} * interval '1 minute')`;
}

const scenarios = {
  async 'named queries with related, limit, exists and one() are complete'() {
    const zero = client();
    const list = new Follower(zero, queries.issues.list({limit: 20}));
    await shows(list, await expectedList(20), 'a list with two relations');
    const page = new Follower(zero, queries.issues.page({id: 'i42'}));
    await shows(page, await expectedPage('i42'), 'one issue with everything');
    const none = new Follower(zero, queries.issues.page({id: 'nosuch'}));
    assert.equal(await none.complete(), undefined);
    const rare = new Follower(zero, queries.issues.labelled({name: 'rare'}));
    await showsIDs(rare, await labelled('rare'), 'EXISTS over a junction');
    const own = new Follower(zero, queries.issues.mine({userID: 'u3'}));
    await showsIDs(own, await mine('u3'), 'OR of columns and EXISTS');
    await zero.close();
  },

  async 'inserts, updates and deletes by SQL are seen live'() {
    const zero = client();
    const list = new Follower(zero, queries.issues.list({limit: 10}));
    const page = new Follower(zero, queries.issues.page({id: 'live1'}));
    await shows(list, await expectedList(10), 'before');
    assert.equal(await page.complete(), undefined);

    await newIssue('live1', 1);
    await shows(page, await expectedPage('live1'), 'an insert appears');
    await shows(list, await expectedList(10), 'and pushes the last one out of the list');

    await sql`UPDATE issue SET title = 'changed', assignee_id = 'u2' WHERE id = 'live1'`;
    await shows(page, await expectedPage('live1'), 'an update, and the assignee that came with it');
    await sql.begin(tx => [
      tx`INSERT INTO issue_label VALUES ('live1', 'l3'), ('live1', 'l2')`,
      tx`INSERT INTO comment SELECT 'live1-' || n, 'live1', 'u4', 'number ' || n, now() + n * interval '1 second'
         FROM generate_series(1, 5) n`,
    ]);
    await shows(page, await expectedPage('live1'), 'children of one transaction, cut to three');
    await sql`DELETE FROM comment WHERE id = 'live1-5'`;
    await shows(page, await expectedPage('live1'), 'the window over comments refills');
    await sql`UPDATE "user" SET name = 'Renamed' WHERE id = 'u4'`;
    await shows(page, await expectedPage('live1'), 'a row two relations away');
    await sql`UPDATE issue SET modified = '2020-01-01' WHERE id = 'live1'`;
    await shows(list, await expectedList(10), 'it leaves the list and another one enters');

    await sql`DELETE FROM issue WHERE id = 'live1'`;
    await page.until(({data}) => data === undefined, 'a delete');
    await zero.close();
  },

  async 'exists conditions follow their children'() {
    const zero = client();
    const rare = new Follower(zero, queries.issues.labelled({name: 'rare'}));
    const own = new Follower(zero, queries.issues.mine({userID: 'u5'}));
    await showsIDs(rare, await labelled('rare'), 'before');
    await showsIDs(own, await mine('u5'), 'before');
    await sql`INSERT INTO issue_label VALUES ('i7', 'l0')`;
    await showsIDs(rare, await labelled('rare'), 'a junction row brings an issue in');
    await sql`UPDATE label SET name = 'scarce' WHERE id = 'l0'`;
    await showsIDs(rare, [], 'the label is renamed away');
    await sql`UPDATE label SET name = 'rare' WHERE id = 'l0'`;
    await showsIDs(rare, await labelled('rare'), 'and back');
    await sql`DELETE FROM issue_label WHERE issue_id = 'i7' AND label_id = 'l0'`;
    await showsIDs(rare, await labelled('rare'), 'the junction row goes');

    const has = id => own.latest.data.some(issue => issue.id === id);
    await newIssue('exists1', -5_000_000, 'u5');
    await showsIDs(own, await mine('u5'), 'an open issue');
    assert(has('exists1'));
    await sql`INSERT INTO comment VALUES ('exists1-c', 'exists1', 'u6', 'Any news?', now())`;
    await sql`UPDATE issue SET open = false WHERE id = 'exists1'`;
    await showsIDs(own, await mine('u5'), 'closed, with a comment of another user');
    assert(!has('exists1'));
    await sql`UPDATE comment SET creator_id = 'u5' WHERE id = 'exists1-c'`;
    await showsIDs(own, await mine('u5'), 'the comment, edited, brings it back by the other condition');
    assert(has('exists1'));
    await sql`DELETE FROM issue WHERE id = 'exists1'`;
    await showsIDs(own, await mine('u5'), 'after');
    await zero.close();
  },

  async 'a query that fails on the API server says so and disturbs no other'() {
    const zero = client();
    const failing = new Follower(zero, queries.failing());
    const list = new Follower(zero, queries.issues.list({limit: 5}));
    await failing.until(({type}) => type === 'error', 'the error');
    assert.match(JSON.stringify(failing.latest.error), /this query always fails/);
    await shows(list, await expectedList(5), 'the other query');
    await zero.close();
  },

  async 'two tabs share a client group'() {
    const storageKey = 'tabs';
    const one = client({storageKey});
    const first = new Follower(one, queries.issues.list({limit: 5}));
    await shows(first, await expectedList(5), 'the first tab');
    const two = client({storageKey});
    assert.equal(await two.clientGroupID, await one.clientGroupID);
    assert.notEqual(two.clientID, one.clientID);
    const second = new Follower(two, queries.issues.list({limit: 5}));
    const page = new Follower(two, queries.issues.page({id: 'i9'}));
    await shows(second, await expectedList(5), 'the second tab');
    await shows(page, await expectedPage('i9'), 'its own query');
    await newIssue('tabs1', 2);
    const expected = await expectedList(5);
    await Promise.all([shows(first, expected, 'a change in the first tab'), shows(second, expected, 'and the second')]);
    await one.close();
    await sql`DELETE FROM issue WHERE id = 'tabs1'`;
    await shows(second, await expectedList(5), 'the second tab lives on');
    await two.close();
  },

  async 'a client that lost its connection gets what it missed'() {
    const proxy = await Proxy.start(SERVER_URL);
    const zero = client({url: proxy.url});
    const list = new Follower(zero, queries.issues.list({limit: 10}));
    const page = new Follower(zero, queries.issues.page({id: 'i11'}));
    await shows(list, await expectedList(10), 'before');
    await shows(page, await expectedPage('i11'), 'before');
    proxy.cut();
    await connection(zero, 'connecting');
    await newIssue('missed1', 3);
    await newIssue('missed2', 4);
    await sql`DELETE FROM issue WHERE id = 'missed1'`;
    await sql`UPDATE issue SET title = 'while away', assignee_id = NULL WHERE id = 'i11'`;
    await sql`DELETE FROM comment WHERE issue_id = 'i11'`;
    proxy.mend();
    await shows(list, await expectedList(10), 'what was missed in the list');
    await shows(page, await expectedPage('i11'), 'what was missed on the page');
    await sql`UPDATE issue SET title = 'back again' WHERE id = 'i11'`;
    await shows(page, await expectedPage('i11'), 'and live again');
    await sql`DELETE FROM issue WHERE id = 'missed2'`;
    await shows(list, await expectedList(10), 'after');
    await zero.close();
    await proxy.close();
  },

  async 'the inspector shows the queries of a client'() {
    const zero = client();
    const args = {id: 'i13'};
    const page = new Follower(zero, queries.issues.page(args));
    await shows(page, await expectedPage('i13'), 'before');
    const {inspector} = zero;
    if (inspector.authenticate === undefined) {
      // Release 1.0 asks a person for the password.
      return zero.close();
    }
    assert.equal(await inspector.authenticate('wrong'), false);
    assert.equal(await inspector.authenticate('test'), true);
    assert.match(await inspector.serverVersion(), /^\d+\.\d+\.\d+$/);
    await sql`UPDATE issue SET title = 'inspected' WHERE id = 'i13'`;
    await shows(page, await expectedPage('i13'), 'an update to be timed');
    const [query, ...others] = await inspector.client.queries();
    assert.deepEqual(others, []);
    const {name, got, deleted, inactivatedAt, serverZQL} = query;
    assert.deepEqual(
      {name, args: query.args, got, deleted, inactivatedAt},
      {name: 'issues.page', args: [args], got: true, deleted: false, inactivatedAt: null},
    );
    assert.match(serverZQL, /^issue/);
    // The issue, what hangs on it, and each user once.
    const [{rows}] = await sql`
      WITH newest AS (SELECT * FROM comment WHERE issue_id = 'i13' ORDER BY created DESC, id LIMIT 3),
           users AS (SELECT creator_id FROM newest UNION SELECT creator_id FROM issue WHERE id = 'i13'
                     UNION SELECT assignee_id FROM issue WHERE id = 'i13' AND assignee_id IS NOT NULL)
      SELECT (1 + (SELECT count(*) FROM newest) + (SELECT count(*) FROM users)
                + 2 * (SELECT count(*) FROM issue_label WHERE issue_id = 'i13'))::int AS rows`;
    assert.equal(query.rowCount, rows);
    assert(query.metrics['query-update-server'].count() >= 1);
    const hydration = query.hydrateServer ?? query.metrics['query-materialization-server'].quantile(0.5);
    assert(hydration > 0 && hydration < 60_000, `hydration took ${hydration} ms`);
    // Whose answer the client checks against its own schema, member by member.
    const named = await query.analyze({vendedRows: true, joinPlans: true});
    assert.equal(named.syncedRowCount, rows);
    assert.equal(named.syncedRows.issue[0].title, 'inspected');
    const counted = counts => Object.values(counts).flatMap(Object.values).reduce((sum, n) => sum + n, 0);
    assert.equal(counted(named.readRowCountsByQuery), named.readRowCount);
    assert(named.readRowCount >= 1 && Object.keys(named.sqlitePlans).length >= 1 && named.elapsed >= 0);
    assert(Array.isArray(named.joinPlans) && Object.keys(named.readRows).includes('issue'));
    // How an EXISTS is decided.
    const rare = new Follower(zero, queries.issues.labelled({name: 'rare'}));
    await rare.complete();
    const exists = (await inspector.client.queries()).find(({name}) => name === 'issues.labelled');
    const {joinPlans} = await exists.analyze({joinPlans: true});
    const {joinStates, flipPattern} = joinPlans.at(-1);
    assert(joinStates.length >= 1 && joinStates.every(({type}) => ['semi', 'flipped'].includes(type)), JSON.stringify(joinPlans));
    assert.equal(flipPattern !== 0, joinStates.some(({type}) => type === 'flipped'));
    const all = await inspector.metrics();
    assert(all['query-materialization-server'].count() >= 1 && all['query-update-server'].count() >= 1);
    await zero.close();
  },

  async 'a client outlives a server killed without warning'() {
    const proxy = await Proxy.start(SERVER_URL);
    const zero = client({url: proxy.url});
    const list = new Follower(zero, queries.issues.list({limit: 10}));
    const page = new Follower(zero, queries.issues.page({id: 'i12'}));
    await shows(list, await expectedList(10), 'before');
    await shows(page, await expectedPage('i12'), 'before');
    proxy.hold();
    await ask('kill server');
    await newIssue('killed1', 6);
    await sql`UPDATE issue SET title = 'while the server was down' WHERE id = 'i12'`;
    await sql`INSERT INTO comment VALUES ('killed1-c', 'i12', 'u7', 'still there?', '2030-01-01')`;
    await ask('start server');
    proxy.mend();
    await shows(list, await expectedList(10), 'what was missed in the list');
    await shows(page, await expectedPage('i12'), 'what was missed on the page');
    await sql`DELETE FROM issue WHERE id = 'killed1'`;
    await shows(list, await expectedList(10), 'and live again');
    await zero.close();
    await proxy.close();
  },
};

if (COMPRESSED) {
  scenarios['all sockets were compressed'] = async () => {
    assert.ok(granted.length > 0);
    assert.deepEqual(granted.filter(extensions => !extensions.startsWith('permessage-deflate')), []);
  };
}

let failed = 0;
for (const [name, run] of Object.entries(scenarios)) {
  if (only !== undefined && !name.includes(only)) {
    continue;
  }
  const start = performance.now();
  let error;
  try {
    await run();
  } catch (thrown) {
    error = (thrown?.stack ?? String(thrown)).slice(0, 4000);
    failed++;
  }
  console.log(JSON.stringify({scenario: name, ms: Math.round(performance.now() - start), error}));
}
await sql.end();
process.exit(failed === 0 ? 0 : 1);
