//! What clients that are behind are told.

use cvr_store::{CaughtUp, Range, Rehome};

use super::*;

fn range(after: Option<&str>, up_to: &str, current: &str, excluded: &[&str]) -> Range {
    Range {
        group: "g".into(),
        after: after.map(version),
        up_to: version(up_to),
        current: version(current),
        excluded: excluded.iter().map(|query| (*query).into()).collect(),
    }
}

fn lines(caught_up: &CaughtUp) -> Vec<String> {
    let mut lines: Vec<String> = caught_up
        .rows
        .iter()
        .map(|patch| {
            let op = if patch.put.is_some() { "put" } else { "del" };
            format!("{op} {} @{}", patch.row.to_json(), patch.to_version)
        })
        .collect();
    lines.extend(caught_up.queries.iter().map(|patch| {
        let kind = patch.client.as_ref().map_or("got".to_owned(), |client| format!("desired {client}"));
        format!("{kind} {} {} @{}", if patch.put { "put" } else { "del" }, patch.query, patch.to_version)
    }));
    lines.sort();
    lines
}

#[tokio::test]
async fn ranges() {
    let database = Database::new().await;
    let store = database.store("a").await;
    let mut group = Group::with_rows(&store, "g", 2).await;
    let flush = group.update("02", &[], &[], &[("q", "0".into(), None), ("q", "5".into(), Some("02"))]);
    group.flush(flush).await.unwrap();
    let flush = group.config(|update| update.put_desired("c", &[put("p")]).unwrap());
    group.flush(flush).await.unwrap();
    // A minor state follows a configuration step although its text sorts before.
    let flush = group.update("02.01", &["p"], &[], &[("p", "5".into(), Some("02")), ("p", "6".into(), Some("02.01"))]);
    group.flush(flush).await.unwrap();
    let flush = group.update("03", &[], &["q"], &[]);
    group.flush(flush).await.unwrap();

    type Case = (Option<&'static str>, &'static str, &'static [&'static str], &'static [&'static str]);
    let cases: &[Case] = &[
        (
            None,
            "03",
            &[],
            &[
                r#"del {"id":"0"} @02"#,
                r#"del {"id":"1"} @03"#,
                r#"put {"id":"5"} @02"#,
                r#"put {"id":"6"} @02.01"#,
                "got put p @02.01",
                "got del q @03",
                "desired c put p @02:01",
                "desired c put q @00:01",
            ],
        ),
        (
            Some("02"),
            "03",
            &[],
            &[
                r#"del {"id":"1"} @03"#,
                r#"put {"id":"6"} @02.01"#,
                "got put p @02.01",
                "got del q @03",
                "desired c put p @02:01",
            ],
        ),
        (Some("02:01"), "02.01", &[], &[r#"put {"id":"6"} @02.01"#, "got put p @02.01"]),
        (Some("02"), "02:01", &[], &["desired c put p @02:01"]),
        (Some("01"), "02", &["p"], &[r#"del {"id":"0"} @02"#]),
        (Some("03"), "03", &[], &[]),
    ];
    for (after, up_to, excluded, expected) in cases {
        let caught_up = store.catch_up(range(*after, up_to, "03", excluded)).await.unwrap();
        let mut expected = expected.to_vec();
        expected.sort_unstable();
        assert_eq!(lines(&caught_up), expected, "{after:?} {up_to} {excluded:?}");
    }
    assert_eq!(
        store.catch_up(range(None, "03", "02", &[])).await.unwrap_err().to_string(),
        "CVR has been concurrently modified. Expected 02, got 03"
    );
    database.sql("DELETE FROM instances").await;
    assert!(matches!(
        store.catch_up(range(None, "03", "03", &[])).await,
        Err(StoreError::Rehome(Rehome::ConcurrentModification { actual, .. })) if actual == "00"
    ));
}

/// What is gone is read by nobody but clients that missed it; that it cannot be read is theirs to hear.
#[tokio::test]
async fn patches_that_cannot_be_read() {
    let database = Database::new().await;
    let store = database.store("a").await;
    let mut group = Group::with_rows(&store, "g", 1).await;
    let flush = group.update("02", &[], &[], &[("q", "0".into(), None)]);
    group.flush(flush).await.unwrap();
    for (change, fault) in [
        (r#""patchVersion" = 'zz'"#, "patchVersion: Invalid LexiVersion: zz"),
        (r#""patchVersion" = '02', "rowKey" = '[]'"#, "rowKey []: "),
    ] {
        database.sql(&format!("UPDATE rows SET {change}")).await;
        Group::load(&store, "g", 1.0).await.unwrap();
        match store.catch_up(range(Some("01"), "02", "02", &[])).await {
            Err(StoreError::Refused(text)) => {
                let expected = format!("the stored client view record is unusable: {fault}");
                assert!(text.starts_with(&expected), "{text} should begin with {expected}");
            }
            outcome => panic!("{change}: {outcome:?}"),
        }
    }
}
