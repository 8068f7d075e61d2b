//! Everything goes wrong at random while clients read and write, and in the end nothing is lost, doubled or stuck.
//!
//! Clients in groups follow random queries and make CRUD and custom mutations, drop their connections and come back,
//! while the server is killed or stopped, Postgres restarted, the records' cluster away and records lost ([`site::Fault`]).
//! After each fault the clients stop, and all is compared: what each holds with what the naive evaluator makes of the rows in
//! Postgres, and what was carried out with what the clients were told. Waiting is for conditions, never for a time.
//!
//! `CHAOS_SEED` chooses clients, queries and faults; how they fall together is up to the machine. `CHAOS_FULL=1` is the
//! long run (`make chaos`).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use protocol_client::{Connection, Hello, Identity};
use serde_json::json;
use testdata::world::{ISSUES, Rng, fill};
use tokio::sync::{mpsc, oneshot};
use tokio::task::{JoinSet, block_in_place};
use zql_spec::naive::Database;

mod api;
mod site;
mod tab;
mod town;

use crate::truth::Truth;
use crate::worlds::client_schema;
use site::{Fault, Site};
use tab::{Command, Tab, View};
use town::Town;

/// Something that takes longer has been lost. Far above what a busy machine needs.
const CEILING: Duration = Duration::from_secs(300);

/// How many there are of everything.
struct Scale {
    clients: usize,
    teams: usize,
    queries: usize,
    /// Rounds of all faults.
    rounds: usize,
    outage: Duration,
}

const SMALL: Scale = Scale { clients: 40, teams: 12, queries: 40, rounds: 1, outage: Duration::from_secs(1) };
const FULL: Scale = Scale { clients: 200, teams: 60, queries: 120, rounds: 3, outage: Duration::from_secs(10) };

struct Run {
    town: Arc<Town>,
    site: Site,
    clients: Vec<mpsc::Sender<Command>>,
    tasks: JoinSet<()>,
}

impl Run {
    async fn start(scale: &Scale, rng: &mut Rng) -> Run {
        let rows = fill(&ISSUES, rng);
        let data = Site::data();
        let mut database = Database::new(data.schema().into());
        database.tables.extend(rows.tables.clone());
        let site = block_in_place(|| Site::new(data, &database, scale.teams, api::serve));
        let sizes = [scale.queries, scale.teams, scale.clients];
        let town = Arc::new(Town::new(site.server.url(), client_schema(data), &rows, sizes, rng.fork()));
        permit(&town, &site).await;
        let mut run = Run { town, site, clients: Vec::new(), tasks: JoinSet::new() };
        for number in 0..scale.clients {
            let (sender, commands) = mpsc::channel(4);
            let team = if number < scale.teams { number } else { rng.below(scale.teams) };
            run.tasks.spawn(Tab::new(Arc::clone(&run.town), number, team, rng.fork()).run(commands));
            run.clients.push(sender);
        }
        run
    }

    /// Fails, with the server's log beside.
    fn fail(&self, what: &str) -> ! {
        let file = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("chaos-server.log");
        let kept = std::fs::write(&file, self.site.server.log());
        panic!("{what}\nserver's log: {} ({kept:?}), which ends\n{}", file.display(), self.site.server.log_tail());
    }

    /// Asks every client something and waits for all answers.
    async fn ask<T>(&mut self, what: &str, question: impl Fn(oneshot::Sender<T>) -> Command) -> Vec<T> {
        let mut waiting = Vec::new();
        for client in &self.clients {
            let (sender, answer) = oneshot::channel();
            // A client that is gone has failed; its answer says so below.
            let _ = client.send(question(sender)).await;
            waiting.push(answer);
        }
        let deadline = tokio::time::Instant::now() + CEILING;
        let mut answers = Vec::new();
        let mut late = Vec::new();
        for (number, answer) in waiting.into_iter().enumerate() {
            match tokio::time::timeout_at(deadline, answer).await {
                Ok(Ok(answer)) => answers.push(answer),
                Ok(Err(_)) => {
                    let failed = self.tasks.join_next().await;
                    self.fail(&format!("client {number} failed: {failed:?}"));
                }
                Err(_) => late.push(number),
            }
        }
        if !late.is_empty() {
            self.fail(&format!("{what} takes for ever:\n{}", self.town.notes(&late)));
        }
        answers
    }

    /// Makes trouble, and sees that it leaves no trace.
    async fn round(&mut self, fault: Option<Fault>, outage: Duration, rng: &mut Rng) {
        let begun = Instant::now();
        let mut confirmed = self.town.tally.confirmed.subscribe();
        let before = *confirmed.borrow_and_update();
        for client in &self.clients {
            let _ = client.send(Command::Busy).await;
        }
        let enough = before + self.clients.len() as u64;
        let enough = confirmed.wait_for(|confirmed| *confirmed >= enough);
        if tokio::time::timeout(CEILING, enough).await.is_err() {
            let all: Vec<usize> = (0..self.clients.len()).collect();
            self.fail(&format!("mutations do not come back:\n{}", self.town.notes(&all)));
        }
        let struck = begun.elapsed();
        if let Some(fault) = fault {
            block_in_place(|| self.site.suffer(fault, outage, rng));
        }
        let mended = begun.elapsed();
        let views = loop {
            let anew = self.town.tally.anew.load(Ordering::Relaxed);
            self.ask("settling", Command::Settle).await;
            let tick = block_in_place(|| self.site.tick());
            let views = self.ask("a tick", |answer| Command::See(tick, answer)).await;
            // A client may be settled with a record that it has yet to hear is lost, and then joins another group than the
            // one that it settled in.
            if self.town.tally.anew.load(Ordering::Relaxed) == anew {
                break views;
            }
        };
        if let Err(difference) = block_in_place(|| check(&self.town, &self.site, &views)) {
            self.fail(&format!("after {fault:?}: {difference}"));
        }
        if !self.site.server.is_running() {
            self.fail("the server ended by itself");
        }
        eprintln!(
            "{fault:?}: struck after {struck:.1?}, mended at {mended:.1?}, all well at {:.1?}, {} confirmed",
            begun.elapsed(),
            *self.town.tally.confirmed.borrow()
        );
    }
}

/// Allows everybody everything, and waits until that is in force, which a query of a client's own shows.
async fn permit(town: &Town, site: &Site) {
    let rules = json!([["allow", { "type": "and", "conditions": [] }]]);
    let row = json!({ "select": rules, "insert": rules, "update": { "preMutation": rules, "postMutation": rules }, "delete": rules });
    let tables: serde_json::Map<String, serde_json::Value> =
        site.data.tables.iter().map(|table| (table.name.to_owned(), json!({ "row": row }))).collect();
    let document = json!({ "tables": tables }).to_string();
    block_in_place(|| site.sql(&format!("UPDATE zql.permissions SET permissions = '{document}'")));
    let own = Hello::ast(r#"{"table":"tick"}"#);
    let identity = Identity::fresh(site.server.url());
    let mut connection =
        Connection::open(&identity, None, Hello::new(&town.schema, vec![own])).await.expect("a connection");
    let shown = async { while connection.next_poke().await.expect("a poke").rows().next().is_none() {} };
    tokio::time::timeout(CEILING, shown).await.expect("permissions in force");
}

/// Compares everything with Postgres.
fn check(town: &Town, site: &Site, views: &[View]) -> Result<(), String> {
    let rows = site.rows();
    let last: BTreeMap<String, u64> = site.last_mutation_ids().into_iter().collect();
    let done = site.done();
    let counts: BTreeMap<String, u64> = done.iter().map(|(client, done)| (client.clone(), done.len() as u64)).collect();
    same(&counts, &last, || "mutations that were carried out, and their numbers".to_owned())?;
    for (client, done) in &done {
        same(done, &(1..=done.len() as u64).collect(), || format!("once and in order by {client}"))?;
    }
    for view in views {
        let client = &view.identity.client_id;
        same(&last.get(client).copied().unwrap_or(0), &view.made, || format!("mutations of {client}"))?;
        for other in views.iter().filter(|other| other.identity.client_group_id == view.identity.client_group_id) {
            let other_id = &other.identity.client_id;
            let known = view.state.last_mutation_ids.get(other_id).copied().unwrap_or(0.0) as u64;
            same(&known, &other.made, || format!("mutations of {other_id}, as {client} knows"))?;
            let desired = view.state.desired.get(other_id).cloned().unwrap_or_default();
            same(&desired, &other.wanted, || {
                let (mine, others) = (&view.state.cookie, &other.state.cookie);
                let record = site.desires(other_id);
                format!(
                    "what {other_id} wants ({others:?}), as {client} knows ({mine:?}) and the record says ({record})"
                )
            })?;
        }
        same(&view.refused, &BTreeSet::new(), || format!("{client} was not told that these were refused"))?;
        let mut truth = Truth::default();
        for hash in &view.state.got {
            truth.add(&rows, town.ast(hash))?;
        }
        truth.check(&view.state, &[]).map_err(|difference| format!("{client}: {difference}\n{:?}", view.state.got))?;
    }
    Ok(())
}

fn same<T: PartialEq + std::fmt::Debug>(found: &T, expected: &T, what: impl FnOnce() -> String) -> Result<(), String> {
    if found == expected { Ok(()) } else { Err(format!("{}: {found:?} instead of {expected:?}", what())) }
}

#[tokio::test(flavor = "multi_thread")]
async fn chaos_leaves_no_trace() {
    let scale = if std::env::var("CHAOS_FULL").is_ok_and(|full| full == "1") { FULL } else { SMALL };
    let seed = std::env::var("CHAOS_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed =
        seed.unwrap_or_else(|| SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").subsec_nanos().into());
    let reporter = Reporter(seed);
    let begun = Instant::now();
    let mut rng = Rng::new(seed);
    let mut run = Run::start(&scale, &mut rng).await;
    // A round in peace: whatever fails there is no fault's doing.
    run.round(None, scale.outage, &mut rng).await;
    for _ in 0..scale.rounds {
        let mut faults = Fault::ALL.to_vec();
        while !faults.is_empty() {
            let fault = faults.swap_remove(rng.below(faults.len()));
            run.round(Some(fault), scale.outage, &mut rng).await;
        }
    }
    let tally = &run.town.tally;
    let [dropped, closed, rehomed, parked, anew] =
        [&tally.dropped, &tally.closed, &tally.rehomed, &tally.parked, &tally.anew]
            .map(|counter| counter.load(Ordering::Relaxed));
    eprintln!(
        "seed {seed}: {} clients, {} mutations, {dropped} dropped, {closed} closed, {rehomed} rehomed, {parked} pushes failed, \
         {anew} started anew, {:.0?}",
        scale.clients,
        *tally.confirmed.borrow(),
        begun.elapsed()
    );
    assert!(dropped > 0 && closed > 0 && rehomed > 0, "nothing happened");
    assert!(anew >= scale.rounds, "records were lost, and nobody started anew");
    let log = run.site.server.log();
    let panicked: Vec<&str> = log.lines().filter(|line| line.contains("panicked")).collect();
    assert!(panicked.is_empty(), "the server has defects: {panicked:#?}");
    drop(reporter);
}

/// Names the seed when the test fails.
struct Reporter(u64);

impl Drop for Reporter {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("CHAOS_SEED={} repeats the choices of this run", self.0);
        }
    }
}
