//! Groups that flush much and little at the same time, load their records again, and catch up a client now and then.

use std::collections::BTreeMap;

use cvr_store::Range;
use futures::future::join_all;
use zql_spec::version::StateVersion;

use super::*;

const GROUPS: u64 = 4;
const STEPS: u64 = 40;
/// Rows that exist; enough that some flushes are written behind.
const ROWS: u64 = 300;

/// splitmix64.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound
    }
}

fn held(rows: &Rows) -> BTreeMap<String, CvrVersion> {
    rows.iter().map(|(row, record)| (row.to_json(), CvrVersion::clone(&record.patch_version))).collect()
}

async fn live(store: Store, id: String, seed: u64) {
    let mut random = Random(seed);
    let mut group = Group::with_rows(&store, &id, 10).await;
    let mut client: (Option<CvrVersion>, BTreeMap<String, CvrVersion>) = (None, BTreeMap::new());
    for step in 0..STEPS {
        let what = format!("{id}, step {step}");
        let text = StateVersion::from_lsn(36 + step);
        let count = if random.below(5) == 0 { ROWS } else { random.below(8) };
        let mut rows = BTreeMap::new();
        for _ in 0..count {
            rows.insert(random.below(ROWS).to_string(), (random.below(4) > 0).then_some(text.as_str()));
        }
        let rows: Vec<_> = rows.into_iter().map(|(row, version)| ("q", row, version)).collect();
        let flush = group.update(text.as_str(), &[], &[], &rows);
        group.flush(flush).await.unwrap();
        match random.below(6) {
            0 => {
                let loaded = Group::load(&store, &id, 1.0).await.unwrap();
                assert_eq!(loaded.cvr.version, group.cvr.version, "{what}");
                assert_eq!(lines(&loaded.rows), lines(&group.rows), "{what}");
                group = loaded;
            }
            1 | 2 => {
                let version = group.cvr.version.clone();
                let range = Range {
                    group: Arc::clone(&group.cvr.group),
                    after: client.0.take(),
                    up_to: version.clone(),
                    current: version.clone(),
                    excluded: Vec::new(),
                };
                for patch in store.catch_up(range).await.unwrap().rows {
                    match patch.put {
                        Some(()) => client.1.insert(patch.row.to_json(), CvrVersion::clone(&patch.to_version)),
                        None => client.1.remove(&patch.row.to_json()),
                    };
                }
                client.0 = Some(version);
                assert_eq!(client.1, held(&group.rows), "{what}");
            }
            _ => {}
        }
    }
    group.assert_stored().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn groups_live_side_by_side() {
    let database = Database::new().await;
    let store = database.store("a").await;
    let lives = (0..GROUPS).map(|group| tokio::spawn(live(store.clone(), format!("g{group}"), group)));
    for life in join_all(lives).await {
        life.unwrap();
    }
    let behind = store.counters().rows_behind.load(std::sync::atomic::Ordering::Relaxed);
    assert!(behind > 1_000, "rows were written behind: {behind}");
}
