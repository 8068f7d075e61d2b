//! The WebSocket extension permessage-deflate (RFC 7692), off unless configured: what is granted, and the packing.
//!
//! Both sides are told to forget their dictionaries after each message: a dictionary a connection costs 300 KB, and pokes
//! are big enough to compress by themselves. It must not know frames.

use flate2::{Compress, Decompress, FlushCompress, FlushDecompress};
use serde::Deserialize;
use warp::http::{HeaderMap, header};

use super::codec::{CodecError, protocol};

/// What the sender cuts off every compressed message (RFC 7692, 7.2.1).
const TAIL: [u8; 4] = [0, 0, 0xFF, 0xFF];

/// First size of the buffer that a message is unpacked into.
const FIRST_BUFFER: usize = 4096;

/// What is granted to every client that offers the extension.
pub(crate) const GRANTED: &str = "permessage-deflate; server_no_context_takeover; client_no_context_takeover";

/// How messages are compressed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compression {
    /// Bytes from which on a message is compressed.
    pub threshold: usize,
    /// From 0 (none) to 9 (best).
    pub level: u32,
}

impl Default for Compression {
    fn default() -> Self {
        // The threshold is the reference's. The level is that at which twice the time buys less than a tenth.
        Compression { threshold: 1024, level: 3 }
    }
}

impl Compression {
    /// Reads what deployments of the reference set: options of the npm package `ws`. Those that concern its memory
    /// have no counterpart here.
    pub(crate) fn parse(options: &str) -> Result<Compression, String> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Options {
            threshold: Option<usize>,
            zlib_deflate_options: Option<Zlib>,
        }
        #[derive(Deserialize)]
        struct Zlib {
            level: Option<i32>,
        }
        let options: Options = serde_json::from_str(options).map_err(|error| error.to_string())?;
        let default = Compression::default();
        let level = options.zlib_deflate_options.and_then(|zlib| zlib.level);
        Ok(Compression {
            threshold: options.threshold.unwrap_or(default.threshold),
            // -1 is zlib's name for its own default.
            level: level.and_then(|level| u32::try_from(level).ok()).map_or(default.level, |level| level.min(9)),
        })
    }
}

/// Whether a client offers the extension in a way that can be granted.
pub(crate) fn is_offered(headers: &HeaderMap) -> bool {
    headers
        .get_all(header::SEC_WEBSOCKET_EXTENSIONS)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(is_acceptable)
}

fn is_acceptable(offer: &str) -> bool {
    let mut parts = offer.split(';').map(str::trim);
    if parts.next() != Some("permessage-deflate") {
        return false;
    }
    let mut seen: Vec<&str> = Vec::new();
    parts.all(|part| {
        let (name, value) = match part.split_once('=') {
            Some((name, value)) => (name.trim(), Some(value.trim().trim_matches('"'))),
            None => (part, None),
        };
        let twice = seen.contains(&name);
        seen.push(name);
        let bits = value.and_then(|value| value.parse::<u8>().ok());
        !twice
            && match name {
                "server_no_context_takeover" | "client_no_context_takeover" => value.is_none(),
                // What the client can take of its own side; whatever it uses, any window can be read.
                "client_max_window_bits" => value.is_none() || bits.is_some_and(|bits| (8..=15).contains(&bits)),
                // The compressor knows one size of window.
                "server_max_window_bits" => bits == Some(15),
                _ => false,
            }
    })
}

/// Packs a message by itself.
pub(super) fn deflate(data: &[u8], level: u32) -> Result<Vec<u8>, CodecError> {
    let mut packer = Compress::new(flate2::Compression::new(level), false);
    let mut out = Vec::with_capacity(data.len() / 2 + 64);
    loop {
        let taken = usize::try_from(packer.total_in()).map_err(protocol)?;
        packer.compress_vec(&data[taken..], &mut out, FlushCompress::Sync).map_err(protocol)?;
        if packer.total_in() == data.len() as u64 && out.len() < out.capacity() {
            break;
        }
        out.reserve(data.len() / 4 + 64);
    }
    if out.ends_with(&TAIL) {
        out.truncate(out.len() - TAIL.len());
    }
    Ok(out)
}

/// Unpacks a message, up to a length.
pub(super) fn inflate(mut data: Vec<u8>, at_most: usize) -> Result<Vec<u8>, CodecError> {
    data.extend_from_slice(&TAIL);
    let mut unpacker = Decompress::new(false);
    let mut out = Vec::with_capacity(FIRST_BUFFER.max(data.len() * 2).min(at_most + 1));
    loop {
        let taken = usize::try_from(unpacker.total_in()).map_err(protocol)?;
        let status = unpacker.decompress_vec(&data[taken..], &mut out, FlushDecompress::Sync).map_err(protocol)?;
        if out.len() > at_most {
            return Err(CodecError::TooBig(at_most));
        }
        let full = out.len() == out.capacity();
        if status == flate2::Status::StreamEnd || (unpacker.total_in() == data.len() as u64 && !full) {
            return Ok(out);
        }
        if !full && unpacker.total_in() as usize == taken {
            return Err(protocol("compressed data that ends too early"));
        }
        out.reserve(out.len().max(FIRST_BUFFER).min(at_most + 1 - out.len()));
    }
}

#[cfg(test)]
mod tests {
    use warp::http::HeaderMap;

    use super::{Compression, is_offered};

    #[test]
    fn offers() {
        for (offer, granted) in [
            ("permessage-deflate", true),
            ("permessage-deflate; client_max_window_bits", true),
            ("x-webkit, permessage-deflate;client_max_window_bits=\"10\"; server_no_context_takeover", true),
            ("permessage-deflate; server_max_window_bits=10, permessage-deflate", true),
            ("permessage-deflate; server_max_window_bits=10", false),
            ("permessage-deflate; client_max_window_bits=16", false),
            ("permessage-deflate; client_max_window_bits; client_max_window_bits", false),
            ("permessage-deflate; unknown", false),
            ("permessage-bzip2", false),
            ("", false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert("sec-websocket-extensions", offer.parse().expect("a header"));
            assert_eq!(is_offered(&headers), granted, "{offer}");
        }
        assert!(!is_offered(&HeaderMap::new()));
    }

    #[test]
    fn options() {
        let default = Compression::default();
        for (text, expected) in [
            ("{}", Some(default.clone())),
            (
                r#"{"threshold":0,"zlibDeflateOptions":{"level":9,"memLevel":7}}"#,
                Some(Compression { threshold: 0, level: 9 }),
            ),
            (r#"{"zlibDeflateOptions":{"level":-1},"concurrencyLimit":2}"#, Some(default)),
            ("nope", None),
        ] {
            assert_eq!(Compression::parse(text).ok(), expected, "{text}");
        }
    }
}
