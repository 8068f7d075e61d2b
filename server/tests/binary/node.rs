//! The unmodified client of the npm packages against this server.

use testdata::node::{Api, browser, scenarios};

use crate::Tracker;

fn passes(package: &str) {
    let api = Api::start().expect("the API server");
    let mut tracker = Tracker::start(&api.url);
    if let Err(error) = scenarios(package, &mut tracker.server, &tracker.database) {
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

#[test]
fn two_tabs_of_a_browser() {
    let api = Api::start().expect("the API server");
    let tracker = Tracker::start(&api.url);
    if let Err(error) = browser(&tracker.server, &tracker.database) {
        panic!("{error:#}");
    }
}
