-- A generated issue tracker: the data of the demo, of the tests with real clients and of the wire benchmarks.
-- Sizes come from psql variables (users, issues, comments, labels, junctions); a row follows from its number alone, so
-- two databases of the same sizes hold the same rows. Run inside one session of psql.
--
-- Label `rare` is on one issue in a hundred; the other labels share the rest of the junction rows evenly.

CREATE FUNCTION pg_temp.pick(n bigint, salt bigint, among bigint) RETURNS bigint LANGUAGE sql IMMUTABLE AS
  $$ SELECT (hashint8extended(n, salt) & 1073741823) % among $$;
CREATE FUNCTION pg_temp.word(n bigint, salt bigint, words text[]) RETURNS text LANGUAGE sql IMMUTABLE AS
  $$ SELECT words[1 + pg_temp.pick(n, salt, cardinality(words))] $$;

CREATE TABLE "user" (
  id text PRIMARY KEY,
  name text NOT NULL,
  email text
);
CREATE TABLE issue (
  id text PRIMARY KEY,
  title text NOT NULL,
  description text,
  open boolean NOT NULL,
  priority integer NOT NULL,
  creator_id text NOT NULL REFERENCES "user",
  assignee_id text REFERENCES "user",
  created timestamptz NOT NULL,
  modified timestamptz NOT NULL
);
CREATE TABLE comment (
  id text PRIMARY KEY,
  issue_id text NOT NULL REFERENCES issue ON DELETE CASCADE,
  creator_id text NOT NULL REFERENCES "user",
  body text NOT NULL,
  created timestamptz NOT NULL
);
CREATE TABLE label (
  id text PRIMARY KEY,
  name text NOT NULL UNIQUE
);
CREATE TABLE issue_label (
  issue_id text NOT NULL REFERENCES issue ON DELETE CASCADE,
  label_id text NOT NULL REFERENCES label,
  PRIMARY KEY (issue_id, label_id)
);

INSERT INTO "user"
SELECT 'u' || n,
       pg_temp.word(n, 1, '{Ada,Alan,Barbara,Blaise,Donald,Edsger,Emmy,Frances,Grace,John,Katherine,Leslie,Margaret,Niklaus,Radia,Tony}')
         || ' ' || pg_temp.word(n, 2, '{Allen,Dijkstra,Hamilton,Hoare,Hopper,Johnson,Knuth,Lamport,Liskov,Lovelace,Noether,Pascal,Perlman,Turing,Wirth}'),
       CASE WHEN n % 10 = 0 THEN NULL ELSE 'u' || n || '@example.com' END
FROM generate_series(0, :users - 1) n;

INSERT INTO issue
SELECT 'i' || n,
       pg_temp.word(n, 3, '{Crash,Slow query,Wrong total,Blank page,Missing index,Broken link,Flicker,Time-out,Typo,Leak}')
         || ' ' || pg_temp.word(n, 4, '{in the list,after a reconnect,on start,when offline,with two tabs,in the inbox,on mobile,under load,in search,after an upgrade}')
         || ' #' || n,
       CASE WHEN n % 7 = 0 THEN NULL ELSE repeat('It happens every time and nobody knows why. ', 1 + (n % 5)::int) END,
       pg_temp.pick(n, 5, 10) < 4,
       pg_temp.pick(n, 6, 5),
       'u' || pg_temp.pick(n, 7, :users),
       CASE WHEN pg_temp.pick(n, 8, 5) = 0 THEN NULL ELSE 'u' || pg_temp.pick(n, 9, :users) END,
       timestamptz '2026-01-01 00:00:00Z' + n * interval '1 minute',
       timestamptz '2026-01-01 00:00:00Z' + (n + pg_temp.pick(n, 10, 100000)) * interval '1 minute'
FROM generate_series(0, :issues - 1) n;

INSERT INTO comment
SELECT 'c' || n,
       'i' || pg_temp.pick(n, 11, :issues),
       'u' || pg_temp.pick(n, 12, :users),
       pg_temp.word(n, 13, '{Same here,Cannot reproduce,Fixed in main,Any news,This blocks us,Bisected it,Works for me,A log is attached}')
         || pg_temp.word(n, 14, '{.,!,?,…}'),
       timestamptz '2026-03-01 00:00:00Z' + n * interval '1 second'
FROM generate_series(0, :comments - 1) n;

INSERT INTO label
SELECT 'l' || n, CASE n WHEN 0 THEN 'rare' WHEN 1 THEN 'bug' WHEN 2 THEN 'feature' ELSE 'label-' || n END
FROM generate_series(0, :labels - 1) n;

INSERT INTO issue_label
SELECT DISTINCT 'i' || pg_temp.pick(n, 15, :issues), 'l' || (1 + pg_temp.pick(n, 16, :labels - 1))
FROM generate_series(0, :junctions - 1) n;
INSERT INTO issue_label SELECT 'i' || n, 'l0' FROM generate_series(0, :issues - 1, 100) n;

-- The junction has its primary key alone, as junctions often do: from a label to its issues there is no index.
CREATE INDEX issue_modified ON issue (modified, id);
CREATE INDEX issue_creator ON issue (creator_id);
CREATE INDEX issue_assignee ON issue (assignee_id);
CREATE INDEX comment_issue ON comment (issue_id, created);
ANALYZE;
