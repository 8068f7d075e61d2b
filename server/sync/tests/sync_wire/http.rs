//! Plain HTTP on the public port (protocol sheet §1), and upgrades that are none.

use reqwest::Method;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::harness::{SCHEMA, Server, join, patiently};

/// The body for what there is not.
fn not_found(what: &str) -> String {
    json!({ "message": format!("Route {what} not found"), "error": "Not Found", "statusCode": 404 }).to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn paths() {
    let server = Server::start(SCHEMA).await;
    let http = reqwest::Client::new();
    for (method, path, status, body) in [
        (Method::GET, "/", 200, "OK".to_owned()),
        (Method::GET, "/?x=1", 200, "OK".to_owned()),
        (Method::HEAD, "/", 200, String::new()),
        (Method::GET, "/keepalive", 200, "OK".to_owned()),
        (Method::HEAD, "/keepalive", 200, String::new()),
        (Method::GET, "/nope", 404, not_found("GET:/nope")),
        (Method::GET, "/nope?a=b&c", 404, not_found("GET:/nope?a=b&c")),
        (Method::POST, "/", 404, not_found("POST:/")),
        (Method::PUT, "/keepalive", 404, not_found("PUT:/keepalive")),
        (Method::POST, "/statz", 404, not_found("POST:/statz")),
        // There are no heaps to take a snapshot of, and who cannot upgrade does not sync.
        (Method::GET, "/heapz", 404, not_found("GET:/heapz")),
        (Method::GET, "/sync/v51/connect?clientID=c", 404, not_found("GET:/sync/v51/connect?clientID=c")),
    ] {
        let answer = http.request(method.clone(), format!("{}{path}", server.url)).send().await.expect("an answer");
        assert_eq!(answer.status().as_u16(), status, "{method} {path}");
        let kind = answer.headers()["content-type"].to_str().expect("text").to_owned();
        assert_eq!(
            kind,
            if status == 200 { "text/plain; charset=utf-8" } else { "application/json" },
            "{method} {path}"
        );
        assert_eq!(answer.text().await.expect("text"), body, "{method} {path}");
    }
}

/// The answer to a request as it is written: status, headers in lower case, body.
async fn answer(server: &Server, request: &str) -> (u16, String, String) {
    let address = server.url.strip_prefix("http://").expect("an address");
    let mut socket = TcpStream::connect(address).await.expect("a connection");
    socket.write_all(request.as_bytes()).await.expect("sent");
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(patiently(socket.read_u8()).await.expect("an answer"));
    }
    let head = String::from_utf8(head).expect("text").to_lowercase();
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
    let mut body = vec![0; length.unwrap_or_default()];
    patiently(socket.read_exact(&mut body)).await.expect("a body");
    (status, head, String::from_utf8(body).expect("text"))
}

/// An upgrade that cannot be completed is answered in HTTP, with what is wrong, and nobody else notices.
#[tokio::test(flavor = "multi_thread")]
async fn handshakes_that_are_none() {
    const GOOD: [(&str, &str); 5] = [
        ("Connection", "Upgrade"),
        ("Upgrade", "websocket"),
        ("Sec-WebSocket-Version", "13"),
        ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ("Sec-WebSocket-Protocol", "e30%3D"),
    ];
    const PATH: &str = "/sync/v51/connect?clientID=c&clientGroupID=g&baseCookie=&ts=1&lmid=0&wsid=w";
    const KEY: (u16, &str) = (400, "Missing or invalid Sec-WebSocket-Key header");
    const VERSION: (u16, &str) = (400, "Missing or invalid Sec-WebSocket-Version header");
    let server = Server::start(SCHEMA).await;
    let not_found = not_found(&format!("GET:{PATH}"));
    for (method, name, value, (status, text)) in [
        ("GET", "Sec-WebSocket-Key", None, KEY),
        ("GET", "Sec-WebSocket-Key", Some(""), KEY),
        ("GET", "Sec-WebSocket-Key", Some("short"), KEY),
        ("GET", "Sec-WebSocket-Key", Some("dGhlIHNhbXBsZSBub25jZQ"), KEY),
        ("GET", "Sec-WebSocket-Key", Some("dGhlIHNhbXBsZSBub25jZTE="), KEY),
        ("GET", "Sec-WebSocket-Key", Some("dGhlIHNhbXBsZSBub25j?Q=="), KEY),
        ("GET", "Sec-WebSocket-Version", None, VERSION),
        ("GET", "Sec-WebSocket-Version", Some("12"), VERSION),
        ("GET", "Sec-WebSocket-Version", Some("x"), VERSION),
        ("GET", "Connection", Some("keep-alive"), (400, "Invalid Upgrade header")),
        ("POST", "X-Other", None, (405, "Invalid HTTP method")),
        ("PUT", "Sec-WebSocket-Key", None, (405, "Invalid HTTP method")),
        ("GET", "Upgrade", None, (404, &*not_found)),
    ] {
        let mut request = format!("{method} {PATH} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n");
        for (own, good) in GOOD {
            if let Some(value) = if own == name { value } else { Some(good) } {
                request.push_str(&format!("{own}: {value}\r\n"));
            }
        }
        request.push_str("\r\n");
        let (found, head, body) = answer(&server, &request).await;
        assert_eq!((found, &*body), (status, text), "{request}");
        // Who speaks another version of the protocol is told which one is spoken here.
        assert_eq!(head.contains("\r\nsec-websocket-version: 13\r\n"), status != 404, "{head}");
        assert!(!head.contains("sec-websocket-accept"), "{head}");
    }
    assert_eq!(server.hub.sizes(), (0, 0));
    join(&server.identity(), |_| {}).await;
}

/// What client groups hold is told to whoever has the password, and goes with them.
#[tokio::test(flavor = "multi_thread")]
async fn what_client_groups_hold() {
    let server = Server::start_with(SCHEMA, &[("ZERO_ADMIN_PASSWORD", "p")]).await;
    let http = reqwest::Client::new();
    let held = async |expected: [usize; 4]| {
        let [groups, clients, queries, rows] = expected;
        let expected = json!({ "sync": {
            "active-client-groups": groups, "active-clients": clients, "queries": queries, "rows": rows } });
        // A group notes what it holds after it told its clients.
        patiently(async {
            loop {
                let url = format!("{}/statz?group=sync&format=json", server.url);
                let answer = http.get(url).basic_auth("", Some("p")).send().await.expect("an answer");
                let told: Value = serde_json::from_str(&answer.text().await.expect("text")).expect("JSON");
                if told == expected {
                    return;
                }
            }
        })
        .await;
    };
    held([0, 0, 0, 0]).await;
    let identity = server.identity();
    let one = join(&identity, |_| {}).await;
    // Its query and the two that every group has; two issues and a comment.
    held([1, 1, 3, 3]).await;
    let two = join(&identity.sibling(), |_| {}).await;
    let three = join(&server.identity(), |_| {}).await;
    held([2, 3, 6, 6]).await;
    server.sql("DELETE FROM comment");
    held([2, 3, 6, 4]).await;
    drop((one, three));
    held([2, 1, 6, 4]).await;
    server.hub.clock().advance(std::time::Duration::from_secs(6));
    held([1, 1, 3, 2]).await;
    drop(two);
}
