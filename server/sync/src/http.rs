//! HTTP on the public port: health checks, `/statz`, the 404 body, and the upgrade to a WebSocket.
//!
//! An upgrade is completed whatever its path, because a browser cannot see why an HTTP request was
//! refused; what is wrong is told in the close frame (protocol sheet §2). There is no CORS, Origin or
//! Host check: tokens are sent explicitly, never by the browser on its own.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::net::{TcpListener, TcpSocket};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use warp::filters::ws::Ws;
use warp::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use warp::reply::{Reply, Response};
use warp::{Filter, Rejection};

use crate::frames::{Frames, deflate};
use crate::hub::Hub;
use crate::socket::{self, UpgradeRequest};

/// Connections that may wait to be accepted: a restart brings all clients back at once.
const BACKLOG: u32 = 4096;

/// The version of the WebSocket protocol.
const WEBSOCKET_VERSION: &str = "13";

/// Opens the public port, on all addresses, or on loopback only.
pub fn listen(port: u16, loopback_only: bool) -> std::io::Result<TcpListener> {
    let v6 = SocketAddr::from((std::net::Ipv6Addr::UNSPECIFIED, port));
    let v4 = SocketAddr::from((std::net::Ipv4Addr::UNSPECIFIED, port));
    if loopback_only {
        return bind(SocketAddr::from((std::net::Ipv4Addr::LOCALHOST, port)));
    }
    // A machine without IPv6 still has clients.
    bind(v6).or_else(|error| if error.kind() == std::io::ErrorKind::AddrInUse { Err(error) } else { bind(v4) })
}

fn bind(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = if address.is_ipv6() { TcpSocket::new_v6()? } else { TcpSocket::new_v4()? };
    socket.set_reuseaddr(true)?;
    // Accepted connections inherit it: a poke must not wait for the acknowledgement of the one before.
    socket.set_nodelay(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Serves until `stop` completes. Open WebSockets are not waited for: see [`Hub::drain`].
pub async fn serve(hub: Arc<Hub>, listener: TcpListener, stop: impl Future<Output = ()> + Send + 'static) {
    let max_payload = hub.config.max_payload_bytes;
    let upgraded = Arc::clone(&hub);
    let upgrade = warp::ext::optional::<OnUpgrade>()
        .and(warp::ws())
        .and(warp::path::full())
        .and(warp::query::raw().or_else(|_| async { Ok::<_, Rejection>((String::new(),)) }))
        .and(warp::header::headers_cloned())
        .map(move |raw: Option<OnUpgrade>, _: Ws, path: warp::path::FullPath, query: String, headers: HeaderMap| {
            let hub = Arc::clone(&upgraded);
            let protocol = first_protocol(&headers);
            let request =
                UpgradeRequest { path: path.as_str().to_owned(), query: (!query.is_empty()).then_some(query), headers };
            let (Some(raw), Some(key)) = (raw, accept_key(&request.headers)) else {
                return no_handshake(&Method::GET, &request.headers);
            };
            let compression = hub.config.compression.clone().filter(|_| deflate::is_offered(&request.headers));
            let mut response = switching(&key, compression.is_some());
            tokio::spawn(async move {
                // A client that is gone before its upgrade leaves nothing to do.
                let Ok(upgraded) = raw.await else { return };
                let socket = Frames::new(TokioIo::new(upgraded), max_payload, compression);
                socket::serve(socket, request, hub).await;
            });
            if let Some(protocol) = protocol {
                response.headers_mut().insert(header::SEC_WEBSOCKET_PROTOCOL, protocol);
            }
            response
        })
        .boxed();
    let asked = Arc::clone(&hub);
    let statz = warp::path!("statz")
        .and(warp::get().or(warp::head()).unify())
        .and(warp::query::raw().or_else(|_| async { Ok::<_, Rejection>((String::new(),)) }))
        .and(warp::header::headers_cloned())
        .then(move |query: String, headers: HeaderMap| {
            let hub = Arc::clone(&asked);
            async move { hub.statz(&query, &headers).await }
        })
        .boxed();
    let plain = warp::method()
        .and(warp::path::full())
        .and(warp::query::raw().or_else(|_| async { Ok::<_, Rejection>((String::new(),)) }))
        .and(warp::header::headers_cloned())
        .map(move |method: Method, path: warp::path::FullPath, query: String, headers: HeaderMap| {
            answer(&hub, &method, path.as_str(), &query, &headers)
        })
        .boxed();
    let routes = upgrade
        .or(statz)
        .unify()
        .or(plain)
        .unify()
        .recover(|_: Rejection| async { Ok::<_, Infallible>(StatusCode::BAD_REQUEST.into_response()) });
    warp::serve(routes).incoming(listener).graceful(stop).run().await;
}

/// Bytes that a handshake's key stands for (RFC 6455, 4.1).
const KEY_BYTES: usize = 16;

/// The key that proves to a client that its handshake was understood.
fn accept_key(headers: &HeaderMap) -> Option<HeaderValue> {
    let key = headers.get(header::SEC_WEBSOCKET_KEY)?;
    let is_key = BASE64_STANDARD.decode(key.as_bytes()).is_ok_and(|bytes| bytes.len() == KEY_BYTES);
    HeaderValue::from_str(&derive_accept_key(key.as_bytes())).ok().filter(|_| is_key)
}

/// The answer to a handshake that is none. The words are those of the library that the reference uses.
fn no_handshake(method: &Method, headers: &HeaderMap) -> Response {
    let (status, text) = if *method != Method::GET {
        (StatusCode::METHOD_NOT_ALLOWED, "Invalid HTTP method")
    } else if accept_key(headers).is_none() {
        (StatusCode::BAD_REQUEST, "Missing or invalid Sec-WebSocket-Key header")
    } else if headers.get(header::SEC_WEBSOCKET_VERSION).is_none_or(|version| version != WEBSOCKET_VERSION) {
        (StatusCode::BAD_REQUEST, "Missing or invalid Sec-WebSocket-Version header")
    } else {
        (StatusCode::BAD_REQUEST, "Invalid Upgrade header")
    };
    // A client of another version of the protocol is told which one is spoken (RFC 6455, 4.4).
    let reply = warp::reply::with_header(text, header::SEC_WEBSOCKET_VERSION, WEBSOCKET_VERSION);
    warp::reply::with_status(reply, status).into_response()
}

/// The answer that completes the handshake, and grants compression if it is.
fn switching(key: &HeaderValue, compressed: bool) -> Response {
    let mut response = StatusCode::SWITCHING_PROTOCOLS.into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(header::SEC_WEBSOCKET_ACCEPT, key.clone());
    if compressed {
        headers.insert(header::SEC_WEBSOCKET_EXTENSIONS, HeaderValue::from_static(deflate::GRANTED));
    }
    response
}

/// The first offered sub-protocol, verbatim: clients give up when none is echoed.
fn first_protocol(headers: &HeaderMap) -> Option<HeaderValue> {
    let offered = headers.get(header::SEC_WEBSOCKET_PROTOCOL)?.as_bytes();
    let first = offered.split(|&byte| byte == b',').next()?.trim_ascii();
    if first.is_empty() { None } else { HeaderValue::from_bytes(first).ok() }
}

fn answer(hub: &Hub, method: &Method, path: &str, query: &str, headers: &HeaderMap) -> Response {
    if headers.get(header::UPGRADE).is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"websocket")) {
        // The upgrade route took every well-formed handshake.
        return no_handshake(method, headers);
    }
    if matches!(*method, Method::GET | Method::HEAD) && matches!(path, "/" | "/keepalive") {
        if path == "/keepalive" {
            hub.heartbeat.beat();
        }
        return warp::reply::with_header("OK", header::CONTENT_TYPE, "text/plain; charset=utf-8").into_response();
    }
    let asked = if query.is_empty() { path.to_owned() } else { format!("{path}?{query}") };
    let body =
        json!({ "message": format!("Route {method}:{asked} not found"), "error": "Not Found", "statusCode": 404 });
    warp::reply::with_status(warp::reply::json(&body), StatusCode::NOT_FOUND).into_response()
}
