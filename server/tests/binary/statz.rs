//! What operators are told by `/statz`, and who is not.

use serde_json::{Value, json};
use testdata::node::Api;

use crate::Tracker;
use crate::client::{Client, list, user};

#[tokio::test(flavor = "multi_thread")]
async fn counts_behind_a_password() {
    let api = Api::start().expect("the API server");
    let tracker = Tracker::start(&api.url);
    let url = format!("{}/statz", tracker.server.url());
    let mut client = Client::new(user(&tracker.server.url()), vec![list(5)]).await;
    client.got(&list(5)).await;
    let http = reqwest::Client::new();
    for password in [None, Some("wrong")] {
        let mut request = http.get(&url);
        if let Some(password) = password {
            request = request.basic_auth("anybody", Some(password));
        }
        let answer = request.send().await.expect("an answer");
        assert_eq!(answer.status(), 401, "{password:?}");
        let asks = answer.headers()["www-authenticate"].to_str().expect("text").to_owned();
        assert_eq!(asks, "Basic realm=\"Statz Protected Area\"");
        assert_eq!(answer.text().await.expect("text"), "Unauthorized");
    }
    let ask = async |query: &str| {
        let answer = http.get(format!("{url}{query}")).basic_auth("", Some("test")).send().await.expect("an answer");
        assert_eq!(answer.status(), 200);
        let kind = answer.headers()["content-type"].to_str().expect("text").to_owned();
        (kind, answer.text().await.expect("text"))
    };
    let (kind, text) = ask("?format=json").await;
    assert_eq!(kind, "application/json");
    let stats: Value = serde_json::from_str(&text).expect("JSON");
    let groups: Vec<&String> = stats.as_object().expect("groups").keys().collect();
    assert_eq!(groups.len(), 8, "{groups:?}");
    for (group, told) in stats.as_object().expect("groups") {
        assert!(told.get("error").is_none(), "{group}: {told}");
    }
    assert_eq!(stats["upstream"]["numReplicas"], json!([{ "c": 1 }]));
    let cvr = &stats["cvr"];
    for name in ["totalNumQueries", "numUniqueQueryHashes", "numActiveQueries"] {
        assert_eq!(cvr[name], json!([{ "c": 1 }]), "{name}");
    }
    assert_eq!(cvr["numInactiveQueries"], json!([{ "c": 0 }]));
    assert_eq!(cvr["totalActiveQueriesPerClientAndClientGroup"][0]["num_queries"], 1);
    let rows = tracker.sql(r#"SELECT count(*) FROM "zql_0/cvr".rows"#);
    assert_eq!(cvr["totalRowsPerClientGroup"][0]["c"].to_string(), rows);
    assert_eq!(cvr["rowsPerClientGroupPercentiles"][0]["max"].to_string(), rows);
    assert_eq!(cvr["astSizes"][0]["total_records"], 3);
    assert_eq!(stats["replica"]["page size"], 4096);
    assert_eq!(stats["replica"]["journal mode"], "wal");
    assert!(stats["replica"]["db file stats"]["size"].as_u64() > Some(0));
    assert!(stats["replication"]["lsn"].as_str().is_some_and(|lsn| lsn.contains('/')));
    assert!(stats["os"]["total mem"].as_f64() > Some(0.0));

    // The client names no browser profile.
    let users = json!({ "active_users_last_day": 1, "users_1da": 0, "users_7da": 0, "users_30da": 0,
        "users_1da_legacy": 1, "users_7da_legacy": 1, "users_30da_legacy": 1 });
    assert_eq!(stats["activeUsers"], users);
    let rows = &stats["cvr"]["totalRowsPerClientGroup"][0]["c"];
    let held = json!({ "active-client-groups": 1, "active-clients": 1, "queries": 3, "rows": rows });
    assert_eq!(stats["sync"], held);

    // What cannot be counted is an error where it would stand, and the rest is told all the same.
    tracker.sql(r#"ALTER TABLE "zql_0/cvr".instances RENAME COLUMN "profileID" TO hidden"#);
    let (_, text) = ask("?format=json&group=activeUsers,sync,os").await;
    tracker.sql(r#"ALTER TABLE "zql_0/cvr".instances RENAME COLUMN hidden TO "profileID""#);
    let stats: Value = serde_json::from_str(&text).expect("JSON");
    let error = stats["activeUsers"]["error"].as_str().expect("an error");
    assert!(error.contains("profileID"), "{error}");
    assert_eq!(stats["sync"], held);
    assert!(stats["os"]["total mem"].as_f64() > Some(0.0));

    let (kind, text) = ask("?group=replication,none").await;
    assert_eq!(kind, "text/plain; charset=utf-8");
    assert!(text.starts_with("\n=== replication ===\n\nlsn: \"") && !text.contains("=== os"), "{text}");
}
