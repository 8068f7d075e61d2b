//! When groups were last active, and how many users that makes.

use cvr_store::active::ActiveUsers;

use super::*;

/// A flush notes the time once a minute: what decides about purging after days need not be exact, and an update that leaves
/// it alone costs half.
#[tokio::test]
async fn flushes_note_the_time_once_a_minute() {
    let database = Database::new().await;
    let store = database.store("a").await;
    let mut group = Group::with_rows(&store, "g", 1).await;
    let flushed = group.times().last_active;
    // How far the time that stands there is from that of the flush, in seconds, and whether it stays.
    for (state, (apart, stays)) in
        (2..).zip([(0, true), (-59, true), (59, true), (-61, false), (61, false), (-9999, false)])
    {
        let stands = flushed + f64::from(apart) * 1000.0;
        database.sql(&format!(r#"UPDATE instances SET "lastActive" = to_timestamp({stands}::float8 / 1000)"#)).await;
        let state = format!("0{state}");
        let flush = group.update(&state, &[], &[], &[("q", "0".into(), Some(&*state))]);
        group.flush(flush).await.unwrap();
        let loaded = store.load("g", 1.0).await.unwrap();
        assert_eq!(loaded.version.to_string(), state);
        assert_eq!(loaded.last_active, if stays { stands } else { flushed }, "{apart}");
    }
}

/// Groups of all ages, of clients that name their profile and of such that do not, purged ones among them.
#[tokio::test]
async fn users_of_a_day_a_week_and_a_month() {
    let database = Database::new().await;
    let store = database.store("a").await;
    assert_eq!(store.active_users().await.unwrap(), ActiveUsers::default());
    database
        .sql(
            r#"INSERT INTO instances ("clientGroupID", version, "lastActive", "profileID", deleted)
               SELECT name, '01', now() - age::interval, profile, deleted FROM (VALUES
                   ('now', '0 h', 'p1', false), ('again', '1 h', 'p1', false), ('another', '23 h', 'p2', false),
                   ('older client', '2 h', 'cgolder client', false), ('purged', '23 h', 'p3', true),
                   ('nobody', '1 h', NULL, false),
                   ('yesterday', '25 h', 'p4', false), ('yesterday, again', '26 h', 'p1', false),
                   ('last week', '167 h', 'cglast week', false), ('before that', '169 h', 'p5', true),
                   ('last month', '29 days 23 h', 'p6', false), ('then, too', '29 days', 'cgthen, too', true),
                   ('too old', '30 days 1 h', 'p7', false), ('and gone', '60 days', 'p8', true)
               ) AS of_all (name, age, profile, deleted)"#,
        )
        .await;
    let expected = ActiveUsers { groups_last_day: 6, profiles: [3, 4, 6], with_fallback: [4, 6, 9] };
    assert_eq!(store.active_users().await.unwrap(), expected);
}
