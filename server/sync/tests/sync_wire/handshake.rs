//! How connections are made, and refused before they are one (protocol sheet §2).

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use futures::{SinkExt, StreamExt};
use protocol_client::{Connection, Hello};
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::http::HeaderValue;
use tokio_tungstenite::tungstenite::{Message, protocol::CloseFrame};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};
use zql_spec::protocol::connect::percent_encode;
use zql_spec::protocol::sec_protocol::SecProtocol;
use zql_spec::protocol::upstream::Upstream;

use crate::harness::{CLIENT_SCHEMA, SCHEMA, Server, hash, patiently, pokes_until_got};

pub(crate) type Socket = WebSocketStream<MaybeTlsStream<tokio::net::TcpStream>>;

const PARAMS: &str = "clientID=c&clientGroupID=g&baseCookie=&ts=1&lmid=0&wsid=w";

/// A raw connection; the server must echo the offered protocol.
pub(crate) async fn raw(server: &Server, path: &str, protocol: Option<&str>) -> Socket {
    raw_with(server, path, protocol.as_slice()).await
}

/// The same with a header for each of these; the first one of all lists must be echoed.
async fn raw_with(server: &Server, path: &str, protocols: &[&str]) -> Socket {
    let url = format!("{}{path}", server.url.replacen("http", "ws", 1));
    let mut request = url.into_client_request().expect("a URL");
    for protocol in protocols {
        let value = HeaderValue::from_str(protocol).expect("a header");
        request.headers_mut().append("sec-websocket-protocol", value);
    }
    let (socket, response) = patiently(Box::pin(connect_async(request))).await.expect("an upgrade");
    let echoed = response.headers().get("sec-websocket-protocol").map(|value| value.to_str().expect("text"));
    assert_eq!(echoed, protocols.first().and_then(|list| list.split(", ").next()));
    socket
}

/// The texts that arrive until the socket is closed, and the close frame.
async fn rest(socket: &mut Socket) -> (Vec<String>, Option<CloseFrame>) {
    let mut texts = Vec::new();
    // As a whole: a socket that is left open hears of the server again and again.
    patiently(async {
        loop {
            match socket.next().await {
                Some(Ok(Message::Text(text))) => texts.push(text.to_string()),
                Some(Ok(Message::Close(frame))) => break (texts, frame),
                Some(Ok(_)) => {}
                other => panic!("a close frame was expected, not {other:?}"),
            }
        }
    })
    .await
}

/// What a close frame has room for.
fn elided(reason: &str) -> String {
    if reason.len() > 123 { format!("{}...", &reason[..120]) } else { reason.to_owned() }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_understood_is_closed_with_1002() {
    let server = Server::start(SCHEMA).await;
    let good = format!("/sync/v51/connect?{PARAMS}");
    let other = format!("/other/v51/connect?{PARAMS}&{}", "x".repeat(200));
    let ids = "clientID=c&clientGroupID=g";
    let parameter = |name: &str, value: &str, query: &str| {
        format!(
            "Error: invalid querystring parameter {name}, got: {value}, url: http://unused/sync/v51/connect?{ids}&{query}"
        )
    };
    for (path, protocol, expected) in [
        ("/", Some("e30%3D"), "Error: Invalid URL: /"),
        ("/a/b/sync/v51/connect?x=1", Some("e30%3D"), "Error: Invalid URL: /a/b/sync/v51/connect?x=1"),
        ("/sync/v51/connect/", Some("e30%3D"), "Error: Invalid URL: /sync/v51/connect/"),
        ("/sync/51/connect", Some("e30%3D"), "Error: Invalid URL: /sync/51/connect"),
        (&other, Some("e30%3D"), &format!("Error: Invalid URL: {other}")),
        ("/sync/vx/connect", Some("e30%3D"), "Error: Invalid version: /sync/vx/connect"),
        ("/sync/v51/connect", Some("e30%3D"), "Error: invalid querystring - missing clientID"),
        ("/sync/v51/connect?clientID=c", Some("e30%3D"), "Error: invalid querystring - missing clientGroupID"),
        (&format!("/sync/v51/connect?{ids}"), Some("e30%3D"), "Error: invalid querystring - missing ts"),
        (&format!("/sync/v51/connect?{ids}&ts=&lmid=0"), Some("e30%3D"), "Error: invalid querystring - missing ts"),
        (&format!("/sync/v51/connect?{ids}&ts=1"), Some("e30%3D"), "Error: invalid querystring - missing lmid"),
        (&format!("/sync/v51/connect?{ids}&ts=1&lmid=abc"), Some("e30%3D"), &parameter("lmid", "abc", "ts=1&lmid=abc")),
        (
            &format!("/sync/v51/connect?{ids}&ts=soon&lmid=1"),
            Some("e30%3D"),
            &parameter("ts", "soon", "ts=soon&lmid=1"),
        ),
        (
            "/mutate/v51/connect?x",
            Some("e30%3D"),
            "Error: Received a push for a custom mutation but no `push.url` was configured.",
        ),
        (
            "/replication/v6/changes",
            Some("e30%3D"),
            "Error: Dispatch to the change-streamer via the main port is only allowed in multi-node mode",
        ),
        (&good, None, "Error: Unexpected undefined value"),
        (&good, Some("e30_"), "Error: Invalid character"),
        (&good, Some("e30%3"), "Error: URI malformed"),
        (&good, Some("e30%3D, e30%3D"), "Error: Invalid character"),
        // What follows is a JSON library's own.
        (&good, Some("aGVsbG8%3D"), "Error: Unexpected token*"),
        (&good, Some("bnVsbA%3D%3D"), "Error: Cannot destructure property 'initConnectionMessage' of *"),
    ] {
        let mut socket = raw(&server, path, protocol).await;
        let (texts, frame) = rest(&mut socket).await;
        let frame = frame.expect("a code");
        assert_eq!((texts.len(), u16::from(frame.code)), (0, 1002), "{path}");
        match expected.strip_suffix('*') {
            Some(begins) => assert!(frame.reason.starts_with(begins), "{path}: {}", frame.reason),
            None => assert_eq!(frame.reason.as_str(), elided(expected), "{path}"),
        }
    }
    assert_eq!(server.hub.sizes(), (0, 0));
}

/// What the protocol does not need is not missed, and what it does not know is not minded.
#[tokio::test(flavor = "multi_thread")]
async fn a_connection_is_greeted() {
    let server = Server::start(SCHEMA).await;
    let ids = "clientID=c&clientGroupID=g";
    for (path, wsid) in [
        (format!("/sync/v51/connect?{ids}&ts=1&lmid=0"), ""),
        (format!("/sync/v30/whatever?{ids}&ts=188.07&lmid=12abc&wsid=&userID=&profileID=&baseCookie="), ""),
        (format!("/any-name/sync/v0x33/connect?wsid=a%20%22b%22+c&{ids}&ts=-1&lmid=1e3&wsid=d"), r#"a "b" c"#),
        (format!("/sync/v52/connect?schemaVersion=3&debugPerf=true&{ids}&ts=1&lmid=0&wsid=w&fromServer=x"), "w"),
    ] {
        let before = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_millis() as f64;
        let mut socket = raw(&server, &path, Some("e30%3D")).await;
        let Some(Ok(Message::Text(connected))) = patiently(socket.next()).await else { panic!("a message") };
        let connected: Value = serde_json::from_str(&connected).expect("JSON");
        let timestamp = connected[1]["timestamp"].as_f64().expect("a number");
        assert!(timestamp >= before && timestamp.fract() == 0.0, "{timestamp} {before}");
        assert_eq!(connected, json!(["connected", { "wsid": wsid, "timestamp": timestamp }]), "{path}");
    }
}

/// What is hidden in the header is handled like a first message, whatever it is.
#[tokio::test(flavor = "multi_thread")]
async fn the_message_in_the_header() {
    let server = Server::start(SCHEMA).await;
    let invalid =
        |message: &str| json!(["error", { "kind": "InvalidMessage", "message": message, "origin": "zeroCache" }]);
    for (hidden, told) in [
        (json!({ "initConnectionMessage": null, "more": 1 }), None),
        (json!({ "initConnectionMessage": ["closeConnection", []], "authToken": "" }), None),
        (json!({ "initConnectionMessage": ["ping", {}] }), Some(json!(["pong", {}]))),
        (
            json!({ "initConnectionMessage": ["foo", {}] }),
            Some(invalid(r#"TypeError: Invalid union value: ["foo",{}]"#)),
        ),
        (json!({ "initConnectionMessage": {} }), Some(invalid("TypeError: Invalid union value: {}"))),
    ] {
        let mut header = String::new();
        percent_encode(&BASE64_STANDARD.encode(hidden.to_string()), &mut header);
        let mut socket = raw(&server, &format!("/sync/v51/connect?{PARAMS}"), Some(&header)).await;
        // Who asks for nothing else is answered all the same, unless there was something wrong.
        let _ = socket.send(Message::text(r#"["pull",{"clientGroupID":"g","cookie":null,"requestID":"r"}]"#)).await;
        let _ = socket.send(Message::text(r#"["foo",1]"#)).await;
        let (texts, frame) = rest(&mut socket).await;
        let mut texts: Vec<Value> = texts.iter().map(|text| serde_json::from_str(text).expect("JSON")).collect();
        assert_eq!(texts.remove(0)[0], "connected", "{hidden}");
        let mut expected: Vec<Value> = told.into_iter().collect();
        if !expected.iter().any(|told| told[0] == "error") {
            expected.push(invalid(r#"TypeError: Invalid union value: ["foo",1]"#));
        }
        assert_eq!((texts, frame), (expected, None), "{hidden}");
    }
}

/// A first message goes into the header as long as that has at most 8192 characters; servers take twice as many.
#[tokio::test(flavor = "multi_thread")]
async fn first_messages_as_long_as_the_header_takes() {
    let server = Server::start(SCHEMA).await;
    for characters in [8192, 16_000] {
        let header = |padding: usize| {
            let wanted = Hello::named("ast", &format!(r#"[{{"table":"issue"}},"{}"]"#, "x".repeat(padding)));
            let hash = hash(&wanted);
            let message = Upstream::InitConnection(Box::new(Hello::new(CLIENT_SCHEMA, vec![wanted]).init)).to_json();
            let message = serde_json::value::RawValue::from_string(message).expect("JSON");
            (SecProtocol { init_connection_message: Some(message), auth_token: None }.encode(), hash)
        };
        let (header, hash) = (characters / 2..)
            .map(header)
            .take_while(|(header, _)| header.len() <= characters)
            .last()
            .expect("a header");
        assert!(header.len() > characters - 16, "{}", header.len());
        let url = format!(
            "{}/sync/v51/connect?clientID=c{characters}&clientGroupID=g{characters}&baseCookie=&ts=1&lmid=0&wsid=w",
            server.url.replacen("http", "ws", 1)
        );
        let mut connection = patiently(Connection::open_with_header(&url, &header)).await.expect("a connection");
        let got = pokes_until_got(&mut connection, &hash).await.pop().expect("a poke");
        assert_eq!(got.rows().count(), 2, "{characters}");
    }
}

/// Two headers are the same as a list in one.
#[tokio::test(flavor = "multi_thread")]
async fn protocols_in_several_headers_are_a_list() {
    let server = Server::start(SCHEMA).await;
    let path = format!("/sync/v51/connect?{PARAMS}");
    let mut socket = raw_with(&server, &path, &["e30%3D", "e30%3D"]).await;
    let (texts, frame) = rest(&mut socket).await;
    let frame = frame.expect("a code");
    assert_eq!((texts.len(), u16::from(frame.code), frame.reason.as_str()), (0, 1002, "Error: Invalid character"));
}

/// A token, and with it the header, may be long.
#[tokio::test(flavor = "multi_thread")]
async fn long_headers_are_read() {
    let server = Server::start(SCHEMA).await;
    // Base64 of `{ "authToken":"`, many times `AAA`, and the end.
    let header = format!("eyAiYXV0aFRva2VuIjoi{}In0g", "QUFB".repeat(3_700));
    let mut socket = raw(&server, &format!("/sync/v51/connect?{PARAMS}"), Some(&header)).await;
    let (texts, frame) = rest(&mut socket).await;
    // It was understood: what is missing is the user.
    assert!(texts[0].contains("Authenticated connections require a userID."), "{texts:?}");
    assert_eq!(u16::from(frame.expect("a code").code), 3000);
}

#[tokio::test(flavor = "multi_thread")]
async fn versions_and_users() {
    let server = Server::start(SCHEMA).await;
    for (version, expected) in [
        (
            "29",
            r#"["error",{"kind":"VersionNotSupported","message":"server is at sync protocol v52 and does not support v29. The client must be updated to a newer release.","origin":"zeroCache"}]"#,
        ),
        (
            "53",
            r#"["error",{"kind":"VersionNotSupported","message":"server is at sync protocol v52 and does not support v53. The server must be updated to a newer release.","origin":"zeroCache"}]"#,
        ),
    ] {
        let mut socket = raw(&server, &format!("/zero/sync/v{version}/connect?{PARAMS}"), Some("e30%3D")).await;
        let (texts, frame) = rest(&mut socket).await;
        assert_eq!((texts, frame), (vec![expected.to_owned()], None));
    }
    // Who cannot show who it is is told that first.
    let mut socket = raw(&server, &format!("/sync/v29/connect?{PARAMS}"), Some("eyJhdXRoVG9rZW4iOiJ0In0%3D")).await;
    assert_eq!(rest(&mut socket).await.1.map(|frame| u16::from(frame.code)), Some(3000));
    // A token without a user.
    let mut socket = raw(&server, &format!("/sync/v51/connect?{PARAMS}"), Some("eyJhdXRoVG9rZW4iOiJ0In0%3D")).await;
    let (texts, frame) = rest(&mut socket).await;
    let frame = frame.expect("a code");
    let message = "Authenticated connections require a userID.";
    assert_eq!((u16::from(frame.code), frame.reason.as_str()), (3000, message));
    let told = format!(r#"["error",{{"kind":"Unauthorized","message":"{message}","origin":"zeroCache"}}]"#);
    assert_eq!(texts, [told]);
}

#[tokio::test(flavor = "multi_thread")]
async fn pings_are_answered_and_older_sockets_replaced() {
    let server = Server::start(SCHEMA).await;
    let path = format!("/sync/v30/foo?{PARAMS}");
    let mut socket = raw(&server, &path, Some("e30%3D")).await;
    let Some(Ok(Message::Text(connected))) = patiently(socket.next()).await else { panic!("a message") };
    assert!(connected.starts_with(r#"["connected",{"wsid":"w","timestamp":"#), "{connected}");
    // Without initConnection there is no group: other messages are ignored, pings are not. Binary frames are text.
    let push = r#"["push",{"clientGroupID":"g","mutations":[{"type":"crud","id":1,"clientID":"c","name":"_zero_crud","args":[{"ops":[]}],"timestamp":1}],"pushVersion":1,"timestamp":1,"requestID":"r"}]"#;
    for ignored in [
        r#"["changeDesiredQueries",{"desiredQueriesPatch":[]}]"#,
        r#"["deleteClients",{"clientIDs":["other"]}]"#,
        r#"["updateAuth",{"auth":"token"}]"#,
        r#"["ackMutationResponses",{"id":1,"clientID":"c"}]"#,
        r#"["inspect",{"op":"version","id":"i"}]"#,
        r#"["pull",{"clientGroupID":"g","cookie":null,"requestID":"r"}]"#,
        r#"["closeConnection",[]]"#,
        push,
    ] {
        socket.send(Message::text(ignored)).await.expect("sent");
    }
    // What WebSockets have for signs of life is no message; nobody asked for this one.
    socket.send(Message::Pong(b"unasked".to_vec().into())).await.expect("sent");
    socket.send(Message::Ping(b"asked".to_vec().into())).await.expect("sent");
    match patiently(socket.next()).await {
        Some(Ok(Message::Pong(payload))) => assert_eq!(&payload[..], b"asked"),
        other => panic!("a pong was expected, not {other:?}"),
    }
    socket.send(Message::binary(br#"["ping",{}]"#.to_vec())).await.expect("sent");
    let Some(Ok(Message::Text(pong))) = patiently(socket.next()).await else { panic!("a message") };
    assert_eq!(pong.as_str(), r#"["pong",{}]"#);
    let mut newer = raw(&server, &path, Some("e30%3D")).await;
    assert_eq!(rest(&mut socket).await, (vec![], None));
    newer.send(Message::text(r#"["ping",{}]"#)).await.expect("sent");
    let Some(Ok(Message::Text(_))) = patiently(newer.next()).await else { panic!("a message") };

    // One that is not let in leaves the older one alone; one whose version is none of ours has taken its place.
    let mut stranger = raw(&server, &path, Some("eyJhdXRoVG9rZW4iOiJ0In0%3D")).await;
    assert_eq!(rest(&mut stranger).await.1.map(|frame| u16::from(frame.code)), Some(3000));
    newer.send(Message::text(r#"["ping",{}]"#)).await.expect("sent");
    let Some(Ok(Message::Text(pong))) = patiently(newer.next()).await else { panic!("a message") };
    assert!(pong.contains("pong") || pong.contains("connected"), "{pong}");
    let mut old = raw(&server, &format!("/sync/v29/foo?{PARAMS}"), Some("e30%3D")).await;
    assert!(rest(&mut old).await.0[0].contains("VersionNotSupported"));
    let (texts, frame) = rest(&mut newer).await;
    assert!(texts.iter().all(|text| text.contains("pong")) && frame.is_none(), "{texts:?}");
}

/// A client whose ping waits behind its own slow messages hears all the same that the server is there, before it gives up.
#[tokio::test(flavor = "multi_thread")]
async fn a_quiet_socket_hears_of_the_server_unasked() {
    let server = Server::start(SCHEMA).await;
    let mut socket = raw(&server, &format!("/sync/v51/connect?{PARAMS}"), Some("e30%3D")).await;
    let Some(Ok(Message::Text(connected))) = patiently(socket.next()).await else { panic!("a message") };
    assert!(connected.starts_with(r#"["connected","#), "{connected}");
    let quiet = Instant::now();
    for _ in 0..2 {
        let Some(Ok(Message::Text(pong))) = patiently(socket.next()).await else { panic!("a message") };
        assert_eq!(pong.as_str(), r#"["pong",{}]"#);
    }
    // Not more often than it takes to keep a client from giving up.
    assert!(quiet.elapsed() > Duration::from_secs(10), "{:?}", quiet.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_that_are_too_big_or_no_messages() {
    let server = Server::start_with(SCHEMA, &[("ZERO_WEBSOCKET_MAX_PAYLOAD_BYTES", "1000")]).await;
    let path = format!("/sync/v51/connect?{PARAMS}");
    let mut socket = raw(&server, &path, Some("e30%3D")).await;
    socket.send(Message::text("x".repeat(2000))).await.expect("sent");
    let (_, frame) = rest(&mut socket).await;
    assert_eq!(u16::from(frame.expect("a code").code), 1009);

    // Bytes that are no text are read as far as they can be.
    let mut socket = raw(&server, &path, Some("e30%3D")).await;
    socket.send(Message::binary(b"[\"foo\",\"\xFF\"]".to_vec())).await.expect("sent");
    let (texts, frame) = rest(&mut socket).await;
    let message = "TypeError: Invalid union value: [\"foo\",\"\u{FFFD}\"]";
    let told = json!(["error", { "kind": "InvalidMessage", "message": message, "origin": "zeroCache" }]);
    assert_eq!(serde_json::from_str::<Value>(&texts[1]).expect("JSON"), told);
    assert_eq!(frame, None);

    const PUSH: &str = r#"["push",{"clientGroupID":"g","mutations":[{"type":"custom","id":1,"clientID":"c","name":"n","args":[],"timestamp":1}],"pushVersion":1,"timestamp":1,"requestID":"r"}]"#;
    let pushing = Server::start_with(SCHEMA, &[("ZERO_MUTATE_URL", "http://127.0.0.1:1/mutate")]).await;
    for (server, text, kind, message) in [
        (&server, "nope", "InvalidMessage", "SyntaxError: "),
        (&server, r#"["foo",{}]"#, "InvalidMessage", r#"TypeError: Invalid union value: ["foo",{}]"#),
        (
            &server,
            r#"["push",{"clientGroupID":"h","mutations":[],"pushVersion":1,"timestamp":1,"requestID":"r"}]"#,
            "InvalidPush",
            r#"clientGroupID in mutation "h" does not match clientGroupID of connection "g"#,
        ),
        (&server, PUSH, "InvalidPush", "A ZERO_MUTATE_URL must be set in order to process custom mutations."),
        // Before the first message it is not known where to send it.
        (&pushing, PUSH, "InvalidConnectionRequest", "Connection auth state was not available for this websocket."),
    ] {
        let mut socket = raw(server, &path, Some("e30%3D")).await;
        socket.send(Message::text(text)).await.expect("sent");
        let (texts, frame) = rest(&mut socket).await;
        let body: Value = serde_json::from_str(texts.last().expect("an error")).expect("JSON");
        assert_eq!(
            (&body[0], &body[1]["kind"], &body[1]["origin"]),
            (&json!("error"), &json!(kind), &json!("zeroCache"))
        );
        let told = body[1]["message"].as_str().expect("a message");
        assert!(if message.ends_with(": ") { told.starts_with(message) } else { told == message }, "{text}: {told}");
        assert_eq!(frame, None);
    }
}
