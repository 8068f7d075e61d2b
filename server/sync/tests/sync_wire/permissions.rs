//! Read permissions that change while queries run.

use protocol_client::{Connection, Hello, State, hash_of};

use crate::harness::{CLIENT_SCHEMA, SCHEMA, Server, open, poke};

const ANYBODY: &str = r#"[["allow",{"type":"and","conditions":[]}]]"#;
const NOBODY: &str = "[]";
const OPEN: &str = r#"[["allow",{"type":"simple","op":"=","left":{"type":"column","name":"open"},"right":{"type":"literal","value":true}}]]"#;
/// Issues with a comment.
const DISCUSSED: &str = r#"[["allow",{"type":"correlatedSubquery","op":"EXISTS","related":{"system":"permissions","correlation":{"parentField":["id"],"childField":["issue_id"]},"subquery":{"table":"comment","alias":"c"}}}]]"#;

async fn until_rows(connection: &mut Connection, state: &mut State, count: usize) {
    while state.table("issue").count() != count {
        state.apply(&poke(connection).await).expect("a poke that fits");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn they_are_in_force_as_they_are_deployed() {
    let server = Server::start(SCHEMA).await;
    let deploy = |select: &str| {
        server.sql(&format!(
            r#"UPDATE zero.permissions SET permissions = '{{"tables":{{"issue":{{"row":{{"select":{select}}}}}}}}}'"#
        ));
    };
    let own = Hello::ast(r#"{"table":"issue","orderBy":[["id","asc"]]}"#);
    assert!(hash_of(&own).is_some());
    let mut connection = open(&server.identity(), None, Hello::new(CLIENT_SCHEMA, vec![own])).await;
    let mut state = State::default();
    state.apply(&poke(&mut connection).await).expect("a poke that fits");
    for (select, count) in
        [(ANYBODY, 2), (NOBODY, 0), (OPEN, 1), (ANYBODY, 2), (DISCUSSED, 1), (NOBODY, 0), (DISCUSSED, 1)]
    {
        deploy(select);
        until_rows(&mut connection, &mut state, count).await;
        // The rows by which a permission is decided are nobody's business.
        assert_eq!(state.table("comment").count(), 0, "{select}");
    }
    // What the permissions in force show follows the data.
    server.sql("INSERT INTO comment VALUES ('c2', 'i2', 'now discussed')");
    until_rows(&mut connection, &mut state, 2).await;
    assert_eq!(state.table("comment").count(), 0);
}
