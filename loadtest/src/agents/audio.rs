//! The audio of one agent: a connection for each call, and new ones when media moves or breaks.

use std::{
    net::IpAddr,
    sync::{Arc, PoisonError},
    time::{Duration, Instant},
};

use anyhow::Result;
use serde_json::{Value, json};

use super::browser_offer;
use crate::{
    phone::{Ear, Phone, Tones},
    rtp::Heard,
};

/// An audio connection that is not there after this is made anew.
const WITHIN: Duration = Duration::from_secs(5);
/// A connection that breaks earlier was never good: it is not made again at once.
const YOUNG: Duration = Duration::from_millis(500);

/// An agent's microphone and ear.
#[derive(Debug, Default)]
pub struct Audio {
    bind: Option<IpAddr>,
    /// `None`: nobody has a microphone, the offers lead nowhere.
    tones: Option<Tones>,
    ear: Ear,
    phone: Option<(Phone, Instant)>,
    /// Keeps talking until the new connection stands, when media moves as planned.
    former: Option<Phone>,
    /// Media moved: whoever has no real audio answers as well.
    remake: bool,
    /// Offer and count of the last move of media that was followed.
    moved: (String, u64),
}

impl Audio {
    /// Another call begins, which `ear` hears.
    pub fn begin(&mut self, bind: IpAddr, tones: Option<Tones>, ear: Ear) {
        let moved = std::mem::take(&mut self.moved);
        *self = Self { bind: Some(bind), tones, ear, moved, ..Self::default() };
    }

    /// An SDP offer of a new connection.
    ///
    /// # Errors
    /// When there is no socket for it.
    pub async fn offer(&mut self) -> Result<String> {
        self.remake = false;
        let (Some(tones), Some(bind)) = (self.tones, self.bind) else { return Ok(browser_offer()) };
        let phone = Phone::new(bind, tones, Arc::clone(&self.ear)).await?;
        let offer = phone.offer.clone();
        self.phone = Some((phone, Instant::now()));
        Ok(offer)
    }

    /// The answer to the last offer.
    pub fn answered(&mut self, sdp: &str) {
        if let Some((phone, _)) = &mut self.phone {
            phone.answered(sdp);
        }
    }

    /// A new connection was refused: another one is tried.
    pub fn refused(&mut self) {
        (self.phone, self.remake) = (None, true);
    }

    /// What `media_moved` or the state says: the media node is gone or drains. A new connection once for each move;
    /// true: this one is new.
    pub fn follow(&mut self, offer: &str, generation: u64) -> bool {
        let moved = (offer.to_owned(), generation);
        let new = generation > 0 && (moved.0 != self.moved.0 || moved.1 > self.moved.1);
        if new {
            self.moved = moved;
            self.former = self.phone.take().map(|(phone, _)| phone);
            self.remake = true;
        }
        new
    }

    /// Whether a new connection is needed in a call that goes on.
    pub fn is_missing(&mut self) -> bool {
        if self.phone.as_ref().is_some_and(|(_, since)| since.elapsed() > WITHIN) {
            self.former = None;
        }
        let broken = self.phone.as_ref().is_none_or(|(phone, since)| {
            phone.is_broken() && since.elapsed() > YOUNG || !phone.has_answer() && since.elapsed() > WITHIN
        });
        self.remake || self.tones.is_some() && broken
    }

    /// The call is over: what was heard, when somebody listened.
    pub fn end(&mut self) -> Option<Heard> {
        (self.phone, self.former, self.remake) = (None, None, false);
        self.tones?;
        Some(self.ear.lock().unwrap_or_else(PoisonError::into_inner).clone())
    }
}

/// Data of `media_resume`.
pub fn resume(sdp: &str) -> Value {
    json!({ "sdp": sdp, "take_over": false })
}
