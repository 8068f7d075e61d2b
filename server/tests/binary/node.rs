//! The unmodified client of the npm packages against this server.

use std::path::PathBuf;

use testdata::node::{Api, browser, mutations, scenarios};
use testdata::postgres;
use testdata::sync_server::{Program, SyncServer};
use testdata::tracker::Sizes;

use crate::{Tracker, binary};

fn passes(package: &str) {
    let api = Api::start().expect("the API server");
    let mut tracker = Tracker::start(&api.url);
    if let Err(error) = scenarios(package, &mut tracker.server, &tracker.database, None) {
        panic!("{error:#}");
    }
}

#[test]
fn client_1_9_passes_the_scenarios() {
    passes("@rocicorp/zero");
}

#[test]
fn client_1_4_passes_the_scenarios() {
    passes("zero-1.4");
}

/// With both of the WebSockets that the client meets in Node, and deflate at its extremes.
#[test]
fn client_1_9_passes_the_scenarios_over_compressed_sockets() {
    for (sockets, options) in [
        ("node", r#"{"threshold":0,"zlibDeflateOptions":{"level":9,"memLevel":8}}"#),
        ("ws", r#"{"serverNoContextTakeover":true,"threshold":100,"zlibDeflateOptions":{"level":1}}"#),
    ] {
        let settings = [("ZERO_WEBSOCKET_COMPRESSION", "true"), ("ZERO_WEBSOCKET_COMPRESSION_OPTIONS", options)];
        let api = Api::start().expect("the API server");
        let mut tracker = Tracker::on(postgres::shared(), &api.url, "", &settings);
        if let Err(error) = scenarios("@rocicorp/zero", &mut tracker.server, &tracker.database, Some(sockets)) {
            panic!("{sockets}: {error:#}");
        }
    }
}

#[test]
fn two_tabs_of_a_browser() {
    let api = Api::start().expect("the API server");
    let tracker = Tracker::start(&api.url);
    if let Err(error) = browser(&tracker.server, &tracker.database) {
        panic!("{error:#}");
    }
}

/// Custom and CRUD mutations, and tokens, with the application's API server made of the library's own parts.
fn writes(package: &str) {
    const SECRET: &str = "a secret of these tests";
    let postgres = postgres::shared();
    let database = postgres.database().expect("a database");
    Sizes::SMALL.load(postgres, &database).expect("the tracker's rows");
    let api = Api::start_with_mutators(&database, SECRET).expect("the API server");
    let (query, mutate) = (format!("{}/query", api.url), format!("{}/mutate", api.url));
    let folder = tempfile::tempdir().expect("a folder");
    let start = |name: &str, settings: &[(&'static str, &str)]| {
        let program = Program::Zql(PathBuf::from(binary()));
        let server = SyncServer::start_with(program, &database, &query, &folder.path().join(name), settings);
        server.expect("a server")
    };
    let server = start("passing-on", &[("ZERO_MUTATE_URL", &mutate)]);
    let jwt = start("verifying", &[("ZERO_AUTH_SECRET", SECRET), ("ZERO_APP_ID", "jwt")]);
    if let Err(error) = mutations(package, [&server, &jwt], &api, &database, SECRET) {
        panic!("{error:#}");
    }
}

#[test]
fn client_1_9_writes() {
    writes("@rocicorp/zero");
}

#[test]
fn client_1_4_writes() {
    writes("zero-1.4");
}

#[test]
fn client_1_0_writes() {
    writes("zero-1.0");
}

#[test]
fn client_1_0_passes_the_scenarios() {
    passes("zero-1.0");
}
