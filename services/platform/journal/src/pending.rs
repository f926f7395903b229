use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use tokio::sync::oneshot;

use crate::{AppendError, Appended};

/// An append under way. Its place in the order was taken when [`Journal::append`](crate::Journal::append) was called;
/// dropping this does not take it back.
#[derive(Debug)]
#[must_use = "an append is committed only when this says so"]
pub struct Pending(State);

#[derive(Debug)]
enum State {
    Decided(Option<Result<Appended, AppendError>>),
    Waiting(oneshot::Receiver<Result<Appended, AppendError>>),
}

impl Pending {
    /// One that is decided already.
    pub fn decided(result: Result<Appended, AppendError>) -> Self {
        Self(State::Decided(Some(result)))
    }

    /// One that will be decided by the other end of the channel; if that is dropped the outcome is ambiguous.
    pub fn waiting(receiver: oneshot::Receiver<Result<Appended, AppendError>>) -> Self {
        Self(State::Waiting(receiver))
    }
}

impl Future for Pending {
    type Output = Result<Appended, AppendError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let lost = || Err(AppendError::Ambiguous("the journal ended before it answered".to_owned()));
        match &mut self.0 {
            State::Decided(result) => Poll::Ready(result.take().unwrap_or_else(lost)),
            State::Waiting(receiver) => {
                Pin::new(receiver).poll(cx).map(|answer| answer.unwrap_or_else(|_| lost()))
            }
        }
    }
}
