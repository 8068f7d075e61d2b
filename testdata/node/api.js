// The application's API server: turns named queries into ASTs. Prints its URL as a JSON line and runs until its standard
// input ends, so that it never outlives the test that started it.

import {createServer} from 'node:http';
import * as zero from '@rocicorp/zero';
import {handleQueryRequest} from '@rocicorp/zero/server';
import {define} from './model.js';

const {schema, queries, mustGetQuery} = define(zero);

function transform(name, args) {
  if (name === 'failing') {
    throw new Error('this query always fails');
  }
  return mustGetQuery(queries, name).fn({args, ctx: {}});
}

const server = createServer(async (request, response) => {
  const chunks = [];
  for await (const chunk of request) {
    chunks.push(chunk);
  }
  const url = new URL(request.url, 'http://localhost');
  try {
    const result = await handleQueryRequest({
      handler: transform,
      schema,
      query: url.searchParams,
      body: JSON.parse(Buffer.concat(chunks).toString('utf8')),
      // Everybody is this user: who asks is not what these tests are about.
      userID: 'u1',
    });
    response.writeHead(200, {'content-type': 'application/json'}).end(JSON.stringify(result));
  } catch (error) {
    console.error(error);
    response.writeHead(500).end(String(error));
  }
});
server.listen(Number(process.argv[2] ?? 0), '127.0.0.1', () => {
  console.log(JSON.stringify({url: `http://127.0.0.1:${server.address().port}/query`}));
});
process.stdin.on('end', () => process.exit(0)).resume();
