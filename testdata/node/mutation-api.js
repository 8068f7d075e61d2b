// An application's API server with users: named queries and custom mutators, for tests of mutations and tokens.
//
// A token is `<user>.<anything>`, or a JSON web token of the secret SECRET. Requests to /control make it behave: hold and
// release mutations, forget tokens, fail. Prints its URL as a JSON line and runs until its standard input ends.

import {createHmac} from 'node:crypto';
import {createServer} from 'node:http';
import * as zero from '@rocicorp/zero';
import {handleMutateRequest, handleQueryRequest} from '@rocicorp/zero/server';
import {zeroPostgresJS} from '@rocicorp/zero/server/adapters/postgresjs';
import postgres from 'postgres';
import {define} from './model.js';
import {defineTrackerMutators} from './mutators.js';

const {DATABASE_URL, SECRET} = process.env;
const {schema, zql, queries, mustGetQuery} = define(zero);
const mutators = defineTrackerMutators(zero, zql);
const dbProvider = zeroPostgresJS(schema, postgres(DATABASE_URL, {max: 4, onnotice: () => {}}));

const forgotten = new Set();
let status = 0;
let held;
const seen = [];

/** The user of a token; `undefined` if it is not known. */
function userOf(authorization) {
  const token = authorization?.replace(/^Bearer /, '');
  if (!token) {
    return null;
  }
  const [first, payload, signature] = token.split('.');
  if (signature === undefined) {
    return forgotten.has(token) ? undefined : first;
  }
  const expected = createHmac('sha256', SECRET).update(`${first}.${payload}`).digest('base64url');
  return signature === expected ? JSON.parse(Buffer.from(payload, 'base64url')).sub : undefined;
}

const control = {
  forget: token => forgotten.add(token),
  fail: code => (status = Number(code)),
  hold: () => (held ??= []),
  release: () => {
    held?.forEach(resume => resume());
    held = undefined;
  },
};

async function answer(url, body, userID) {
  if (url.pathname === '/query') {
    return handleQueryRequest({
      handler: (name, args) => mustGetQuery(queries, name).fn({args, ctx: {}}),
      schema,
      query: url.searchParams,
      body,
      userID,
    });
  }
  if (held !== undefined) {
    await new Promise(resume => held.push(resume));
  }
  return handleMutateRequest({
    dbProvider,
    handler: transact =>
      transact((tx, name, args) => zero.mustGetMutator(mutators, name).fn({tx, args, ctx: {userID}})),
    query: url.searchParams,
    body,
    userID,
  });
}

const server = createServer(async (request, response) => {
  const chunks = [];
  for await (const chunk of request) {
    chunks.push(chunk);
  }
  const text = Buffer.concat(chunks).toString('utf8');
  const url = new URL(request.url, 'http://localhost');
  const [, name, action] = url.pathname.split('/');
  const json = value => response.writeHead(200, {'content-type': 'application/json'}).end(JSON.stringify(value));
  try {
    if (name === 'control') {
      const result = action === 'seen' ? seen : control[action](text);
      return json({result: action === 'seen' ? result : null});
    }
    seen.push({path: url.pathname, authorization: request.headers.authorization ?? null});
    const userID = userOf(request.headers.authorization);
    if (userID === undefined) {
      return response.writeHead(401).end('who are you?');
    }
    if (status !== 0 && name === 'mutate') {
      return response.writeHead(status).end('not now');
    }
    json(await answer(url, JSON.parse(text), userID));
  } catch (error) {
    console.error(error);
    response.writeHead(500).end(String(error));
  }
});
server.listen(0, '127.0.0.1', () => {
  console.log(JSON.stringify({url: `http://127.0.0.1:${server.address().port}`}));
});
process.stdin.on('end', () => process.exit(0)).resume();
