//! The `Sec-WebSocket-Protocol` header, in which a client hides its token and first message
//! (protocol sheet §2.3): percent-encoded base64 of UTF-8 JSON.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::connect::{escape, percent_encode};

/// What the header carries.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SecProtocol {
    /// An `initConnection` message, to be handled as if it were the first one received.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub init_connection_message: Option<Box<RawValue>>,
    /// The user's token; empty counts as absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auth_token: Option<String>,
}

impl SecProtocol {
    /// Decodes the whole header value. The error is the reason of the close frame with code 1002.
    pub fn decode(header: &str) -> Result<Self, String> {
        let base64 = percent_decode(header).ok_or("Error: URI malformed")?;
        let bytes = base64_decode(&base64).ok_or("Error: Invalid character")?;
        let json = String::from_utf8_lossy(&bytes);
        if json.trim() == "null" {
            return Err(
                "Error: Cannot destructure property 'initConnectionMessage' of 'JSON.parse(...)' as it is null."
                    .to_owned(),
            );
        }
        // Anything but an object has no members, as in JavaScript.
        if !json.trim_start().starts_with('{') {
            return match serde_json::from_str::<&RawValue>(&json) {
                Ok(_) => Ok(SecProtocol::default()),
                Err(error) => Err(format!("Error: Unexpected token: {error}")),
            };
        }
        serde_json::from_str(&json).map_err(|error| format!("Error: Unexpected token: {error}"))
    }

    /// The header value.
    pub fn encode(&self) -> String {
        let json = serde_json::to_string(self).expect("strings and raw JSON always serialise");
        let mut out = String::new();
        percent_encode(&base64_encode(json.as_bytes()), &mut out);
        out
    }
}

/// Percent-decodes as `decodeURIComponent` does: an incomplete escape or invalid UTF-8 is an error.
fn percent_decode(text: &str) -> Option<String> {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        if bytes[at] == b'%' {
            out.push(escape(bytes, at)?);
            at += 3;
        } else {
            out.push(bytes[at]);
            at += 1;
        }
    }
    String::from_utf8(out).ok()
}

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

fn base64_encode(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let mut group = [0; 3];
        group[..chunk.len()].copy_from_slice(chunk);
        let bits = u32::from_be_bytes([0, group[0], group[1], group[2]]);
        for position in 0..4 {
            let index = (bits >> (18 - 6 * position)) & 63;
            out.push(if position <= chunk.len() { char::from(ALPHABET[index as usize]) } else { '=' });
        }
    }
    out
}

/// Decodes as JavaScript's `atob`: ASCII white space is skipped, padding may be missing.
fn base64_decode(text: &str) -> Option<Vec<u8>> {
    let mut symbols: Vec<u8> = text.bytes().filter(|byte| !byte.is_ascii_whitespace()).collect();
    if symbols.len().is_multiple_of(4) {
        for _ in 0..2 {
            if symbols.last() == Some(&b'=') {
                symbols.pop();
            }
        }
    }
    if symbols.len() % 4 == 1 {
        return None;
    }
    let mut out = Vec::with_capacity(symbols.len() / 4 * 3 + 2);
    let (mut bits, mut count) = (0_u32, 0);
    for symbol in symbols {
        let index = match symbol {
            b'A'..=b'Z' => symbol - b'A',
            b'a'..=b'z' => symbol - b'a' + 26,
            b'0'..=b'9' => symbol - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        bits = bits << 6 | u32::from(index);
        count += 6;
        if count >= 8 {
            count -= 8;
            out.push((bits >> count) as u8);
            bits &= (1 << count) - 1;
        }
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::SecProtocol;

    #[test]
    fn vectors_of_the_reference() {
        assert_eq!(SecProtocol::default().encode(), "e30%3D");
        let token = SecProtocol { auth_token: Some("t☃".to_owned()), ..Default::default() };
        assert_eq!(token.encode(), "eyJhdXRoVG9rZW4iOiJ04piDIn0%3D");
        for header in ["eyJhdXRoVG9rZW4iOiJ04piDIn0%3D", "eyJhdXRoVG9rZW4iOiJ04piDIn0", "eyJhdXRoVG9r ZW4iOiJ04piDIn0="]
        {
            assert_eq!(SecProtocol::decode(header).expect(header).auth_token.as_deref(), Some("t☃"));
        }
    }

    #[test]
    fn keeps_the_first_message_as_text() {
        let header = SecProtocol {
            init_connection_message: Some(
                serde_json::value::RawValue::from_string(r#"["initConnection",{"z":1,"a":2}]"#.to_owned())
                    .expect("JSON"),
            ),
            auth_token: None,
        };
        let decoded = SecProtocol::decode(&header.encode()).expect("own encoding");
        assert_eq!(decoded.init_connection_message.expect("present").get(), r#"["initConnection",{"z":1,"a":2}]"#);
    }

    #[test]
    fn refuses() {
        for (header, expected) in [
            ("a, b", "Error: Invalid character"),
            ("e30%3", "Error: URI malformed"),
            ("e30_", "Error: Invalid character"),
            ("bnVsbA==", "Error: Cannot destructure"),
            ("eyJh", "Error: Unexpected token"),
            ("aGVsbG8=", "Error: Unexpected token"),
        ] {
            let error = SecProtocol::decode(header).expect_err(header);
            assert!(error.starts_with(expected), "{header}: {error}");
        }
    }
}
