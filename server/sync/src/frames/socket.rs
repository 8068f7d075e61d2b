//! A compressed socket as a stream and sink of messages, like the library's.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures::{Sink, Stream};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::codec::Framed;
use warp::filters::ws::Message;

use super::Compression;
use super::codec::{Codec, CodecError};

/// See the module. Pings are answered by themselves, as the library does.
pub(crate) struct Compressed<T> {
    framed: Framed<T, Codec>,
    /// A pong that waits for room.
    pong: Option<Message>,
    closed: bool,
}

impl<T: AsyncRead + AsyncWrite + Unpin> Compressed<T> {
    /// On a connection that was upgraded.
    pub(crate) fn new(connection: T, max_payload: usize, compression: Compression) -> Self {
        Compressed { framed: Framed::new(connection, Codec::new(max_payload, compression)), pong: None, closed: false }
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
}

impl<T: AsyncRead + AsyncWrite + Unpin> Stream for Compressed<T> {
    type Item = Result<Message, CodecError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.closed {
            return Poll::Ready(None);
        }
        match ready!(Pin::new(&mut self.framed).poll_next(context)) {
            Some(Ok(message)) => {
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

impl<T: AsyncRead + AsyncWrite + Unpin> Sink<Message> for Compressed<T> {
    type Error = CodecError;

    fn poll_ready(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<(), CodecError>> {
        Pin::new(&mut self.framed).poll_ready(context)
    }

    fn start_send(mut self: Pin<&mut Self>, message: Message) -> Result<(), CodecError> {
        Pin::new(&mut self.framed).start_send(message)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<(), CodecError>> {
        Pin::new(&mut self.framed).poll_flush(context)
    }

    fn poll_close(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<(), CodecError>> {
        Pin::new(&mut self.framed).poll_close(context)
    }
}
