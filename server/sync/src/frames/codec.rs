//! Bytes to messages and back.
//!
//! A message may come in fragments and compressed. What it may become is bounded by the same limit whether it is
//! compressed or not, and checked while it is unpacked: a kilobyte can stand for a megabyte.

use std::io::Cursor;

use tokio_tungstenite::tungstenite::protocol::frame::FrameHeader;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{Control, Data, OpCode};
use tokio_util::bytes::{Buf, BufMut, BytesMut};
use tokio_util::codec::{Decoder, Encoder};
use warp::filters::ws::Message;

use super::deflate::{Compression, deflate, inflate};

/// Longest payload of a control frame (RFC 6455, 5.5).
const MAX_CONTROL: u64 = 125;

/// Why a socket cannot be read or written any more.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CodecError {
    /// A message is longer than allowed.
    #[error("a message is longer than {0} bytes")]
    TooBig(usize),
    /// The peer does not follow the protocol.
    #[error("WebSocket protocol: {0}")]
    Protocol(String),
    /// A text is none.
    #[error("a text that is not UTF-8")]
    NotText,
    /// The connection failed.
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

pub(super) fn protocol(text: impl ToString) -> CodecError {
    CodecError::Protocol(text.to_string())
}

/// Both directions of one socket.
#[derive(Debug)]
pub(super) struct Codec {
    max_payload: usize,
    /// What was granted to the client.
    compression: Option<Compression>,
    fragments: Option<Fragments>,
}

/// A message whose last fragment has not come.
#[derive(Debug)]
struct Fragments {
    text: bool,
    compressed: bool,
    data: Vec<u8>,
}

impl Codec {
    pub(super) fn new(max_payload: usize, compression: Option<Compression>) -> Codec {
        Codec { max_payload, compression, fragments: None }
    }

    /// Takes a whole frame of data; gives the message that it ends.
    fn data(&mut self, header: &FrameHeader, kind: Data, payload: Vec<u8>) -> Result<Option<Message>, CodecError> {
        let mut message = match (kind, self.fragments.take()) {
            (Data::Continue, Some(fragments)) if !header.rsv1 => fragments,
            (Data::Text | Data::Binary, None) => {
                Fragments { text: kind == Data::Text, compressed: header.rsv1, data: Vec::new() }
            }
            _ => return Err(protocol("a fragment out of place")),
        };
        if message.data.len() + payload.len() > self.max_payload {
            return Err(CodecError::TooBig(self.max_payload));
        }
        if message.data.is_empty() {
            message.data = payload;
        } else {
            message.data.extend_from_slice(&payload);
        }
        if !header.is_final {
            self.fragments = Some(message);
            return Ok(None);
        }
        let data = if message.compressed { inflate(message.data, self.max_payload)? } else { message.data };
        Ok(Some(match message.text {
            true => Message::text(String::from_utf8(data).map_err(|_| CodecError::NotText)?),
            false => Message::binary(data),
        }))
    }
}

impl Decoder for Codec {
    type Item = Message;
    type Error = CodecError;

    fn decode(&mut self, bytes: &mut BytesMut) -> Result<Option<Message>, CodecError> {
        loop {
            let mut cursor = Cursor::new(&bytes[..]);
            let Some((header, length)) = FrameHeader::parse(&mut cursor).map_err(protocol)? else { return Ok(None) };
            let begin = usize::try_from(cursor.position()).map_err(protocol)?;
            if length > self.max_payload as u64 {
                return Err(CodecError::TooBig(self.max_payload));
            }
            let end = begin + usize::try_from(length).map_err(protocol)?;
            if bytes.len() < end {
                bytes.reserve(end - bytes.len());
                return Ok(None);
            }
            let Some(mask) = header.mask else { return Err(protocol("a client's frame is not masked")) };
            if header.rsv1 && self.compression.is_none() || header.rsv2 || header.rsv3 {
                return Err(protocol("a reserved bit is set"));
            }
            let mut payload = bytes[begin..end].to_vec();
            bytes.advance(end);
            payload.iter_mut().zip(mask.iter().cycle()).for_each(|(byte, mask)| *byte ^= mask);
            let message = match header.opcode {
                OpCode::Data(kind @ (Data::Text | Data::Binary | Data::Continue)) => {
                    match self.data(&header, kind, payload)? {
                        Some(message) => message,
                        None => continue,
                    }
                }
                OpCode::Control(_) if !header.is_final || header.rsv1 || length > MAX_CONTROL => {
                    return Err(protocol("a control frame that is none"));
                }
                OpCode::Control(Control::Ping) => Message::ping(payload),
                OpCode::Control(Control::Pong) => Message::pong(payload),
                OpCode::Control(Control::Close) => match payload.split_first_chunk() {
                    None => Message::close(),
                    Some((code, reason)) => {
                        Message::close_with(u16::from_be_bytes(*code), String::from_utf8_lossy(reason).into_owned())
                    }
                },
                OpCode::Data(Data::Reserved(_)) | OpCode::Control(Control::Reserved(_)) => {
                    return Err(protocol("an unknown kind of frame"));
                }
            };
            return Ok(Some(message));
        }
    }
}

impl Encoder<Message> for Codec {
    type Error = CodecError;

    fn encode(&mut self, message: Message, to: &mut BytesMut) -> Result<(), CodecError> {
        let mut packed = None;
        let opcode = if message.is_close() {
            if let Some((code, reason)) = message.close_frame() {
                packed = Some([&code.to_be_bytes(), reason.as_bytes()].concat());
            }
            OpCode::Control(Control::Close)
        } else if message.is_ping() {
            OpCode::Control(Control::Ping)
        } else if message.is_pong() {
            OpCode::Control(Control::Pong)
        } else {
            OpCode::Data(if message.is_text() { Data::Text } else { Data::Binary })
        };
        let is_data = matches!(opcode, OpCode::Data(_));
        let compression = self.compression.as_ref().filter(|_| is_data);
        if let Some(compression) = compression.filter(|granted| message.as_bytes().len() >= granted.threshold) {
            let shorter = deflate(message.as_bytes(), compression.level)?;
            packed = Some(shorter).filter(|shorter| shorter.len() < message.as_bytes().len());
        }
        let rsv1 = is_data && packed.is_some();
        let payload = packed.as_deref().unwrap_or_else(|| message.as_bytes());
        let header = FrameHeader { is_final: true, rsv1, rsv2: false, rsv3: false, opcode, mask: None };
        to.reserve(header.len(payload.len() as u64) + payload.len());
        header.format(payload.len() as u64, &mut to.writer()).map_err(protocol)?;
        to.extend_from_slice(payload);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use tokio_util::bytes::BytesMut;
    use tokio_util::codec::{Decoder, Encoder};
    use warp::filters::ws::Message;

    use super::{Codec, CodecError, Compression, deflate};

    fn codec(max_payload: usize) -> Codec {
        Codec::new(max_payload, Some(Compression { threshold: 100, level: 3 }))
    }

    /// A client's frame: first byte as given, masked by zeros and then by something else.
    fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
        let mask = [1, 2, 3, 4];
        let mut out = vec![first];
        match payload.len() {
            short @ ..126 => out.push(0x80 | short as u8),
            long => {
                out.push(0x80 | 126);
                out.extend(u16::try_from(long).expect("a test's payload").to_be_bytes());
            }
        }
        out.extend(mask);
        out.extend(payload.iter().enumerate().map(|(at, byte)| byte ^ mask[at % 4]));
        out
    }

    /// The messages of bytes that come one by one.
    fn decode(codec: &mut Codec, bytes: &[u8]) -> Result<Vec<Message>, CodecError> {
        let (mut buffer, mut messages) = (BytesMut::new(), Vec::new());
        for byte in bytes {
            buffer.extend_from_slice(&[*byte]);
            messages.extend(codec.decode(&mut buffer)?);
        }
        Ok(messages)
    }

    #[test]
    fn messages_in_every_form() {
        let text = "compressible ".repeat(20);
        let packed = deflate(text.as_bytes(), 6).expect("packed");
        let (head, tail) = packed.split_at(packed.len() / 2);
        let mut bytes = frame(0x81, b"plain");
        bytes.extend(frame(0xC1, &packed));
        bytes.extend(frame(0x41, head));
        bytes.extend(frame(0x89, b"ping"));
        bytes.extend(frame(0x80, tail));
        bytes.extend(frame(0x82, b"\xFF"));
        bytes.extend(frame(0xC1, &deflate(b"", 3).expect("packed")));
        bytes.extend(frame(0x88, b"\x03\xE8bye"));
        let messages = decode(&mut codec(1000), &bytes).expect("good frames");
        let texts: Vec<&str> = messages.iter().filter_map(|message| message.to_str().ok()).collect();
        assert_eq!(texts, ["plain", &text, &text, ""]);
        assert!(messages[2].is_ping() && messages[4].as_bytes() == b"\xFF");
        assert_eq!(messages[6].close_frame(), Some((1000, "bye")));
    }

    #[test]
    fn what_is_refused() {
        let bomb = deflate(&[b'x'; 100_000], 9).expect("packed");
        assert!(bomb.len() < 1000);
        assert!(matches!(decode(&mut codec(1000), &frame(0xC1, &bomb)), Err(CodecError::TooBig(1000))));
        assert!(matches!(decode(&mut codec(10), &frame(0x81, &[b'x'; 11])), Err(CodecError::TooBig(10))));
        let halves = [frame(0x01, &[b'x'; 6]), frame(0x80, &[b'x'; 6])].concat();
        assert!(matches!(decode(&mut codec(10), &halves), Err(CodecError::TooBig(10))));
        for bytes in [
            frame(0x80, b"no beginning"),
            [frame(0x01, b"a"), frame(0x81, b"b")].concat(),
            frame(0xA1, b"reserved bit"),
            frame(0xC1, b"\xFFnot deflate"),
            frame(0x09, b"a control frame in fragments"),
            frame(0x83, b"unknown"),
            vec![0x81, 0x01, b'x'],
        ] {
            assert!(matches!(decode(&mut codec(1000), &bytes), Err(CodecError::Protocol(_))), "{bytes:?}");
        }
        assert!(matches!(decode(&mut codec(1000), &frame(0x81, b"\xFF")), Err(CodecError::NotText)));
        // What is compressed though nothing was granted.
        let packed = frame(0xC1, &deflate(b"packed", 3).expect("packed"));
        assert!(matches!(decode(&mut Codec::new(1000, None), &packed), Err(CodecError::Protocol(_))));
    }

    #[test]
    fn nothing_is_packed_unless_granted() {
        let message = Message::text("long ".repeat(1000));
        let mut bytes = BytesMut::new();
        Codec::new(1 << 20, None).encode(message.clone(), &mut bytes).expect("encoded");
        assert_eq!((bytes[0], bytes.len()), (0x81, 4 + message.as_bytes().len()));
    }

    #[test]
    fn long_messages_are_packed() {
        let mut codec = codec(1 << 20);
        let incompressible: String = (0..200_u32).map(|n| char::from(b'!' + (n * n % 89) as u8)).collect();
        for (message, packed) in [
            (Message::text("short"), false),
            (Message::text("long ".repeat(100_000)), true),
            (Message::binary(vec![0; 500]), true),
            (Message::pong("x"), false),
            (Message::close_with(1002_u16, "why"), false),
            (Message::text(&incompressible[..100]), false),
        ] {
            let mut bytes = BytesMut::new();
            codec.encode(message.clone(), &mut bytes).expect("encoded");
            assert_eq!(bytes[0] & 0x40 != 0, packed, "{message:?}");
            assert!(!packed || bytes.len() < message.as_bytes().len() / 2);
            // As a client would send it.
            let payload = match bytes[1] {
                126 => &bytes[4..],
                127 => &bytes[10..],
                _ => &bytes[2..],
            };
            assert_eq!(bytes[1] & 0x80, 0, "a server masks nothing");
            let back = decode(&mut codec, &frame(bytes[0], payload)).expect("decoded");
            assert_eq!(back, [message]);
        }
    }
}
