//! How queries expire.

use super::*;
use crate::ttl::{self, TtlClock};

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

/// A group whose clients `a`, `b` put queries with TTLs and then end desires at times of the TTL clock.
fn group(puts: &[(&str, &str, f64)], ends: &[(&str, &str, f64)]) -> Group {
    let mut group = Group::at("01");
    group
        .config(|update| {
            for client in ["a", "b"] {
                update.ensure_client(client, "zero_0");
            }
            for (client, query, ttl) in puts {
                update.put_desired(client, &[put_ttl(query, *ttl)])?;
            }
            for (client, query, at) in ends {
                update.inactivate(client, &[(*query).into()], *at)?;
            }
            Ok(())
        })
        .unwrap();
    group
}

#[test]
fn inactive_queries() {
    type Ends = &'static [(&'static str, &'static str, f64)];
    type Case = (&'static str, Ends, Ends, &'static [(&'static str, f64)]);
    let cases: &[Case] = &[
        ("desired", &[("a", "q", 5.0)], &[], &[]),
        ("ended", &[("a", "q", 5.0)], &[("a", "q", 10.0)], &[("q", 15.0)]),
        ("desired by another", &[("a", "q", 5.0), ("b", "q", 5.0)], &[("a", "q", 10.0)], &[]),
        (
            "ended by both: the later expiry counts",
            &[("a", "q", 50.0), ("b", "q", 5.0)],
            &[("a", "q", 10.0), ("b", "q", 20.0)],
            &[("q", 60.0)],
        ),
        (
            "by expiry",
            &[("a", "x", 50.0), ("a", "y", 5.0), ("a", "z", -1.0)],
            &[("a", "x", 10.0), ("a", "y", 10.0), ("a", "z", 10.0)],
            &[("y", 15.0), ("x", 60.0), ("z", 600_010.0)],
        ),
    ];
    for (name, puts, ends, expected) in cases {
        let group = group(puts, ends);
        let expected: Vec<(QueryId, f64)> = expected.iter().map(|&(query, at)| (query.into(), at)).collect();
        assert_eq!(ttl::inactive(&group.cvr), expected, "{name}");
        let next = expected.first().map(|&(_, at)| (at - 12.0 + 50.0).clamp(50.0, 600_000.0));
        assert_eq!(ttl::next_eviction(&group.cvr, 12.0), next, "{name}");
        for &(ref query, at) in &expected {
            assert!(!ttl::expired(&group.cvr, at - 0.5).contains(query), "{name}");
            assert!(ttl::expired(&group.cvr, at).contains(query), "{name}");
        }
    }
}

#[test]
fn a_cleared_query_expires_at_once() {
    let mut group = group(&[("a", "q", 50.0)], &[]);
    group.config(|update| update.clear_desired("a")).unwrap();
    assert_eq!(ttl::expired(&group.cvr, 0.0), ["q".into()]);
    assert_eq!(ttl::next_eviction(&group.cvr, 1000.0), Some(ttl::HYSTERESIS));
}

#[test]
fn the_clock_stands_still_while_nobody_is_there() {
    let mut clock = TtlClock::new(100.0, 1_000.0);
    assert_eq!(clock.read(1_010.0), 110.0);
    clock.resume(9_000.0);
    assert_eq!(clock.read(9_005.0), 115.0);
    assert_eq!(clock.read(8_000.0), 115.0, "wall time went back");
    assert_eq!(clock.read(8_001.0), 116.0);
}
