use std::{collections::VecDeque, time::Duration};

use trunkline_sip::Uri;
use trunkline_types::{Machine, Outbox, Timestamp};

use crate::{
    event::{Binding, Changed, Event, NonceUse, Refreshed},
    request::{Request, Wanted, WantedContact},
};

/// Nonces whose counts are remembered: a telephone uses one for as long as it is good, and an account has few telephones.
const NONCES: usize = 16;

/// What an account may have, and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Shorter ones are refused.
    pub min_expires: Duration,
    /// For telephones that want none.
    pub default_expires: Duration,
    /// Longer ones are cut.
    pub max_expires: Duration,
    /// Contacts at once.
    pub max_contacts: usize,
}

/// A REGISTER whose credentials were checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Register {
    /// The edge that waits for the answer, and its name for the transaction.
    pub edge: String,
    /// See `edge`.
    pub transaction: String,
    /// What is asked for.
    pub request: Request,
    /// Where it came from.
    pub source: String,
    /// Over what.
    pub transport: String,
    /// Where in the range of expiries this one is granted, of 2^32.
    pub draw: u32,
    /// What its credentials used up.
    pub nonce: Option<NonceUse>,
    /// What the account may have.
    pub limits: Limits,
}

/// What an account is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// A telephone registers, refreshes, removes or asks.
    Register(Box<Register>),
    /// The account was taken away.
    Withdraw,
}

/// Why a request was refused; nothing has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// 423: at least so long.
    IntervalTooBrief(Duration),
    /// 403: at most so many.
    TooManyContacts(usize),
    /// 500: a later request was here before.
    OutOfOrder,
    /// 401: these credentials were used before.
    Replayed,
}

/// A binding as a telephone is told of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bound {
    /// Where.
    pub contact: Uri,
    /// For how many seconds more.
    pub expires_s: u32,
    /// Preference, thousandths.
    pub q: Option<u16>,
    /// `+sip.instance`; empty = none.
    pub instance: String,
    /// `reg-id`; 0 = none.
    pub reg_id: u32,
}

/// The answer to a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Done, or asked: all that is bound, the preferred first.
    Bound(Vec<Bound>),
    /// Refused.
    Refused(Refusal),
}

/// What an account wants done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Answer a request.
    Answer {
        /// The edge.
        edge: String,
        /// Its name for the request.
        transaction: String,
        /// The answer.
        outcome: Outcome,
        /// Something was journalled for it.
        changed: bool,
    },
    /// Show these bindings to people: they are committed.
    Show(Vec<Binding>),
}

/// A telephone's account.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Telephone {
    bindings: Vec<Binding>,
    /// Ids below were used.
    next: u32,
    /// The oldest first.
    nonces: VecDeque<NonceUse>,
}

/// An account's state, for a snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// What is bound.
    pub bindings: Vec<Binding>,
    /// Ids below were used.
    pub next: u32,
    /// The oldest first.
    pub nonces: Vec<NonceUse>,
}

impl Telephone {
    /// One that was never registered.
    pub fn new() -> Self {
        Self::default()
    }

    /// What is bound.
    pub fn bindings(&self) -> &[Binding] {
        &self.bindings
    }

    /// Its state.
    pub fn snapshot(&self) -> Snapshot {
        Snapshot {
            bindings: self.bindings.clone(),
            next: self.next,
            nonces: self.nonces.iter().copied().collect(),
        }
    }

    /// From its state.
    pub fn restore(snapshot: Snapshot) -> Self {
        let Snapshot { bindings, next, nonces } = snapshot;
        Self { bindings, next, nonces: nonces.into() }
    }

    fn register(&mut self, now: Timestamp, register: Register, out: &mut Outbox<Event, Effect>) {
        let decided = self.decide(now, &register);
        let changed = matches!(decided, Ok(Some(_)));
        let outcome = match decided {
            Err(refusal) => Outcome::Refused(refusal),
            Ok(None) => Outcome::Bound(self.bound(now)),
            Ok(Some(changed)) => {
                self.decided(Event::Changed { at: now, changed }, out);
                Outcome::Bound(self.bound(now))
            }
        };
        let Register { edge, transaction, .. } = register;
        out.effect(Effect::Answer { edge, transaction, outcome, changed });
    }

    fn decided(&mut self, event: Event, out: &mut Outbox<Event, Effect>) {
        self.apply(&event);
        out.event(event);
        out.effect(Effect::Show(self.bindings.clone()));
    }

    /// What a request changes; `None` = nothing. All of it or nothing (RFC 3261 section 10.3 step 7).
    fn decide(&self, now: Timestamp, register: &Register) -> Result<Option<Changed>, Refusal> {
        let mut draft = Draft { after: self.bindings.clone(), next: self.next, now, register, is_new: false };
        match &register.request.wanted {
            Wanted::Query => return Ok(None),
            Wanted::RemoveAll => draft.remove_all()?,
            Wanted::Contacts(contacts) => {
                draft.is_long_enough(contacts)?;
                contacts.iter().try_for_each(|contact| draft.take(contact))?;
            }
        }
        // What came before, and was answered before, is answered again whatever its credentials are by now.
        if !draft.is_new {
            return Ok(None);
        }
        if let Some(nonce) = register.nonce
            && self.nonces.iter().any(|used| used.nonce == nonce.nonce && used.count >= nonce.count)
        {
            return Err(Refusal::Replayed);
        }
        let most = register.limits.max_contacts;
        if draft.after.len() > most && draft.after.len() > self.bindings.len() {
            return Err(Refusal::TooManyContacts(most));
        }
        Ok(Some(self.difference(draft.after, register.nonce)))
    }

    fn difference(&self, after: Vec<Binding>, nonce: Option<NonceUse>) -> Changed {
        let mut changed = Changed { nonce, ..Changed::default() };
        let gone = |before: &&Binding| after.iter().all(|binding| binding.id != before.id);
        changed.removed = self.bindings.iter().filter(gone).map(|binding| binding.id).collect();
        for binding in after {
            match self.bindings.iter().find(|before| before.id == binding.id) {
                Some(before) if *before == binding => {}
                Some(before) if before.is_refreshed_by(&binding) => changed.refreshed.push(Refreshed {
                    id: binding.id,
                    expires_at: binding.expires_at,
                    cseq: binding.cseq,
                }),
                _ => changed.set.push(binding),
            }
        }
        changed
    }

    /// All that is bound, the preferred first, then the latest.
    fn bound(&self, now: Timestamp) -> Vec<Bound> {
        let mut bindings: Vec<&Binding> = self.bindings.iter().collect();
        bindings.sort_by_key(|binding| std::cmp::Reverse((binding.q.unwrap_or(1_000), binding.since)));
        let bound = |binding: &Binding| Bound {
            contact: binding.contact.clone(),
            expires_s: u32::try_from(binding.expires_at.since(now).as_secs()).unwrap_or(u32::MAX).max(1),
            q: binding.q,
            instance: binding.instance.clone(),
            reg_id: binding.reg_id,
        };
        bindings.into_iter().map(bound).collect()
    }

    fn note(&mut self, nonce: NonceUse) {
        if let Some(used) = self.nonces.iter_mut().find(|used| used.nonce == nonce.nonce) {
            used.count = used.count.max(nonce.count);
            return;
        }
        if self.nonces.len() >= NONCES {
            self.nonces.pop_front();
        }
        self.nonces.push_back(nonce);
    }
}

/// The bindings as a request would leave them.
struct Draft<'a> {
    after: Vec<Binding>,
    next: u32,
    now: Timestamp,
    register: &'a Register,
    /// Something in the request was not here before.
    is_new: bool,
}

impl Draft<'_> {
    fn is_long_enough(&self, contacts: &[WantedContact]) -> Result<(), Refusal> {
        let least = self.register.limits.min_expires;
        let is_brief = |wanted: Duration| !wanted.is_zero() && wanted < least;
        if contacts.iter().any(|contact| contact.expires.is_some_and(is_brief)) {
            return Err(Refusal::IntervalTooBrief(least));
        }
        Ok(())
    }

    /// Whether the request comes after the one that a binding is from. `false`: it is that one, again.
    fn is_after(&self, binding: &Binding) -> Result<bool, Refusal> {
        let request = &self.register.request;
        if binding.call_id != request.call_id {
            return Ok(true);
        }
        match request.cseq.cmp(&binding.cseq) {
            std::cmp::Ordering::Greater => Ok(true),
            std::cmp::Ordering::Equal => Ok(false),
            std::cmp::Ordering::Less => Err(Refusal::OutOfOrder),
        }
    }

    fn remove_all(&mut self) -> Result<(), Refusal> {
        for binding in &self.after {
            if !self.is_after(binding)? {
                return Err(Refusal::OutOfOrder);
            }
        }
        self.is_new = !self.after.is_empty();
        self.after.clear();
        Ok(())
    }

    /// The binding that a contact means: that of the same telephone, or of the same address.
    fn of(&self, contact: &WantedContact) -> Option<usize> {
        let same_telephone = |binding: &Binding| {
            !contact.instance.is_empty()
                && (&binding.instance, binding.reg_id) == (&contact.instance, contact.reg_id)
        };
        let by_telephone = self.after.iter().position(same_telephone);
        by_telephone.or_else(|| self.after.iter().position(|binding| binding.contact.matches(&contact.uri)))
    }

    fn take(&mut self, contact: &WantedContact) -> Result<(), Refusal> {
        let at = self.of(contact);
        if let Some(at) = at
            && !self.is_after(&self.after[at])?
        {
            return Ok(());
        }
        if contact.expires == Some(Duration::ZERO) {
            if let Some(at) = at {
                self.after.remove(at);
                self.is_new = true;
            }
            return Ok(());
        }
        self.is_new = true;
        let (id, since) = match at {
            Some(at) => (self.after[at].id, self.after[at].since),
            None => (self.next, self.now),
        };
        self.next = self.next.max(id.saturating_add(1));
        let binding = self.binding(contact, id, since);
        match at {
            Some(at) => self.after[at] = binding,
            None => self.after.push(binding),
        }
        // The telephone has moved to an address that was bound without its name.
        self.after.retain(|other| other.id == id || !other.contact.matches(&contact.uri));
        Ok(())
    }

    fn binding(&self, contact: &WantedContact, id: u32, since: Timestamp) -> Binding {
        let Register { edge, request, source, transport, draw, limits, .. } = self.register;
        Binding {
            id,
            contact: contact.uri.clone(),
            call_id: request.call_id.clone(),
            cseq: request.cseq,
            expires_at: self.now.plus(granted(contact.expires, *draw, limits)),
            since,
            q: contact.q,
            instance: contact.instance.clone(),
            reg_id: contact.reg_id,
            source: source.clone(),
            transport: transport.clone(),
            edge: edge.clone(),
            path: request.path.clone(),
            user_agent: request.user_agent.clone(),
        }
    }
}

/// Three quarters to all of what is wanted, in whole seconds, by the draw: telephones that were lost together (an edge died,
/// the power came back) register together and would come back together for ever; so they drift apart.
fn granted(wanted: Option<Duration>, draw: u32, limits: &Limits) -> Duration {
    let most = wanted.unwrap_or(limits.default_expires).min(limits.max_expires).as_secs();
    let least = (most - most / 4).max(limits.min_expires.as_secs()).min(most);
    let width = u128::from(most - least + 1);
    let drawn = (width * u128::from(draw)) >> 32;
    Duration::from_secs(least + u64::try_from(drawn).unwrap_or(0))
}

impl Machine for Telephone {
    type Input = Input;
    type Event = Event;
    type Effect = Effect;

    fn handle(&mut self, now: Timestamp, input: Input, out: &mut Outbox<Event, Effect>) {
        match input {
            Input::Register(register) => self.register(now, *register, out),
            Input::Withdraw if self.bindings.is_empty() => {}
            Input::Withdraw => self.decided(Event::Withdrawn { at: now }, out),
        }
    }

    fn advance(&mut self, now: Timestamp, out: &mut Outbox<Event, Effect>) {
        let over = |binding: &&Binding| binding.expires_at <= now;
        let removed: Vec<u32> = self.bindings.iter().filter(over).map(|binding| binding.id).collect();
        if !removed.is_empty() {
            self.decided(Event::Expired { at: now, removed }, out);
        }
    }

    fn next_deadline(&self) -> Option<Timestamp> {
        self.bindings.iter().map(|binding| binding.expires_at).min()
    }

    fn apply(&mut self, event: &Event) {
        match event {
            Event::Changed { changed, .. } => {
                self.bindings.retain(|binding| !changed.removed.contains(&binding.id));
                for new in &changed.set {
                    self.next = self.next.max(new.id.saturating_add(1));
                    match self.bindings.iter_mut().find(|binding| binding.id == new.id) {
                        Some(binding) => binding.clone_from(new),
                        None => self.bindings.push(new.clone()),
                    }
                }
                for refreshed in &changed.refreshed {
                    if let Some(binding) = self.bindings.iter_mut().find(|b| b.id == refreshed.id) {
                        (binding.expires_at, binding.cseq) = (refreshed.expires_at, refreshed.cseq);
                    }
                }
                changed.nonce.into_iter().for_each(|nonce| self.note(nonce));
            }
            Event::Expired { removed, .. } => self.bindings.retain(|binding| !removed.contains(&binding.id)),
            Event::Withdrawn { .. } => self.bindings.clear(),
        }
    }

    fn recovered(&mut self, _: Timestamp, out: &mut Outbox<Event, Effect>) {
        out.effect(Effect::Show(self.bindings.clone()));
    }
}
