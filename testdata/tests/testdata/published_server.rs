//! The scenarios of the real client hold for the published zero-cache, so that a failure against this server is a
//! difference to what clients rely on and not a mistake of the scenario.

use testdata::node::{Api, scenarios};
use testdata::postgres;
use testdata::sync_server::{Program, SyncServer};
use testdata::tracker::Sizes;

#[test]
fn the_published_server_passes_the_scenarios() {
    let postgres = postgres::shared();
    let database = postgres.database().unwrap();
    Sizes::SMALL.load(postgres, &database).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let api = Api::start().unwrap();
    let mut server = SyncServer::start(Program::ZeroCache, &database, &api.url, folder.path()).unwrap();
    scenarios("@rocicorp/zero", &mut server, &database, None).unwrap();
}
