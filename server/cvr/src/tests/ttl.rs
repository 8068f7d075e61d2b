//! How queries expire, to the millisecond.

use super::*;
use crate::ttl::{self, Schedule};

#[test]
fn clamping() {
    for (ttl, clamped) in [
        (0.0, 0.0),
        (1.5, 1.5),
        (600_000.0, 600_000.0),
        (600_001.0, 600_000.0),
        (24.0 * 3_600_000.0, 600_000.0),
        (-1.0, 600_000.0),
        (f64::INFINITY, 600_000.0),
        (f64::NEG_INFINITY, 600_000.0),
        (f64::NAN, 0.0),
    ] {
        assert_eq!(ttl::clamp(ttl), clamped, "{ttl}");
    }
}

/// What happens to a group of two clients at a moment.
#[derive(Clone, Copy)]
enum Step {
    Put(&'static str, &'static str, f64),
    Del(&'static str, &'static str),
    Clear(&'static str),
    DeleteClient(&'static str),
    /// The last client disconnects.
    Leave,
    /// The first one connects.
    Return,
    /// The server starts anew and loads the record.
    Restart,
}

use Step::*;

const SECOND: f64 = 1_000.0;
const MINUTE: f64 = 60.0 * SECOND;
const HOUR: f64 = 60.0 * MINUTE;

/// A server that handles one group: its messages, and the timer whenever it runs out.
struct Server {
    group: Group,
    schedule: Schedule,
    events: Vec<String>,
}

impl Server {
    fn new() -> Self {
        let mut group = Group::at("01");
        group
            .config(|update| {
                for client in ["a", "b"] {
                    update.ensure_client(client, "zero_0");
                }
                Ok(())
            })
            .unwrap();
        let mut schedule = Schedule::new(0.0);
        schedule.resume(0.0);
        Server { group, schedule, events: Vec::new() }
    }

    /// Lets time pass, up to and with a moment; the timer fires when it is due and not before.
    fn until(&mut self, now: f64) {
        while let Some(at) = self.schedule.wake_at().filter(|&at| at <= now) {
            assert!(!self.schedule.wake(at - 0.5) && self.schedule.wake(at));
            self.remove_expired(at);
        }
    }

    fn remove_expired(&mut self, now: f64) {
        let expired = ttl::expired(&self.group.cvr, self.schedule.clock(now));
        let removed: Vec<&str> = expired.iter().map(|id| &**id).collect();
        if !removed.is_empty() {
            self.group.update("01", &[], &removed, &[]).unwrap();
            self.events.push(format!("{now} removed {}", removed.join(" ")));
        }
        self.schedule.plan(&self.group.cvr, now);
    }

    fn step(&mut self, now: f64, step: Step) {
        self.until(now);
        let clock = self.schedule.clock(now);
        let patches = self.group.config(|update| match step {
            Put(client, query, ttl) => update.put_desired(client, &[put_ttl(query, ttl)]),
            Del(client, query) => update.inactivate(client, &[query.into()], clock),
            Clear(client) => update.clear_desired(client),
            DeleteClient(client) => {
                update.delete_client(client, clock);
                Ok(())
            }
            Leave | Return | Restart => Ok(()),
        });
        let patches: Vec<String> = patches.unwrap();
        let without_version = |patch: &String| patch.split(" @").next().map(str::to_owned);
        self.events.extend(patches.iter().filter_map(without_version).map(|patch| format!("{now} {patch}")));
        match step {
            Leave => {
                self.schedule.pause(now);
                // The store is told the time when the last client leaves.
                self.group.cvr.ttl_clock = self.schedule.clock(now);
            }
            Return => {
                self.schedule.resume(now);
                self.remove_expired(now);
            }
            Restart => self.schedule = Schedule::new(self.group.cvr.ttl_clock),
            // What expired goes with the message.
            Put(..) | Del(..) | Clear(_) | DeleteClient(_) => self.remove_expired(now),
        }
    }
}

#[test]
fn lives_of_queries() {
    struct Case {
        name: &'static str,
        steps: &'static [(f64, Step)],
        /// What clients are told of, and when queries are removed.
        events: &'static [&'static str],
    }
    let cases = [
        Case {
            name: "desired for ever",
            steps: &[(0.0, Put("a", "q", 1.0)), (10.0 * HOUR, Put("a", "q", 1.0))],
            events: &["0 desired a put q"],
        },
        Case {
            name: "the time to live counts from the end of the desire",
            steps: &[(0.0, Put("a", "q", 10.0)), (HOUR, Del("a", "q"))],
            events: &["0 desired a put q", "3600000 desired a del q", "3600060 removed q"],
        },
        Case {
            name: "none at all: with the message",
            steps: &[(0.0, Put("a", "q", 0.0)), (5.0, Del("a", "q"))],
            events: &["0 desired a put q", "5 desired a del q", "5 removed q"],
        },
        Case {
            name: "a day is ten minutes, and so is for ever",
            steps: &[
                (0.0, Put("a", "day", 24.0 * HOUR)),
                (0.0, Put("a", "ever", -1.0)),
                (1.0, Del("a", "day")),
                (101.0, Del("a", "ever")),
            ],
            events: &[
                "0 desired a put day",
                "0 desired a put ever",
                "1 desired a del day",
                "101 desired a del ever",
                "600051 removed day",
                "600151 removed ever",
            ],
        },
        Case {
            name: "the clock stands still while nobody is there",
            steps: &[
                (0.0, Put("a", "q", 10.0 * MINUTE)),
                (0.0, Del("a", "q")),
                (5.0 * MINUTE, Leave),
                (65.0 * MINUTE, Return),
            ],
            events: &["0 desired a put q", "0 desired a del q", "4200050 removed q"],
        },
        Case {
            name: "and while no server knows the group",
            steps: &[
                (0.0, Put("a", "q", 10.0 * MINUTE)),
                (0.0, Del("a", "q")),
                (9.0 * MINUTE, Leave),
                (10.0 * MINUTE, Restart),
                (24.0 * HOUR, Return),
            ],
            events: &["0 desired a put q", "0 desired a del q", "86460050 removed q"],
        },
        Case {
            name: "desired again before it expires",
            steps: &[(0.0, Put("a", "q", 100.0)), (10.0, Del("a", "q")), (109.0, Put("a", "q", 100.0))],
            events: &["0 desired a put q", "10 desired a del q", "109 desired a put q"],
        },
        Case {
            name: "desired again after it expired, but before the timer came to it",
            steps: &[(0.0, Put("a", "q", 100.0)), (10.0, Del("a", "q")), (159.0, Put("a", "q", 100.0))],
            events: &["0 desired a put q", "10 desired a del q", "159 desired a put q"],
        },
        Case {
            name: "desired for longer: the longer time counts; for shorter: nothing happens",
            steps: &[
                (0.0, Put("a", "q", 100.0)),
                (1.0, Put("a", "q", 200.0)),
                (2.0, Put("a", "q", 50.0)),
                (10.0, Del("a", "q")),
            ],
            events: &["0 desired a put q", "1 desired a put q", "10 desired a del q", "260 removed q"],
        },
        Case {
            name: "two times to live: one after the other, the timer follows the earlier one",
            steps: &[
                (0.0, Put("a", "long", 500.0)),
                (0.0, Put("a", "short", 100.0)),
                (10.0, Del("a", "long")),
                (10.0, Del("a", "short")),
            ],
            events: &[
                "0 desired a put long",
                "0 desired a put short",
                "10 desired a del long",
                "10 desired a del short",
                "160 removed short",
                "560 removed long",
            ],
        },
        Case {
            name: "expiring within the hysteresis: at once",
            steps: &[
                (0.0, Put("a", "x", 100.0)),
                (0.0, Put("a", "y", 130.0)),
                (10.0, Del("a", "x")),
                (10.0, Del("a", "y")),
            ],
            events: &[
                "0 desired a put x",
                "0 desired a put y",
                "10 desired a del x",
                "10 desired a del y",
                "160 removed x y",
            ],
        },
        Case {
            name: "desired by another client",
            steps: &[(0.0, Put("a", "q", 10.0)), (0.0, Put("b", "q", 10.0)), (1.0, Del("a", "q"))],
            events: &["0 desired a put q", "0 desired b put q", "1 desired a del q"],
        },
        Case {
            name: "the later expiry of two clients counts",
            steps: &[
                (0.0, Put("a", "q", 500.0)),
                (0.0, Put("b", "q", 10.0)),
                (10.0, Del("a", "q")),
                (200.0, Del("b", "q")),
            ],
            events: &[
                "0 desired a put q",
                "0 desired b put q",
                "10 desired a del q",
                "200 desired b del q",
                "560 removed q",
            ],
        },
        Case {
            name: "a client that is gone: its queries live on for their time",
            steps: &[(0.0, Put("b", "q", 100.0)), (50.0, DeleteClient("b"))],
            events: &["0 desired b put q", "50 desired b del q", "200 removed q"],
        },
        Case {
            name: "cleared: at once",
            steps: &[(0.0, Put("a", "q", 100.0)), (50.0, Clear("a"))],
            events: &["0 desired a put q", "50 desired a del q", "50 removed q"],
        },
        Case {
            name: "cleared by one of two clients: the other's time counts",
            steps: &[
                (0.0, Put("a", "q", 100.0)),
                (0.0, Put("b", "q", 100.0)),
                (10.0, Del("b", "q")),
                (50.0, Clear("a")),
            ],
            events: &[
                "0 desired a put q",
                "0 desired b put q",
                "10 desired b del q",
                "50 desired a del q",
                "160 removed q",
            ],
        },
    ];
    for case in cases {
        let mut server = Server::new();
        for &(at, step) in case.steps {
            server.step(at, step);
        }
        server.until(48.0 * HOUR);
        assert_eq!(server.events, case.events, "{}", case.name);
        let left: Vec<bool> = server.group.cvr.queries.values().map(|query| query.body.is_internal()).collect();
        let removed = case.events.last().is_some_and(|event| event.contains("removed"));
        assert_eq!(left.iter().all(|internal| *internal), removed, "{}", case.name);
    }
}

#[test]
fn clocks() {
    let mut schedule = Schedule::new(100.0);
    assert_eq!(schedule.clock(5_000.0), 100.0, "nobody is there");
    schedule.resume(9_000.0);
    schedule.resume(9_001.0);
    assert_eq!(schedule.clock(9_005.0), 105.0, "the second client changes nothing");
    assert_eq!(schedule.clock(9_004.0), 105.0, "time never goes back");
    schedule.set_clock(50.0, 9_010.0);
    assert_eq!(schedule.clock(9_011.0), 51.0);
    schedule.pause(9_020.0);
    assert_eq!((schedule.clock(10_000.0), schedule.wake_at()), (60.0, None));
}

#[test]
fn internal_queries_never_expire() {
    let server = Server::new();
    assert!(server.group.cvr.queries.values().all(|query| query.body.is_internal()));
    assert_eq!(ttl::expired(&server.group.cvr, f64::MAX), Vec::<QueryId>::new());
}
