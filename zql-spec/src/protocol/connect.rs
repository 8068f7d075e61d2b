//! The URL of a client's connection: path and query parameters (protocol sheet §2.1, §2.2).

use std::borrow::Cow;

/// What the URL of a connection says.
#[derive(Clone, Debug, PartialEq)]
pub struct ConnectParams {
    /// Protocol version; not yet checked for being served.
    pub version: f64,
    /// The client, one tab.
    pub client_id: String,
    /// The client's group: all tabs of one browser profile and user.
    pub client_group_id: String,
    /// Cookie of the last poke that the client applied; absent for a new client.
    pub base_cookie: Option<String>,
    /// Chosen by the client to tell its sockets apart; echoed in `connected`.
    pub ws_id: String,
    /// Identifies the browser profile for counting users.
    pub profile_id: Option<String>,
    /// The user that the client claims to be; absent when logged out.
    pub user_id: Option<String>,
    /// The client's clock at connecting, in milliseconds.
    pub timestamp: i64,
    /// The client's last mutation that it knows to be processed.
    pub last_mutation_id: i64,
}

/// Parses path and query of an upgrade request. The error is the reason of the close frame with code 1002.
pub fn parse(path: &str, query: Option<&str>) -> Result<ConnectParams, String> {
    let whole = || match query {
        Some(query) => format!("{path}?{query}"),
        None => path.to_owned(),
    };
    let segments: Vec<&str> = path.strip_prefix('/').unwrap_or(path).split('/').collect();
    let (worker, version) = match segments.as_slice() {
        [worker, version, action] | [_, worker, version, action] if !action.is_empty() => (*worker, *version),
        _ => return Err(format!("Error: Invalid URL: {}", whole())),
    };
    let Some(version) = version.strip_prefix('v') else {
        return Err(format!("Error: Invalid URL: {}", whole()));
    };
    match worker {
        "sync" => {}
        "mutate" => {
            return Err("Error: Received a push for a custom mutation but no `push.url` was configured.".to_owned());
        }
        "replication" => {
            return Err("Error: Dispatch to the change-streamer via the main port is only allowed in multi-node mode"
                .to_owned());
        }
        _ => return Err(format!("Error: Invalid URL: {}", whole())),
    }
    let version = number(version).ok_or_else(|| format!("Error: Invalid version: {}", whole()))?;
    let params = Params(query.unwrap_or(""));
    let text = |name: &str| params.get(name).map(Cow::into_owned);
    let required = |name: &str| text(name).ok_or_else(|| format!("Error: invalid querystring - missing {name}"));
    let integer = |name: &str| {
        let value = required(name)?;
        parse_int(&value).ok_or_else(|| {
            format!("Error: invalid querystring parameter {name}, got: {value}, url: http://unused{}", whole())
        })
    };
    Ok(ConnectParams {
        version,
        client_id: required("clientID")?,
        client_group_id: required("clientGroupID")?,
        profile_id: text("profileID"),
        base_cookie: text("baseCookie"),
        timestamp: integer("ts")?,
        last_mutation_id: integer("lmid")?,
        ws_id: text("wsid").unwrap_or_default(),
        user_id: text("userID"),
    })
}

impl ConnectParams {
    /// Path and query as a client sends them.
    pub fn to_path_and_query(&self) -> String {
        let mut out = format!("/sync/v{}/connect?", ryu_js::Buffer::new().format(self.version));
        let mut add = |name: &str, value: &str| {
            if !out.ends_with('?') {
                out.push('&');
            }
            out.push_str(name);
            out.push('=');
            percent_encode(value, &mut out);
        };
        add("clientID", &self.client_id);
        add("clientGroupID", &self.client_group_id);
        if let Some(profile) = &self.profile_id {
            add("profileID", profile);
        }
        if let Some(user) = &self.user_id {
            add("userID", user);
        }
        add("baseCookie", self.base_cookie.as_deref().unwrap_or(""));
        add("ts", &self.timestamp.to_string());
        add("lmid", &self.last_mutation_id.to_string());
        add("wsid", &self.ws_id);
        out
    }
}

/// Query parameters in form encoding. An empty value counts as absent; the first of a name wins.
struct Params<'a>(&'a str);

impl<'a> Params<'a> {
    fn get(&self, name: &str) -> Option<Cow<'a, str>> {
        self.0
            .split('&')
            .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
            .find(|(key, _)| form_decode(key) == name)
            .map(|(_, value)| form_decode(value))
            .filter(|value| !value.is_empty())
    }
}

fn form_decode(text: &str) -> Cow<'_, str> {
    if !text.contains(['%', '+']) {
        return Cow::Borrowed(text);
    }
    let decoded = percent_decode_lossy(&text.replace('+', " "));
    Cow::Owned(String::from_utf8_lossy(&decoded).into_owned())
}

/// Percent-decodes; a `%` that begins no escape stands for itself, as in form encoding.
fn percent_decode_lossy(text: &str) -> Vec<u8> {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        match escape(bytes, at) {
            Some(byte) => {
                out.push(byte);
                at += 3;
            }
            None => {
                out.push(bytes[at]);
                at += 1;
            }
        }
    }
    out
}

/// The byte that a percent escape at this position stands for.
pub(super) fn escape(bytes: &[u8], at: usize) -> Option<u8> {
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    match bytes.get(at..at + 3)? {
        [b'%', high, low] => Some(digit(*high)? * 16 + digit(*low)?),
        _ => None,
    }
}

/// Appends text as JavaScript's `encodeURIComponent` writes it.
pub fn percent_encode(text: &str, out: &mut String) {
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.!~*'()".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push('%');
            for half in [byte >> 4, byte & 15] {
                out.push(char::from(b"0123456789ABCDEF"[usize::from(half)]));
            }
        }
    }
}

/// JavaScript's `parseInt`: leading digits count, the rest is ignored. Beyond ±2^53 it saturates.
fn parse_int(text: &str) -> Option<i64> {
    let text = text.trim_start();
    let (negative, digits) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    let (radix, digits) = match digits.get(..2) {
        Some("0x" | "0X") => (16, &digits[2..]),
        _ => (10, digits),
    };
    let mut value: i64 = 0;
    let mut any = false;
    for digit in digits.chars().map_while(|c| c.to_digit(radix)) {
        any = true;
        value = value.saturating_mul(i64::from(radix)).saturating_add(i64::from(digit)).min(1 << 53);
    }
    any.then_some(if negative { -value } else { value })
}

/// JavaScript's `Number()` of a text, without NaN.
pub fn number(text: &str) -> Option<f64> {
    let text = text.trim();
    if text.is_empty() {
        return Some(0.0);
    }
    for (prefixes, radix) in [(["0x", "0X"], 16), (["0o", "0O"], 8), (["0b", "0B"], 2)] {
        if let Some(digits) = prefixes.iter().find_map(|prefix| text.strip_prefix(prefix)) {
            return u64::from_str_radix(digits, radix).ok().filter(|_| !digits.starts_with('+')).map(|n| n as f64);
        }
    }
    match text.strip_prefix(['+', '-']).unwrap_or(text) {
        "Infinity" => {
            return Some(if text.starts_with('-') { f64::NEG_INFINITY } else { f64::INFINITY });
        }
        digits if !digits.starts_with(|c: char| c.is_ascii_digit() || c == '.') => return None,
        _ => {}
    }
    text.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::{number, parse, parse_int};

    const GOOD: &str = "clientID=c&clientGroupID=g&ts=188.07&lmid=0&baseCookie=&wsid=w%201";

    #[test]
    fn accepts() {
        for path in ["/sync/v51/connect", "/zero/sync/v51/connect", "/api/sync/v51/foo"] {
            let params = parse(path, Some(GOOD)).expect(path);
            assert_eq!(params.version, 51.0);
            assert_eq!((params.timestamp, params.base_cookie.as_deref(), params.ws_id.as_str()), (188, None, "w 1"));
            let again = params.to_path_and_query();
            let (path, query) = again.split_once('?').expect("a query");
            assert_eq!(parse(path, Some(query)).expect("own encoding"), params);
        }
    }

    #[test]
    fn refuses() {
        for (path, query, expected) in [
            ("/", None, "Error: Invalid URL: /"),
            ("/sync/v51/connect/", Some("a=b"), "Error: Invalid URL: /sync/v51/connect/?a=b"),
            ("/a/b/sync/v51/connect", None, "Error: Invalid URL: /a/b/sync/v51/connect"),
            ("/nope/v51/connect", None, "Error: Invalid URL: /nope/v51/connect"),
            ("/sync/vx/connect", Some("q"), "Error: Invalid version: /sync/vx/connect?q"),
            ("/sync/v51/connect", None, "Error: invalid querystring - missing clientID"),
            ("/sync/v51/connect", Some("clientID=&clientGroupID=g"), "Error: invalid querystring - missing clientID"),
            ("/sync/v51/connect", Some("clientID=c"), "Error: invalid querystring - missing clientGroupID"),
            ("/sync/v51/connect", Some("clientID=c&clientGroupID=g"), "Error: invalid querystring - missing ts"),
            (
                "/sync/v51/connect",
                Some("clientID=c&clientGroupID=g&ts=1&lmid=abc"),
                "Error: invalid querystring parameter lmid, got: abc, url: \
                 http://unused/sync/v51/connect?clientID=c&clientGroupID=g&ts=1&lmid=abc",
            ),
        ] {
            assert_eq!(parse(path, query).expect_err(path), expected);
        }
    }

    #[test]
    fn numbers_as_javascript_reads_them() {
        for (text, expected) in
            [("1.5", Some(1)), ("12abc", Some(12)), ("-3", Some(-3)), ("0x1f", Some(31)), ("abc", None), ("-", None)]
        {
            assert_eq!(parse_int(text), expected, "{text}");
        }
        for (text, expected) in [
            ("51", Some(51.0)),
            ("", Some(0.0)),
            ("5e1", Some(50.0)),
            ("0x33", Some(51.0)),
            ("51a", None),
            ("nan", None),
        ] {
            assert_eq!(number(text), expected, "{text}");
        }
    }
}
