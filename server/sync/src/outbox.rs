//! The way to one client: a queue of messages that a socket task writes.
//!
//! The queue takes whole batches (a poke is one), so that they leave in one write. It counts bytes: a
//! sender asks [`Outbox::has_room`] before it builds a poke, and a client that is too slow for its queue
//! is left out of pokes until it has room again; it is then caught up from its record. So what waits for
//! a client is bounded by [`ROOM_BYTES`] and one poke, however slow the client and however busy the
//! database.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use tokio::sync::{Notify, mpsc};
use zql_spec::protocol::downstream::Downstream;
use zql_spec::protocol::error::ErrorBody;

/// Bytes that may wait before no further poke is queued. A poke of a busy list is a few kilobytes, so this
/// is seconds of backlog; a thousand stalled clients hold 4 GB at worst, and usually far less because
/// the kernel's buffers come first.
pub(crate) const ROOM_BYTES: usize = 4 << 20;

/// One message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Frame {
    /// JSON, as nearly all messages are.
    Text(String),
    /// A piece of a poke, for clients that take them.
    Binary(Vec<u8>),
}

impl Frame {
    /// Bytes of the message.
    pub(crate) fn len(&self) -> usize {
        match self {
            Frame::Text(text) => text.len(),
            Frame::Binary(bytes) => bytes.len(),
        }
    }
}

impl From<String> for Frame {
    fn from(text: String) -> Self {
        Frame::Text(text)
    }
}

/// What a socket task is told to do.
#[derive(Debug)]
pub(crate) enum Outgoing {
    /// Write these messages, in one go.
    Messages(Vec<Frame>),
    /// Say why, if there is something to say, and close.
    Close {
        /// The last message.
        error: Option<Box<ErrorBody>>,
        /// Code and reason of the close frame.
        code: Option<(u16, String)>,
    },
}

#[derive(Debug, Default)]
struct Shared {
    queued: AtomicUsize,
    /// Somebody wants to know when there is room again.
    waiting: AtomicBool,
    room: Notify,
}

/// The sending side.
#[derive(Clone, Debug)]
pub(crate) struct Outbox {
    shared: Arc<Shared>,
    sender: mpsc::UnboundedSender<Outgoing>,
}

/// The receiving side, held by the socket task.
#[derive(Debug)]
pub(crate) struct OutboxReceiver {
    shared: Arc<Shared>,
    receiver: mpsc::UnboundedReceiver<Outgoing>,
}

/// A queue to a client.
pub(crate) fn outbox() -> (Outbox, OutboxReceiver) {
    let shared = Arc::<Shared>::default();
    // Bounded by bytes through `has_room`, which a count of batches would not be.
    let (sender, receiver) = mpsc::unbounded_channel();
    (Outbox { shared: Arc::clone(&shared), sender }, OutboxReceiver { shared, receiver })
}

impl Outbox {
    /// Whether another poke may be queued.
    pub(crate) fn has_room(&self) -> bool {
        self.shared.queued.load(Ordering::Acquire) < ROOM_BYTES
    }

    /// Asks for one call of the socket task's room signal when everything queued so far is written.
    pub(crate) fn ask_for_room(&self) {
        self.shared.waiting.store(true, Ordering::Release);
    }

    /// Waits until another message of the client may be answered.
    pub(crate) async fn room(&self) {
        loop {
            let notified = self.shared.room.notified();
            if self.has_room() || self.sender.is_closed() {
                return;
            }
            notified.await;
        }
    }

    /// Queues messages to be written in one go. Nothing happens when the connection is over.
    pub(crate) fn send(&self, messages: Vec<Frame>) {
        let bytes = messages.iter().map(Frame::len).sum();
        self.shared.queued.fetch_add(bytes, Ordering::AcqRel);
        // A closed queue means that the socket is gone, which its task reports by itself.
        let _ = self.sender.send(Outgoing::Messages(messages));
    }

    /// Queues one message.
    pub(crate) fn send_one(&self, message: &Downstream) {
        self.send(vec![message.to_json().into()]);
    }

    /// Closes the connection without a word.
    pub(crate) fn close(&self) {
        let _ = self.sender.send(Outgoing::Close { error: None, code: None });
    }

    /// Says what is wrong and closes the connection.
    pub(crate) fn fail(&self, error: impl Into<Box<ErrorBody>>) {
        let _ = self.sender.send(Outgoing::Close { error: Some(error.into()), code: None });
    }

    /// Closes the connection with a code, after saying what is wrong if there is something to say.
    pub(crate) fn close_with(&self, error: Option<Box<ErrorBody>>, code: u16, reason: String) {
        let _ = self.sender.send(Outgoing::Close { error, code: Some((code, reason)) });
    }

    /// Waits until the socket is gone, or closed from this side.
    pub(crate) async fn closed(&self) {
        self.sender.closed().await;
    }

    /// Whether the socket is gone.
    pub(crate) fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }
}

impl OutboxReceiver {
    /// The next batch.
    pub(crate) async fn recv(&mut self) -> Option<Outgoing> {
        self.receiver.recv().await
    }

    /// The next batch, if one waits.
    pub(crate) fn try_recv(&mut self) -> Option<Outgoing> {
        self.receiver.try_recv().ok()
    }

    /// Notes that so many bytes are written; true when somebody waits for room and there is some now.
    pub(crate) fn written(&self, bytes: usize) -> bool {
        let left = self.shared.queued.fetch_sub(bytes, Ordering::AcqRel) - bytes;
        if left < ROOM_BYTES {
            self.shared.room.notify_waiters();
        }
        left == 0 && self.shared.waiting.swap(false, Ordering::AcqRel)
    }
}

impl Drop for OutboxReceiver {
    fn drop(&mut self) {
        self.receiver.close();
        self.shared.room.notify_waiters();
    }
}
