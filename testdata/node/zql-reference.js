// Reads worlds from standard input, one a line (see testdata/tests/reference.rs), and compares answers, hashes
// and what the parser accepts with the reference implementation inside @rocicorp/zero.
//
// Plan hints and repeated columns of orders are taken off the queries (with them the engine's memory source
// loses rows), and queries that the engine refuses because a literal has another type than its column are
// counted and passed over. So are patterns with `_`: the engine's counts UTF-16 units where its SQLite, which
// answers first, counts characters.
import {createInterface} from 'node:readline';
import {fileURLToPath} from 'node:url';
import {dirname, join} from 'node:path';
import {isDeepStrictEqual} from 'node:util';

const zero = process.env.ZERO_PACKAGE ?? join(dirname(fileURLToPath(import.meta.url)), 'node_modules/@rocicorp/zero');
const load = name => import(join(zero, 'out', name));
const {buildPipeline} = await load('zql/src/builder/builder.js');
const {MemorySource} = await load('zql/src/ivm/memory-source.js');
const {MemoryStorage} = await load('zql/src/ivm/memory-storage.js');
const {astSchema, normalizeAST} = await load('zero-protocol/src/ast.js');
const {hashOfAST} = await load('zero-protocol/src/query-hash.js');

function withoutHints(value) {
  if (Array.isArray(value)) return value.map(withoutHints);
  if (value === null || typeof value !== 'object') return value;
  const copy = {};
  for (const [key, member] of Object.entries(value)) {
    if (value.type === 'correlatedSubquery' && (key === 'flip' || key === 'scalar')) continue;
    if (key === 'orderBy') {
      copy[key] = member.filter(([column], i) => member.findIndex(([other]) => other === column) === i);
      continue;
    }
    copy[key] = value.type === 'literal' ? member : withoutHints(member);
  }
  return copy;
}

// Related rows are taken while their parent's turn lasts, as the engine's own views do.
function tree(stream, ast) {
  // Of subqueries of one name the last counts; permissions are not shown.
  const related = new Map();
  for (const entry of ast.related ?? []) related.set(entry.subquery.alias, entry);
  const objects = [];
  for (const node of stream) {
    if (node === 'yield') continue;
    const object = {...node.row};
    for (const [alias, entry] of related) {
      const children = tree(node.relationships[alias](), entry.subquery);
      if (entry.system !== 'permissions') object[alias] = children;
    }
    objects.push(object);
  }
  return objects;
}

const refusals = /Cannot compare values of different types|expected string|EXISTS subqueries must not have/;
let [same, refused, different, mutants, accepted] = [0, 0, 0, 0, 0];
function differs(...text) {
  if (different++ < 5) console.log(...text);
}
for await (const line of createInterface({input: process.stdin})) {
  const world = JSON.parse(line);
  const sources = new Map();
  for (const [name, table] of Object.entries(world.tables)) {
    const source = new MemorySource(name, table.columns, table.primaryKey);
    for (const row of table.rows) for (const _ of source.push([0, row, null])) void _;
    sources.set(name, source);
  }
  const delegate = {
    enableNotExists: true,
    getSource: name => sources.get(name),
    createStorage: () => new MemoryStorage(),
    decorateInput: input => input,
    decorateFilterInput: input => input,
    decorateSourceInput: input => input,
    addEdge() {},
  };
  for (const {ast, expected, hash, twice, mutants: changed} of world.queries) {
    const hashes = [hashOfAST(ast), hashOfAST(normalizeAST(ast))];
    if (hashes[0] !== hash || hashes[1] !== twice) differs(`hashes ${hash} ${twice} should be ${hashes}`, JSON.stringify(ast));
    for (const mutant of changed) {
      mutants++;
      const {ok} = astSchema.try(mutant.ast, {mode: 'strict'});
      if (ok) accepted++;
      if (ok !== mutant.accepted) differs(`accepted should be ${ok}:`, JSON.stringify(mutant.ast));
    }
    const plain = withoutHints(ast);
    let found;
    try {
      const input = buildPipeline(plain, delegate, 'q');
      input.setOutput({push: () => []});
      found = tree(input.fetch({}), plain);
      input.destroy();
    } catch (error) {
      if (!refusals.test(String(error))) {
        differs(`seed ${world.seed}: ${error.stack}\n${JSON.stringify(plain)}`);
      } else refused++;
      continue;
    }
    // Through JSON, which has no -0.
    if (isDeepStrictEqual(JSON.parse(JSON.stringify(found)), expected)) same++;
    else if (/LIKE/.test(JSON.stringify(plain)) && /_/.test(JSON.stringify(plain))) refused++;
    else {
      const [wanted, got] = [JSON.stringify(expected), JSON.stringify(found)];
      differs(`seed ${world.seed}: ${JSON.stringify(plain)}\nexpected ${wanted}\nfound    ${got}`);
    }
  }
}
console.log({same, refused, different, mutants, accepted});
process.exit(different === 0 ? 0 : 1);
