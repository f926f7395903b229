//! Messages out of a byte stream (RFC 3261 section 18.3): by Content-Length, with keep-alives of RFC 5626.

use bytes::{Buf, Bytes, BytesMut};

use crate::{
    message::Message,
    parse::{Head, MAX_MESSAGE_BYTES, find_head_end, read_head},
    reject::{DropReason, Rejection, Unacceptable},
};

/// What a stream holds.
#[derive(Debug)]
pub enum Frame {
    /// A message.
    Message(Box<Message>),
    /// CR LF CR LF: answer with CR LF.
    Ping,
    /// CR LF: the answer to our ping, or padding between messages; nothing to do.
    Pong,
    /// A request to answer with an error; then close the connection if `close` (where the next message begins is not
    /// known).
    Rejected {
        /// The answer.
        rejection: Box<Rejection>,
        /// Close after the answer.
        close: bool,
    },
    /// Something to ignore; close the connection if `close`.
    Dropped {
        /// Why.
        reason: DropReason,
        /// Close.
        close: bool,
    },
}

/// Cuts a stream into messages. Holds at most one message and what was pushed with it; the work is linear in the bytes
/// however they are sliced. Idle and slow-sender time-outs are the caller's: see [`StreamFramer::is_mid_message`].
#[derive(Debug, Default)]
pub struct StreamFramer {
    buffer: BytesMut,
    /// Bytes already searched for the end of a head.
    searched: usize,
    /// A head whose body has not come yet, and the body's length.
    head: Option<(Head, usize)>,
    closed: bool,
}

impl StreamFramer {
    /// Empty.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes bytes from the stream. Drain [`StreamFramer::next_frame`] after each push, which keeps the buffer below one
    /// message and one push. After a frame with `close` everything is ignored.
    pub fn push(&mut self, bytes: &[u8]) {
        if !self.closed {
            self.buffer.extend_from_slice(bytes);
        }
    }

    /// Bytes held.
    pub fn buffered(&self) -> usize {
        self.buffer.len()
    }

    /// A message has begun and not ended: give it a time limit.
    pub fn is_mid_message(&self) -> bool {
        self.head.is_some() || !self.buffer.is_empty()
    }

    /// The next complete frame, or `None` until more bytes come.
    pub fn next_frame(&mut self) -> Option<Frame> {
        if self.closed {
            return None;
        }
        if let Some((_, length)) = &self.head {
            return if self.buffer.len() >= *length { self.complete() } else { None };
        }
        if self.searched == 0 {
            if self.buffer.starts_with(b"\r\n\r\n") {
                self.buffer.advance(4);
                return Some(Frame::Ping);
            }
            if self.buffer.starts_with(b"\r\n") {
                self.buffer.advance(2);
                return Some(Frame::Pong);
            }
        }
        let Some(end) = find_head_end(&self.buffer, self.searched) else {
            // The last three bytes may be the beginning of the empty line.
            self.searched = self.buffer.len().saturating_sub(3);
            return (self.buffer.len() > MAX_MESSAGE_BYTES)
                .then(|| self.give_up(513, "Message is too large"));
        };
        self.searched = 0;
        let head = self.buffer.split_to(end).freeze();
        self.buffer.advance(4);
        let read = read_head(&head);
        match read.headers.content_length() {
            Ok(Some(length)) if end + 4 + length <= MAX_MESSAGE_BYTES => {
                self.head = Some((read, length));
                self.next_frame()
            }
            Ok(Some(_)) => Some(self.close(read, 513, "Message is too large")),
            Ok(None) => Some(self.close(read, 400, "Content-Length is required on a stream")),
            Err(_) => Some(self.close(read, 400, "Content-Length is malformed or repeated")),
        }
    }

    fn complete(&mut self) -> Option<Frame> {
        let (head, length) = self.head.take()?;
        let body = self.buffer.split_to(length).freeze();
        Some(match head.finish(body, None) {
            Ok(message) => Frame::Message(Box::new(message)),
            Err(Unacceptable::Reject(rejection)) => Frame::Rejected { rejection, close: false },
            // Without a Via, whatever this is, it is not SIP.
            Err(Unacceptable::Drop(reason)) => Frame::Dropped { reason, close: reason == DropReason::NoVia },
        })
    }

    /// The stream ended, or the sender took too long: what to answer to a message that had begun.
    pub fn end(&mut self) -> Option<Frame> {
        if self.closed || !self.is_mid_message() {
            return None;
        }
        Some(self.give_up(400, "Message is incomplete"))
    }

    fn give_up(&mut self, status: u16, problem: &'static str) -> Frame {
        let head = match self.head.take() {
            Some((head, _)) => head,
            None => {
                let length = self.buffer.len().min(MAX_MESSAGE_BYTES);
                read_head(&self.buffer.split_to(length).freeze())
            }
        };
        self.close(head, status, problem)
    }

    fn close(&mut self, head: Head, status: u16, problem: &'static str) -> Frame {
        self.closed = true;
        self.buffer = BytesMut::new();
        match head.finish(Bytes::new(), Some(problem)) {
            Err(Unacceptable::Reject(mut rejection)) => {
                if rejection.status == 400 {
                    rejection.status = status;
                }
                Frame::Rejected { rejection, close: true }
            }
            Err(Unacceptable::Drop(reason)) => Frame::Dropped { reason, close: true },
            // A fault never yields a message; were it to, dropping it is the safe end.
            Ok(_) => Frame::Dropped { reason: DropReason::Malformed(problem), close: true },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OPTIONS: &str = "OPTIONS sip:c@d SIP/2.0\r\nVia: SIP/2.0/TCP h;branch=z9hG4bK1\r\nFrom: sip:a@b;tag=1\r\n\
        To: sip:c@d\r\nCall-ID: x\r\nCSeq: 1 OPTIONS\r\n";

    fn frames(framer: &mut StreamFramer) -> Vec<Frame> {
        std::iter::from_fn(|| framer.next_frame()).collect()
    }

    #[test]
    fn byte_by_byte_and_at_once_are_the_same() {
        let stream = format!("\r\n\r\n{OPTIONS}Content-Length: 3\r\n\r\nabc{OPTIONS}l: 0\r\n\r\n\r\n");
        let mut whole = StreamFramer::new();
        whole.push(stream.as_bytes());
        let all = frames(&mut whole);
        assert!(
            matches!(all.as_slice(), [Frame::Ping, Frame::Message(_), Frame::Message(_), Frame::Pong]),
            "{all:?}"
        );
        let mut slow = StreamFramer::new();
        let mut messages = 0;
        for byte in stream.as_bytes() {
            slow.push(&[*byte]);
            messages += frames(&mut slow).iter().filter(|frame| matches!(frame, Frame::Message(_))).count();
        }
        assert_eq!((messages, slow.is_mid_message()), (2, false));
    }

    #[test]
    fn a_bad_message_with_a_known_length_keeps_the_connection() {
        let mut framer = StreamFramer::new();
        framer.push(format!("{OPTIONS}To: sip:e@f\r\nl: 0\r\n\r\n{OPTIONS}l: 0\r\n\r\n").as_bytes());
        let all = frames(&mut framer);
        assert!(
            matches!(all.as_slice(), [Frame::Rejected { close: false, .. }, Frame::Message(_)]),
            "{all:?}"
        );
    }

    #[test]
    fn an_unknown_length_ends_the_connection_with_an_answer() {
        for (header, status) in
            [("", 400), ("l: -1\r\n", 400), ("l: 1\r\nl: 2\r\n", 400), ("l: 99999\r\n", 513)]
        {
            let mut framer = StreamFramer::new();
            framer.push(format!("{OPTIONS}{header}\r\n").as_bytes());
            let all = frames(&mut framer);
            let [Frame::Rejected { rejection, close: true }] = all.as_slice() else {
                panic!("{header:?} {all:?}")
            };
            assert_eq!(rejection.status, status, "{header:?}");
            framer.push(&[b'x'; 100_000]);
            assert_eq!(framer.buffered(), 0);
        }
    }

    #[test]
    fn endless_heads_and_short_bodies_end() {
        let mut framer = StreamFramer::new();
        framer.push(OPTIONS.as_bytes());
        let mut ended = false;
        for _ in 0..100 {
            framer.push(&[b'a'; 1_000]);
            ended |= frames(&mut framer).iter().any(|frame| matches!(frame, Frame::Rejected { rejection, close: true } if rejection.status == 513));
        }
        assert!(ended);
        let mut short = StreamFramer::new();
        short.push(format!("{OPTIONS}l: 10\r\n\r\nabc").as_bytes());
        assert!(short.next_frame().is_none() && short.is_mid_message());
        assert!(
            matches!(short.end(), Some(Frame::Rejected { rejection, close: true }) if rejection.status == 400)
        );
        assert!(short.end().is_none());
    }
}
