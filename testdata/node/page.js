// The page of browser.js: the real client with its store in IndexedDB, following one query. What it shows is in
// `window.seen`; `window.until` waits for a state of it.

import * as zero from '@rocicorp/zero';
import {define} from './model.js';

const {schema, queries} = define(zero);
const client = new zero.Zero({
  server: new URL(location.href).searchParams.get('server'),
  userID: 'u1',
  storageKey: 'browser',
  schema,
  logLevel: 'error',
});

const listeners = new Set();
window.seen = {titles: [], type: 'unknown'};
window.clientGroup = () => client.clientGroupID;
window.connection = () => client.connection.state.current.name;
client.materialize(queries.issues.list({limit: 3})).addListener((data, type) => {
  window.seen = {titles: data.map(({title}) => title), type};
  listeners.forEach(listener => listener());
});
client.connection.state.subscribe(() => listeners.forEach(listener => listener()));

window.until = predicate =>
  new Promise(resolve => {
    const listener = () => {
      if (predicate(window.seen, window.connection())) {
        listeners.delete(listener);
        resolve(window.seen);
      }
    };
    listeners.add(listener);
    listener();
  });
