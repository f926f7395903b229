//! Who owes an SDP answer (RFC 3264 section 4, RFC 3261 section 14, RFC 3311 section 5). The SDP itself is not looked at.

/// One end of a dialog.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Side {
    /// We.
    Local,
    /// The peer.
    Remote,
}

/// An offer or answer at the wrong moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum OfferError {
    /// Both sides offered: each refuses the other's with 491 and tries again after its own pause.
    #[error("offers crossed: our offer is not answered yet")]
    Glare,
    /// The peer offered again before we answered.
    #[error("peer offered again before its first offer was answered")]
    Unanswered,
    /// We may not offer: an offer is open.
    #[error("an offer is open: wait for its answer")]
    Open,
    /// An answer without an offer.
    #[error("answer without an offer")]
    NoOffer,
}

impl OfferError {
    /// The status that refuses the peer's request: 491 for glare, 500 (with Retry-After of 0 to 10 s) for an offer before
    /// the answer, 400 otherwise.
    pub const fn status(self) -> u16 {
        match self {
            Self::Glare => 491,
            Self::Unanswered | Self::Open => 500,
            Self::NoOffer => 400,
        }
    }
}

/// The offer/answer state of one dialog.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct OfferAnswer {
    /// Whose offer is open.
    open: Option<Side>,
    /// Exchanges completed.
    completed: u32,
}

impl OfferAnswer {
    /// No offer yet.
    pub const fn new() -> Self {
        Self { open: None, completed: 0 }
    }

    /// From a journal.
    pub const fn restored(open: Option<Side>, completed: u32) -> Self {
        Self { open, completed }
    }

    /// Whose offer waits for an answer.
    pub const fn open(&self) -> Option<Side> {
        self.open
    }

    /// Exchanges completed; 0 = there is no session yet.
    pub const fn completed(&self) -> u32 {
        self.completed
    }

    /// We offer (INVITE, re-INVITE, UPDATE; 2xx to an INVITE without SDP).
    ///
    /// # Errors
    /// [`OfferError::Open`].
    pub fn send_offer(&mut self) -> Result<(), OfferError> {
        match self.open {
            None => {
                self.open = Some(Side::Local);
                Ok(())
            }
            Some(_) => Err(OfferError::Open),
        }
    }

    /// The peer offers.
    ///
    /// # Errors
    /// [`OfferError::Glare`], [`OfferError::Unanswered`]: refuse the request with [`OfferError::status`].
    pub fn receive_offer(&mut self) -> Result<(), OfferError> {
        match self.open {
            None => {
                self.open = Some(Side::Remote);
                Ok(())
            }
            Some(Side::Local) => Err(OfferError::Glare),
            Some(Side::Remote) => Err(OfferError::Unanswered),
        }
    }

    /// We answer the peer's offer.
    ///
    /// # Errors
    /// [`OfferError::NoOffer`].
    pub fn send_answer(&mut self) -> Result<(), OfferError> {
        self.answer(Side::Remote)
    }

    /// The peer answers ours. Call it for the first answer only: a 183 and the 200 after it may carry the same one.
    ///
    /// # Errors
    /// [`OfferError::NoOffer`].
    pub fn receive_answer(&mut self) -> Result<(), OfferError> {
        self.answer(Side::Local)
    }

    fn answer(&mut self, offered: Side) -> Result<(), OfferError> {
        if self.open != Some(offered) {
            return Err(OfferError::NoOffer);
        }
        self.open = None;
        self.completed += 1;
        Ok(())
    }

    /// The request with the open offer failed: the session stays as it was.
    pub fn abandon(&mut self) {
        self.open = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offers_cross_and_are_answered_in_turn() {
        let mut state = OfferAnswer::new();
        state.receive_offer().unwrap();
        assert_eq!(state.receive_offer().map_err(OfferError::status), Err(500));
        assert_eq!(state.send_offer(), Err(OfferError::Open));
        state.send_answer().unwrap();
        state.send_offer().unwrap();
        assert_eq!(state.receive_offer().map_err(OfferError::status), Err(491));
        assert_eq!(state.send_answer(), Err(OfferError::NoOffer));
        state.abandon();
        assert_eq!((state.open(), state.completed()), (None, 1));
        state.send_offer().unwrap();
        state.receive_answer().unwrap();
        assert_eq!(state.completed(), 2);
    }
}
