//! WebSocket frames (RFC 6455): a connection that was upgraded as a stream and sink of messages.
//!
//! The library behind [`warp::ws`] keeps 128 KB a connection to read into and the largest message ever written, and has no
//! extensions. So frames are read and written here, by the library's own headers; an idle connection keeps
//! a kilobyte each way, and one that is granted it gets its messages compressed ([`deflate`]). It must not know what
//! messages say.

mod codec;
pub(crate) mod deflate;
mod socket;

pub(crate) use codec::CodecError;
pub(crate) use socket::Frames;
