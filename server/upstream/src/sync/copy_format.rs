//! The binary COPY format, as it streams in.
//!
//! A file header, then rows of length-prefixed fields, then an end marker. Chunks of the connection end
//! anywhere, so an unfinished row waits in the buffer for the rest. Lengths are checked before use:
//! malformed input is an error, never a panic.

use bytes::{Buf, BytesMut};

const SIGNATURE: &[u8; 11] = b"PGCOPY\n\xff\r\n\0";

/// Longest field Postgres can send.
const FIELD_LENGTH_MAX: usize = 1 << 30;

/// What is wrong with the input.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed binary copy: {0}")]
pub(crate) struct Malformed(pub(crate) &'static str);

/// Splits a binary copy into rows.
#[derive(Debug, Default)]
pub(crate) struct CopyReader {
    buffer: BytesMut,
    header_read: bool,
    ended: bool,
}

impl CopyReader {
    /// Adds what the connection gave.
    pub(crate) fn push(&mut self, chunk: &[u8]) {
        self.buffer.extend_from_slice(chunk);
    }

    /// Whether the end marker came.
    pub(crate) fn ended(&self) -> bool {
        self.ended && self.buffer.is_empty()
    }

    /// Gives each field of the next row to `field` (position, bytes or NULL). `false`: the row is not complete yet
    /// or there is none; then nothing was consumed and `field` was not called.
    pub(crate) fn row<E: From<Malformed>>(
        &mut self,
        columns: usize,
        mut field: impl FnMut(usize, Option<&[u8]>) -> Result<(), E>,
    ) -> Result<bool, E> {
        if !self.header_read && !self.header()? {
            return Ok(false);
        }
        if self.ended {
            return if self.buffer.is_empty() { Ok(false) } else { Err(Malformed("data after the end").into()) };
        }
        let Some(length) = self.row_length(columns)? else { return Ok(false) };
        let Some(length) = length else {
            self.buffer.advance(2);
            self.ended = true;
            return Ok(false);
        };
        let mut rest = &self.buffer[2..length];
        for column in 0..columns {
            let (size, after) = rest.split_at(4);
            let size = i32::from_be_bytes([size[0], size[1], size[2], size[3]]);
            rest = after;
            match usize::try_from(size) {
                Err(_) => field(column, None)?,
                Ok(size) => {
                    let (bytes, after) = rest.split_at(size);
                    rest = after;
                    field(column, Some(bytes))?;
                }
            }
        }
        self.buffer.advance(length);
        Ok(true)
    }

    /// The bytes of the row at the front; `None` if it is not all here, `Some(None)` for the end marker.
    fn row_length(&self, columns: usize) -> Result<Option<Option<usize>>, Malformed> {
        let buffer = &self.buffer[..];
        let Some(count) = buffer.get(..2) else { return Ok(None) };
        let count = i16::from_be_bytes([count[0], count[1]]);
        if count == -1 {
            return Ok(Some(None));
        }
        if usize::try_from(count) != Ok(columns) {
            return Err(Malformed("a row has another number of columns than the table"));
        }
        let mut at = 2;
        for _ in 0..columns {
            let Some(size) = buffer.get(at..at + 4) else { return Ok(None) };
            let size = i32::from_be_bytes([size[0], size[1], size[2], size[3]]);
            at += 4;
            match usize::try_from(size) {
                Ok(size) if size <= FIELD_LENGTH_MAX => at += size,
                Ok(_) => return Err(Malformed("a field is too long")),
                Err(_) if size == -1 => {}
                Err(_) => return Err(Malformed("a field has a negative length")),
            }
        }
        Ok((at <= buffer.len()).then_some(Some(at)))
    }

    fn header(&mut self) -> Result<bool, Malformed> {
        // Signature, flags, length of the extension.
        let Some(header) = self.buffer.get(..19) else { return Ok(false) };
        if &header[..11] != SIGNATURE {
            return Err(Malformed("no signature"));
        }
        let extension = i32::from_be_bytes([header[15], header[16], header[17], header[18]]);
        let extension = usize::try_from(extension).map_err(|_| Malformed("a negative header length"))?;
        if extension > FIELD_LENGTH_MAX {
            return Err(Malformed("a header that is too long"));
        }
        if self.buffer.len() < 19 + extension {
            return Ok(false);
        }
        self.buffer.advance(19 + extension);
        self.header_read = true;
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Vec<u8> {
        let mut bytes = SIGNATURE.to_vec();
        bytes.extend_from_slice(&[0; 8]);
        for row in [[Some("a"), None], [Some(""), Some("long text")]] {
            bytes.extend_from_slice(&2_i16.to_be_bytes());
            for field in row {
                let length = field.map_or(-1, |text| text.len() as i32);
                bytes.extend_from_slice(&length.to_be_bytes());
                bytes.extend_from_slice(field.unwrap_or_default().as_bytes());
            }
        }
        bytes.extend_from_slice(&(-1_i16).to_be_bytes());
        bytes
    }

    fn read(reader: &mut CopyReader, rows: &mut Vec<Vec<Option<String>>>) -> Result<(), Malformed> {
        loop {
            let mut row = Vec::new();
            let more = reader.row::<Malformed>(2, |_, bytes| {
                row.push(bytes.map(|bytes| String::from_utf8_lossy(bytes).into_owned()));
                Ok(())
            })?;
            if !more {
                return Ok(());
            }
            rows.push(row);
        }
    }

    #[test]
    fn rows_come_whole_however_chunks_end() {
        let sample = sample();
        for size in 1..=sample.len() {
            let mut reader = CopyReader::default();
            let mut rows = Vec::new();
            for chunk in sample.chunks(size) {
                reader.push(chunk);
                read(&mut reader, &mut rows).unwrap();
            }
            assert!(reader.ended());
            let expected =
                vec![vec![Some("a".to_owned()), None], vec![Some(String::new()), Some("long text".to_owned())]];
            assert_eq!(rows, expected);
        }
    }

    #[test]
    fn malformed_input_is_an_error() {
        let sample = sample();
        // Every single byte changed to each of a few values: an error or a row, never a panic.
        for at in 0..sample.len() {
            for byte in [0, 1, 0x7f, 0x80, 0xff] {
                let mut bytes = sample.clone();
                bytes[at] = byte;
                let mut reader = CopyReader::default();
                reader.push(&bytes);
                let _ = read(&mut reader, &mut Vec::new());
            }
        }
        let mut reader = CopyReader::default();
        reader.push(b"not a copy of anything");
        assert_eq!(read(&mut reader, &mut Vec::new()), Err(Malformed("no signature")));
    }
}
