//! What the chaos run breaks: a server, its source database and the cluster with the client view records; and how each is
//! broken and mended. Everything here blocks.

use std::path::PathBuf;
use std::time::Duration;

use testdata::postgres::{Options, Postgres, Stop};
use testdata::sync_server::{Program, SyncServer};
use testdata::world::{ColumnDef, DataSet, Fill, ISSUES, Rng, TableDef, data_sql, schema_sql};
use zql_spec::json::Json;
use zql_spec::naive::{Database, Operation};
use zql_spec::value::Value;

/// How long a server may take to stop in order: far above what draining takes, and below what a deployment waits.
const STOP_LIMIT: Duration = Duration::from_secs(60);

/// How long the server waits for the records, in ms: less than an outage of the long run, and far above what a busy machine
/// needs for a batch.
const PATIENCE: &str = "8000";

const fn whole(name: &'static str) -> ColumnDef {
    ColumnDef { name, pg_type: "int4", nullable: false, fill: Fill::Int(1) }
}

const fn text(name: &'static str) -> ColumnDef {
    ColumnDef { name, pg_type: "text", nullable: false, fill: Fill::Texts(&[""]) }
}

const fn table(name: &'static str, columns: &'static [ColumnDef]) -> TableDef {
    TableDef { name, columns, primary_key: &["id"], unique: &[], indexes: &[], rows: 0 }
}

/// Every mutation that was carried out, each with a row of its own.
const WRITTEN: TableDef = table("written", &[text("id"), text("client"), whole("mid"), whole("team")]);

/// How many mutations each team has made: counted by Postgres, so that one carried out twice counts twice.
const COUNTER: TableDef = table("counter", &[whole("id"), whole("n")]);

/// Moved on by the test alone; who has seen a tick has seen all that came before.
const TICK: TableDef = table("tick", &[whole("id"), whole("n")]);

/// `done` is the order in which mutations took place. The trigger runs before a conflict is looked for, so it counts a
/// mutation that is carried out a second time though its row is there already.
const LOG: &str = "CREATE TABLE done (seq bigserial PRIMARY KEY, client text NOT NULL, mid int NOT NULL,
        refused bool NOT NULL DEFAULT false);
    CREATE FUNCTION log_written() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        INSERT INTO done (client, mid) VALUES (NEW.client, NEW.mid);
        UPDATE counter SET n = n + 1 WHERE id = NEW.team;
        RETURN NEW;
    END $$;
    CREATE TRIGGER log_written BEFORE INSERT ON written FOR EACH ROW EXECUTE FUNCTION log_written();
    INSERT INTO tick VALUES (1, 0);";

/// One thing that goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// The server is killed and started again.
    Kill,
    /// The server is stopped in order and started again.
    Restart,
    /// The source database is restarted.
    Upstream(Stop),
    /// The records cannot be reached for a while.
    RecordsAway(Stop),
    /// The records cannot be reached, and the server is stopped in order meanwhile.
    RecordsAwayAndRestart,
    /// The records cannot be reached, and the server is killed meanwhile.
    RecordsAwayAndKill,
    /// Source database and server end at the same time.
    UpstreamAndKill,
    /// One group's record is purged.
    RecordLost,
    /// The replica is deleted while the server is down: all is copied again, and records meet a replica that is newer.
    ReplicaLost,
    /// The source database says nothing for a while.
    UpstreamStill,
    /// The records' cluster says nothing for a while, in a long run for longer than the server has patience.
    RecordsStill,
}

impl Fault {
    pub(super) const ALL: [Fault; 13] = [
        Fault::Kill,
        Fault::Upstream(Stop::Fast),
        Fault::RecordLost,
        Fault::RecordsAway(Stop::Fast),
        Fault::Upstream(Stop::Immediate),
        Fault::Restart,
        Fault::RecordsAwayAndRestart,
        Fault::RecordsAway(Stop::Immediate),
        Fault::UpstreamAndKill,
        Fault::RecordsAwayAndKill,
        Fault::ReplicaLost,
        Fault::UpstreamStill,
        Fault::RecordsStill,
    ];
}

pub(super) struct Site {
    pub(super) upstream: Postgres,
    pub(super) database: String,
    records: Postgres,
    record_database: String,
    pub(super) server: SyncServer,
    pub(super) data: &'static DataSet,
    tick: u64,
    folder: tempfile::TempDir,
}

impl Site {
    /// The tables of the tracker and of the test.
    pub(super) fn data() -> &'static DataSet {
        let tables: Vec<TableDef> = ISSUES.tables.iter().copied().chain([WRITTEN, COUNTER, TICK]).collect();
        Box::leak(Box::new(DataSet { tables: Box::leak(tables.into()), ..ISSUES }))
    }

    /// A source database with these rows and so many teams; `start` is given its URL and starts the server on it.
    pub(super) fn new(
        data: &'static DataSet,
        rows: &Database,
        teams: usize,
        urls: impl FnOnce(&str) -> (String, String),
    ) -> Site {
        let upstream = Postgres::start(Options::default()).expect("a source database");
        let records = Postgres::start(Options::default()).expect("a cluster for the records");
        let database = upstream.database().expect("a database");
        let record_database = records.database().expect("a database");
        let teams = format!("INSERT INTO counter SELECT n, 0 FROM generate_series(0, {}) n", teams - 1);
        for sql in [&schema_sql(data), &data_sql(data, rows), LOG, &teams] {
            upstream.psql(&database, sql).expect("good SQL");
        }
        let (query_url, mutate_url) = urls(&database);
        let folder = tempfile::tempdir().expect("a folder");
        let settings = [
            ("ZERO_CVR_DB", record_database.as_str()),
            ("ZERO_MUTATE_URL", &mutate_url),
            ("ZERO_PG_SOCKET_INACTIVITY_TIMEOUT", PATIENCE),
        ];
        let program = Program::Zql(PathBuf::from(crate::binary()));
        let server =
            SyncServer::start_with(program, &database, &query_url, folder.path(), &settings).expect("the server");
        Site { upstream, database, records, record_database, server, data, tick: 0, folder }
    }

    pub(super) fn sql(&self, sql: &str) -> String {
        self.upstream.psql(&self.database, sql).unwrap_or_else(|error| panic!("{error}\n{sql}"))
    }

    /// Moves the tick on and gives its number.
    pub(super) fn tick(&mut self) -> u64 {
        self.tick += 1;
        self.sql(&format!("UPDATE tick SET n = {}", self.tick));
        self.tick
    }

    /// Lets something go wrong for so long, and mends it.
    pub(super) fn suffer(&mut self, fault: Fault, outage: Duration, rng: &mut Rng) {
        match fault {
            Fault::Kill => self.server.kill().expect("running"),
            Fault::Restart => self.stop_server(),
            Fault::Upstream(how) => {
                self.upstream.stop(how).expect("stopped");
                self.upstream.start_again().expect("started");
            }
            Fault::RecordsAway(how) => {
                self.records.stop(how).expect("stopped");
                // An outage has a length; nothing is waited for here.
                std::thread::sleep(outage);
                self.records.start_again().expect("started");
            }
            Fault::RecordsAwayAndRestart => {
                self.records.stop(Stop::Fast).expect("stopped");
                self.stop_server();
                self.records.start_again().expect("started");
            }
            Fault::RecordsAwayAndKill => {
                self.records.stop(Stop::Immediate).expect("stopped");
                self.server.kill().expect("running");
                self.records.start_again().expect("started");
            }
            Fault::UpstreamAndKill => {
                self.upstream.stop(Stop::Immediate).expect("stopped");
                self.server.kill().expect("running");
                self.upstream.start_again().expect("started");
            }
            Fault::RecordLost => self.lose_record(rng),
            Fault::ReplicaLost => {
                self.stop_server();
                self.lose_replica();
            }
            Fault::UpstreamStill => self.upstream.stand_still(outage).expect("running"),
            Fault::RecordsStill => self.records.stand_still(outage).expect("running"),
        }
        match fault {
            Fault::Upstream(_)
            | Fault::RecordsAway(_)
            | Fault::RecordLost
            | Fault::UpstreamStill
            | Fault::RecordsStill => {
                assert!(self.server.is_running(), "the server ended: {}", self.server.log_tail());
            }
            _ => drop(self.server.restart().expect("the server again")),
        }
    }

    fn stop_server(&mut self) {
        assert_eq!(self.server.stop_by("TERM", STOP_LIMIT).expect("stopped in order"), 0);
    }

    /// Deletes the replica with its log.
    fn lose_replica(&self) {
        for entry in std::fs::read_dir(self.folder.path()).expect("a folder").flatten() {
            if entry.file_name().to_string_lossy().starts_with("replica.db") {
                std::fs::remove_file(entry.path()).expect("deleted");
            }
        }
    }

    /// What the record says of what a client wants: query, version, and whether that has ended.
    pub(super) fn desires(&self, client: &str) -> String {
        let sql = format!(
            r#"SELECT string_agg(concat_ws(' ', "queryHash", "patchVersion", "deleted", "inactivatedAtMs"), ', ')
               FROM "zql_0/cvr".desires WHERE "clientID" = '{client}'"#
        );
        self.records.psql(&self.record_database, &sql).unwrap_or_else(|error| error.to_string())
    }

    /// What the purge of records that nobody uses does, to one that somebody does use.
    fn lose_record(&self, rng: &mut Rng) {
        let sql = |sql: &str| self.records.psql(&self.record_database, sql).unwrap_or_else(|error| panic!("{error}"));
        let schema = "\"zql_0/cvr\"";
        let groups =
            sql(&format!("SELECT \"clientGroupID\" FROM {schema}.instances WHERE NOT deleted ORDER BY version DESC"));
        // The groups that were written last are those of somebody.
        let groups: Vec<&str> = groups.lines().take(5).collect();
        let group = rng.pick(&groups);
        let tables = ["desires", "queries", "clients", "rows", "\"rowsVersion\""];
        let deletes: String = tables
            .iter()
            .map(|table| format!("DELETE FROM {schema}.{table} WHERE \"clientGroupID\" = '{group}'; "))
            .collect();
        sql(&format!(
            "BEGIN; SELECT FROM {schema}.instances WHERE \"clientGroupID\" = '{group}' FOR UPDATE; {deletes} \
             UPDATE {schema}.instances SET deleted = true, version = '00', \"ttlClock\" = 0, \"replicaVersion\" = NULL, \
             owner = NULL, \"grantedAt\" = NULL, \"clientSchema\" = NULL WHERE \"clientGroupID\" = '{group}'; COMMIT"
        ));
    }

    /// The rows as they are in Postgres.
    pub(super) fn rows(&self) -> Database {
        let mut database = Database::new(self.data.schema().into());
        let selects: Vec<String> = self
            .data
            .tables
            .iter()
            .map(|table| {
                let columns = table.visible().map(|column| match column.pg_type {
                    "timestamptz" => format!("(extract(epoch FROM \"{}\") * 1000)::float8", column.name),
                    _ => format!("\"{}\"", column.name),
                });
                let columns = columns.collect::<Vec<_>>().join(", ");
                format!("(SELECT coalesce(json_agg(json_build_array({columns})), '[]') FROM \"{}\")", table.name)
            })
            .collect();
        let answer = self.sql(&format!("SELECT json_build_array({})", selects.join(", ")));
        let Ok(Json::Array(tables)) = Json::parse(&answer) else { panic!("not a list: {answer:.200}") };
        for (table, rows) in self.data.tables.iter().zip(&tables) {
            let Json::Array(rows) = rows else { panic!("rows of {}", table.name) };
            let operations: Vec<Operation> = rows
                .iter()
                .map(|row| {
                    let Json::Array(cells) = row else { panic!("a row of {}", table.name) };
                    let row = cells.iter().map(Value::from_json).collect();
                    Operation::Insert { table: table.name.into(), row }
                })
                .collect();
            database.apply(&operations);
        }
        database
    }

    /// Numbers of the mutations that were carried out, by client, in the order in which they were.
    pub(super) fn done(&self) -> Vec<(String, Vec<u64>)> {
        lists(
            &self.sql(
                "SELECT client, string_agg(mid::text, ',' ORDER BY seq) FROM done GROUP BY client ORDER BY client",
            ),
        )
    }

    /// The last number of each client.
    pub(super) fn last_mutation_ids(&self) -> Vec<(String, u64)> {
        let ids = lists(&self.sql(
            "SELECT \"clientID\", \"lastMutationID\" FROM zql_0.clients WHERE \"lastMutationID\" > 0 ORDER BY \"clientID\"",
        ));
        ids.into_iter().map(|(client, ids)| (client, ids[0])).collect()
    }
}

/// Lines of a name and numbers.
fn lists(text: &str) -> Vec<(String, Vec<u64>)> {
    let line = |line: &str| {
        let (name, numbers) = line.split_once('|').expect("two columns");
        (name.to_owned(), numbers.split(',').map(|number| number.parse().expect("a number")).collect())
    };
    text.lines().map(line).collect()
}
