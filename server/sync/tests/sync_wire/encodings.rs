//! Other forms of the same messages: binary pieces of pokes (protocol 52) and compressed sockets.

use std::io::Cursor;

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress};
use futures::{SinkExt, StreamExt};
use protocol_client::{Hello, Identity, Keys, State, hash_of};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::frame::FrameHeader;

use crate::handshake::{Socket, raw};
use crate::harness::{CLIENT_SCHEMA, ISSUES, SCHEMA, Server, open, patiently, poke, pokes_until_got, query};

#[tokio::test(flavor = "multi_thread")]
async fn pokes_in_pieces_say_the_same() {
    let server = Server::start(SCHEMA).await;
    server.sql("INSERT INTO issue SELECT 'more' || n, 'é', true FROM generate_series(1, 250) n");
    let wanted = query(ISSUES);
    let hash = hash_of(&wanted).expect("a hash").to_owned();
    let newer = Identity { version: 52, ..server.identity() };
    let older = Identity { version: 51, ..newer.sibling() };
    let mut states = Vec::new();
    let mut connections = Vec::new();
    for identity in [&newer, &older] {
        let mut connection = open(identity, None, Hello::new(CLIENT_SCHEMA, vec![query(ISSUES)])).await;
        let mut state = State::new(Keys::from_schema(CLIENT_SCHEMA));
        for poke in pokes_until_got(&mut connection, &hash).await {
            state.apply(&poke).expect("a good poke");
        }
        states.push(state);
        connections.push(connection);
    }
    server.sql("UPDATE issue SET title = 'last' WHERE id = 'i1'");
    for (connection, state) in connections.iter_mut().zip(&mut states) {
        while !state.table("issue").any(|row| row["title"] == "last") {
            state.apply(&poke(connection).await).expect("a good poke");
        }
    }
    assert_eq!(states[0].rows, states[1].rows);
    assert_eq!(states[0].len(), 253);
    drop(connections);

    // A poke without patches is an empty array; in text there is none of it.
    for (identity, state) in [(&newer, &states[0]), (&older, &states[1])] {
        let mut connection = open(identity, state.cookie.as_deref(), Hello::again()).await;
        let empty = poke(&mut connection).await;
        assert!(empty.parts.is_empty());
        drop(connection);
        let mut connection = open(identity, state.cookie.as_deref(), Hello::again()).await;
        let mut texts = Vec::new();
        let binary = loop {
            match patiently(connection.next_text()).await {
                Ok(text) if text.starts_with(r#"["pokeEnd""#) => break false,
                Ok(text) => texts.push(text),
                Err(_) => break true,
            }
        };
        assert_eq!(binary, identity.version == 52, "{texts:?}");
    }
}

/// A hundred patches are a part, whatever they are of; what is left is the last one.
#[tokio::test(flavor = "multi_thread")]
async fn parts_of_a_poke() {
    let more = "INSERT INTO issue SELECT 'more' || n, 'x', true FROM generate_series(1, 250) n";
    let server = Server::start(&format!("{SCHEMA} {more}")).await;
    let wanted = query(r#"{"table":"issue"}"#);
    let hash = hash_of(&wanted).expect("a hash").to_owned();
    let identity = server.identity();
    // The query and its rows; for a second client, who has nothing, who wants it as well.
    for (base, queries, last) in [(Some("00:01"), vec![wanted], 53), (None, vec![], 54)] {
        let mut connection = open(&identity.sibling(), None, Hello::new(CLIENT_SCHEMA, queries)).await;
        let all = pokes_until_got(&mut connection, &hash).await.pop().expect("a poke");
        assert_eq!(all.base.as_deref(), base);
        let patches: Vec<usize> = all
            .parts
            .iter()
            .map(|part| {
                let of_query = |ops: &Option<Vec<_>>| ops.as_ref().map_or(0, Vec::len);
                let desired = part.desired_queries_patches.iter().flatten().map(|(_, ops)| ops.len()).sum::<usize>();
                part.rows_patch.as_ref().map_or(0, Vec::len) + of_query(&part.got_queries_patch) + desired
            })
            .collect();
        assert_eq!(patches, [100, 100, last]);
    }
}

/// The next message that is no sign of life.
async fn next_message(socket: &mut Socket) -> Message {
    loop {
        match patiently(socket.next()).await {
            Some(Ok(Message::Text(text))) if text.as_str() == r#"["pong",{}]"# => {}
            Some(Ok(message @ (Message::Text(_) | Message::Binary(_)))) => return message,
            Some(Ok(_)) => {}
            other => panic!("a message was expected, not {other:?}"),
        }
    }
}

/// A poke as a client of protocol 52 gets it: its first and last message, and the pieces in between.
async fn pieces(socket: &mut Socket) -> (Value, Vec<Vec<u8>>, Value) {
    let parsed = |message: &Message| -> Value { serde_json::from_str(message.to_text().expect("text")).expect("JSON") };
    let first = parsed(&next_message(socket).await);
    let mut pieces = Vec::new();
    loop {
        match next_message(socket).await {
            Message::Binary(piece) => pieces.push(piece.to_vec()),
            last => return (first, pieces, parsed(&last)),
        }
    }
}

/// The bodies of the parts that pieces make, each with the number of its poke.
fn bodies(pieces: &[Vec<u8>]) -> Vec<Value> {
    assert!(pieces.iter().all(|piece| piece[0] == 0), "each begins with its kind");
    serde_json::from_slice(&pieces.iter().flat_map(|piece| &piece[1..]).copied().collect::<Vec<u8>>())
        .expect("an array")
}

/// What begins and ends a poke is text; between them are binary pieces of a megabyte that make one array, cut wherever a
/// piece is full, be it inside of a character.
#[tokio::test(flavor = "multi_thread")]
async fn pieces_are_cut_where_they_are_full() {
    const MIB: usize = 1 << 20;
    let long = "DELETE FROM issue WHERE id = 'i2'; UPDATE issue SET title = repeat('☃x', 1050000)";
    let server = Server::start(&format!("{SCHEMA} {long}")).await;
    let init = serde_json::json!(["initConnection", {
        "desiredQueriesPatch": [{ "op": "put", "hash": "h", "name": "ast", "args": [{ "table": "issue" }] }],
        "clientSchema": serde_json::from_str::<Value>(CLIENT_SCHEMA).expect("JSON"),
    }]);
    let path = "/sync/v52/connect?clientID=c&clientGroupID=g&ts=1&lmid=0&wsid=w&baseCookie=";
    let mut socket = raw(&server, path, Some("e30%3D")).await;
    next_message(&mut socket).await;
    socket.send(Message::text(init.to_string())).await.expect("sent");
    let (first, config, last) = pieces(&mut socket).await;
    assert_eq!(first, serde_json::json!(["pokeStart", { "pokeID": "00:01", "baseCookie": null }]));
    let desired = serde_json::json!({ "c": [{ "op": "put", "hash": "h" }] });
    assert_eq!(bodies(&config), [serde_json::json!({ "pokeID": "00:01", "desiredQueriesPatches": desired })]);
    assert_eq!(last, serde_json::json!(["pokeEnd", { "pokeID": "00:01", "cookie": "00:01" }]));

    let (first, rows, last) = pieces(&mut socket).await;
    let cookie = last[1]["cookie"].as_str().expect("a cookie").to_owned();
    assert_eq!(first, serde_json::json!(["pokeStart", { "pokeID": cookie, "baseCookie": "00:01" }]));
    // A title of four pieces and a little more: of four cuts in a row, two are inside of a character.
    let lengths: Vec<usize> = rows.iter().map(Vec::len).collect();
    assert!(lengths.len() == 5 && lengths[..4] == [MIB; 4] && lengths[4] < MIB, "{lengths:?}");
    assert!(rows.iter().any(|piece| std::str::from_utf8(&piece[1..]).is_err()), "no character was cut");
    let told: Vec<Value> = bodies(&rows);
    assert!(told.iter().all(|body| body["pokeID"] == *cookie), "{cookie}");
    let titles: Vec<&str> = told
        .iter()
        .flat_map(|body| body["rowsPatch"].as_array().into_iter().flatten())
        .map(|row| row["value"]["title"].as_str().expect("a title"))
        .collect();
    assert!(titles == ["☃x".repeat(1_050_000)], "{} titles", titles.len());

    // Whoever has everything gets a poke of nothing.
    drop(socket);
    let mut socket = raw(&server, &format!("{path}{cookie}"), Some("e30%3D")).await;
    next_message(&mut socket).await;
    socket.send(Message::text(r#"["initConnection",{"desiredQueriesPatch":[]}]"#)).await.expect("sent");
    let (first, nothing, last) = pieces(&mut socket).await;
    assert_eq!(first, serde_json::json!(["pokeStart", { "pokeID": cookie, "baseCookie": cookie }]));
    assert_eq!(nothing, [b"\0[]"]);
    assert_eq!(last, serde_json::json!(["pokeEnd", { "pokeID": cookie, "cookie": cookie }]));
}

/// A socket of a client that offers an extension, and the server's answer to its handshake.
async fn handshake(server: &Server, offer: &str) -> (TcpStream, String) {
    let address = server.url.strip_prefix("http://").expect("an address");
    let mut socket = TcpStream::connect(address).await.expect("a connection");
    let request = format!(
        "GET /sync/v51/connect?clientID=c&clientGroupID=g&baseCookie=&ts=1&lmid=0&wsid=w HTTP/1.1\r\nHost: {address}\r\n\
         Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: e30%3D\r\n\
         Sec-WebSocket-Extensions: {offer}\r\n\r\n"
    );
    socket.write_all(request.as_bytes()).await.expect("sent");
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        answer.push(patiently(socket.read_u8()).await.expect("an answer"));
    }
    (socket, String::from_utf8(answer).expect("text").to_lowercase())
}

/// The payload of the next frame, and whether it came compressed.
async fn frame(socket: &mut TcpStream) -> (Vec<u8>, bool) {
    let mut bytes = Vec::new();
    let (header, length) = loop {
        bytes.push(patiently(socket.read_u8()).await.expect("a frame"));
        if let Some(parsed) = FrameHeader::parse(&mut Cursor::new(&bytes)).expect("a frame's header") {
            break parsed;
        }
    };
    let mut payload = vec![0; usize::try_from(length).expect("a length")];
    patiently(socket.read_exact(&mut payload)).await.expect("a payload");
    if header.rsv1 {
        payload.extend([0, 0, 0xFF, 0xFF]);
        let mut unpacked = Vec::with_capacity(1 << 20);
        Decompress::new(false).decompress_vec(&payload, &mut unpacked, FlushDecompress::Sync).expect("deflate");
        payload = unpacked;
    }
    (payload, header.rsv1)
}

/// The next message, and whether it came compressed.
async fn message(socket: &mut TcpStream) -> (String, bool) {
    let (payload, packed) = frame(socket).await;
    (String::from_utf8(payload).expect("text"), packed)
}

/// A text as a client compresses it: without the end that all have.
fn deflated(text: &str) -> Vec<u8> {
    let mut packed = Vec::with_capacity(1 << 10);
    let mut compress = Compress::new(Compression::default(), false);
    compress.compress_vec(text.as_bytes(), &mut packed, FlushCompress::Sync).expect("deflate");
    packed.strip_suffix(&[0, 0, 0xFF, 0xFF]).expect("an end").to_vec()
}

/// A message of the client, masked by zeros.
async fn send(socket: &mut TcpStream, first: u8, payload: &[u8]) {
    let mut frame = vec![first, 0x80 | 126];
    frame.extend(u16::try_from(payload.len()).expect("a short message").to_be_bytes());
    frame.extend([0; 4]);
    frame.extend(payload);
    socket.write_all(&frame).await.expect("sent");
}

#[tokio::test(flavor = "multi_thread")]
async fn frames_that_are_none_close_their_socket() {
    let server = Server::start(SCHEMA).await;
    let masked = |first: u8, payload: &[u8]| [&[first, 0x80 | payload.len() as u8, 0, 0, 0, 0][..], payload].concat();
    let cases = [
        ("a reserved bit", masked(0xA1, b"{}"), 1002_u16),
        ("an unknown opcode", masked(0x83, b"{}"), 1002),
        ("no mask", vec![0x81, 0x02, b'{', b'}'], 1002),
        ("a fragment of nothing", masked(0x80, b"{}"), 1002),
        ("compressed without leave", masked(0xC1, b"{}"), 1002),
        ("a text that is none", masked(0x81, b"\xFF\xFE"), 1007),
    ];
    for (what, bytes, code) in cases {
        let (mut socket, _) = handshake(&server, "permessage-deflate").await;
        assert!(message(&mut socket).await.0.starts_with(r#"["connected","#), "{what}");
        socket.write_all(&bytes).await.expect("sent");
        assert_eq!(frame(&mut socket).await.0, code.to_be_bytes(), "{what}");
    }
    // The client may come back.
    let (mut socket, _) = handshake(&server, "permessage-deflate").await;
    assert!(message(&mut socket).await.0.starts_with(r#"["connected","#));
    send(&mut socket, 0x81, br#"["ping",{}]"#).await;
    assert_eq!(message(&mut socket).await.0, r#"["pong",{}]"#);
}

#[tokio::test(flavor = "multi_thread")]
async fn sockets_are_compressed_when_both_sides_want_it() {
    let more = "INSERT INTO issue SELECT 'more' || n, 'compressible', true FROM generate_series(1, 90) n";
    let server = Server::start_with(&format!("{SCHEMA} {more}"), &[("ZERO_WEBSOCKET_COMPRESSION", "true")]).await;
    let (mut socket, answer) = handshake(&server, "permessage-deflate; client_max_window_bits").await;
    assert!(answer.starts_with("http/1.1 101"), "{answer}");
    assert!(answer.contains("sec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo="), "{answer}");
    assert!(answer.contains("sec-websocket-protocol: e30%3d"), "{answer}");
    let granted =
        "sec-websocket-extensions: permessage-deflate; server_no_context_takeover; client_no_context_takeover";
    assert!(answer.contains(granted), "{answer}");

    let (connected, packed) = message(&mut socket).await;
    assert!(connected.starts_with(r#"["connected","#) && !packed, "short messages are not worth it");
    let wanted = serde_json::json!(["initConnection", {
        "desiredQueriesPatch": [{ "op": "put", "hash": "h", "name": "ast", "args": [{ "table": "issue" }] }],
        "clientSchema": serde_json::from_str::<Value>(CLIENT_SCHEMA).expect("JSON"),
    }]);
    send(&mut socket, 0x81, wanted.to_string().as_bytes()).await;
    let rows = loop {
        let (text, packed) = message(&mut socket).await;
        let parsed: Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!(packed, text.len() >= 1024, "{text:.100}");
        if let Some(rows) = parsed[1]["rowsPatch"].as_array() {
            break rows.len();
        }
    };
    assert_eq!(rows, 92);
    // A ping is answered, compressed or not; a message that is too long is not taken.
    send(&mut socket, 0x81, r#"["ping",{}]"#.as_bytes()).await;
    while message(&mut socket).await.0 != r#"["pong",{}]"# {}
    send(&mut socket, 0xC1, &deflated(r#"["ping",{}]"#)).await;
    while message(&mut socket).await.0 != r#"["pong",{}]"# {}
    socket.write_all(&[0x81, 0x80 | 127, 0, 0, 0, 0, 0x7F, 0, 0, 0, 0, 0, 0, 0]).await.expect("sent");
    let (close, _) = frame(&mut socket).await;
    assert_eq!(close[..2], 1009_u16.to_be_bytes());

    // What is not offered, or not asked for here, is not granted.
    let (_, answer) = handshake(&server, "permessage-deflate; server_max_window_bits=9").await;
    assert!(answer.starts_with("http/1.1 101") && !answer.contains("extensions"), "{answer}");
    let plain = Server::start(SCHEMA).await;
    let (_, answer) = handshake(&plain, "permessage-deflate").await;
    assert!(answer.starts_with("http/1.1 101") && !answer.contains("extensions"), "{answer}");
}
