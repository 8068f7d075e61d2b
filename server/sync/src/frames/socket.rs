//! A socket as a stream and sink of messages.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures::{Sink, Stream};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::bytes::BytesMut;
use tokio_util::codec::Framed;
use warp::filters::ws::Message;

use super::codec::{Codec, CodecError};
use super::deflate::Compression;

/// Bytes that a connection keeps to read into while it is idle, and as many to write from: what most messages of clients
/// fit into. A longer message has its own buffer while it is on its way.
const KEPT_BYTES: usize = 1024;

/// Bytes that are put together into one write.
const WRITE_BYTES: usize = 128 << 10;

/// See the module. Pings are answered by themselves.
pub(crate) struct Frames<T> {
    framed: Framed<T, Codec>,
    /// A pong that waits for room.
    pong: Option<Message>,
    closed: bool,
    /// Whether a long message was read, or written, since the buffer was last replaced.
    read_long: bool,
    wrote_long: bool,
}

impl<T: AsyncRead + AsyncWrite + Unpin> Frames<T> {
    /// On a connection that was upgraded, with what was granted to the client.
    pub(crate) fn new(connection: T, max_payload: usize, compression: Option<Compression>) -> Self {
        let mut framed = Framed::with_capacity(connection, Codec::new(max_payload, compression), KEPT_BYTES);
        framed.set_backpressure_boundary(WRITE_BYTES);
        *framed.write_buffer_mut() = BytesMut::new();
        Frames { framed, pong: None, closed: false, read_long: false, wrote_long: false }
    }

    /// Sends the pong that waits, as far as there is room.
    fn answer(&mut self, context: &mut Context<'_>) -> Result<(), CodecError> {
        if self.pong.is_some()
            && let Poll::Ready(ready) = Pin::new(&mut self.framed).poll_ready(context)
        {
            ready?;
            if let Some(pong) = self.pong.take() {
                Pin::new(&mut self.framed).start_send(pong)?;
            }
        }
        // What cannot be written now goes out with the next message.
        match Pin::new(&mut self.framed).poll_flush(context) {
            Poll::Ready(flushed) => flushed,
            Poll::Pending => Ok(()),
        }
    }

    /// Gives back what a long message needed.
    fn shrink_read_buffer(&mut self) {
        if self.read_long && self.framed.read_buffer().is_empty() {
            self.read_long = false;
            *self.framed.read_buffer_mut() = BytesMut::with_capacity(KEPT_BYTES);
        }
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> Stream for Frames<T> {
    type Item = Result<Message, CodecError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.closed {
            return Poll::Ready(None);
        }
        let next = Pin::new(&mut self.framed).poll_next(context);
        if next.is_pending() {
            self.shrink_read_buffer();
        }
        match ready!(next) {
            Some(Ok(message)) => {
                self.read_long |= message.as_bytes().len() > KEPT_BYTES;
                if message.is_ping() {
                    // A newer ping replaces one that was not answered yet (RFC 6455, 5.5.3).
                    self.pong = Some(Message::pong(message.as_bytes().to_vec()));
                    if let Err(error) = self.answer(context) {
                        return Poll::Ready(Some(Err(error)));
                    }
                }
                self.closed = message.is_close();
                Poll::Ready(Some(Ok(message)))
            }
            other => {
                self.closed = true;
                Poll::Ready(other)
            }
        }
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> Sink<Message> for Frames<T> {
    type Error = CodecError;

    fn poll_ready(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<(), CodecError>> {
        Pin::new(&mut self.framed).poll_ready(context)
    }

    fn start_send(mut self: Pin<&mut Self>, message: Message) -> Result<(), CodecError> {
        self.wrote_long |= self.framed.write_buffer().len() + message.as_bytes().len() > KEPT_BYTES;
        Pin::new(&mut self.framed).start_send(message)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<(), CodecError>> {
        ready!(Pin::new(&mut self.framed).poll_flush(context))?;
        if std::mem::take(&mut self.wrote_long) {
            *self.framed.write_buffer_mut() = BytesMut::new();
        }
        Poll::Ready(Ok(()))
    }

    fn poll_close(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<(), CodecError>> {
        Pin::new(&mut self.framed).poll_close(context)
    }
}

#[cfg(test)]
mod tests {
    use futures::{SinkExt, StreamExt};
    use tokio::io::AsyncWriteExt;
    use warp::filters::ws::Message;

    use super::{Frames, KEPT_BYTES};

    #[tokio::test]
    async fn an_idle_socket_keeps_little() {
        let (mut client, server) = tokio::io::duplex(1 << 20);
        let mut frames = Frames::new(server, 1 << 20, None);
        for length in [100_000, 10, 200_000] {
            frames.send(Message::text("x".repeat(length))).await.expect("sent");
            assert!(frames.framed.write_buffer().capacity() <= KEPT_BYTES, "{length}");
            // A client's frame, masked by zeros.
            let mut bytes = vec![0x81, 0x80 | 127];
            bytes.extend((length as u64).to_be_bytes());
            bytes.extend([0; 4]);
            bytes.resize(bytes.len() + length, b'y');
            client.write_all(&bytes).await.expect("sent");
            let message = frames.next().await.expect("a message").expect("good frames");
            assert_eq!(message.as_bytes().len(), length);
            assert!(futures::poll!(frames.next()).is_pending());
            assert!(frames.framed.read_buffer().capacity() <= KEPT_BYTES, "{length}");
        }
    }
}
