//! The client machines: INVITE (RFC 6026 figure 3) and non-INVITE (RFC 3261 figure 6).

use std::time::Duration;

use trunkline_types::Timestamp;

use super::{Class, Effects, Times};

/// Input of a client machine.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum ClientInput {
    Response(Class),
    TransportError,
    /// A deadline has come.
    Timer,
    /// The user gave the INVITE up: a final response must come within 64·T1 (RFC 3261 section 9.1).
    Cancelled,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Retransmission {
    at: Timestamp,
    interval: Duration,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum InviteState {
    /// Timers A (unreliable only) and B.
    Calling {
        a: Option<Retransmission>,
        b: Timestamp,
    },
    /// `c`: our limit, see `TransactionConfig::proceeding_limit`.
    Proceeding {
        c: Timestamp,
    },
    /// Timer M: further 2xx pass.
    Accepted {
        m: Timestamp,
    },
    /// Timer D: repeated failures are acknowledged.
    Completed {
        d: Timestamp,
    },
    Terminated,
}

/// INVITE client.
#[derive(Clone, Debug)]
pub(super) struct InviteClient {
    state: InviteState,
    cancelled: bool,
}

impl InviteClient {
    pub(super) fn new(now: Timestamp, times: &Times, reliable: bool) -> Self {
        let a = (!reliable).then(|| Retransmission { at: now + times.t1, interval: times.t1 });
        Self { state: InviteState::Calling { a, b: now + times.life() }, cancelled: false }
    }

    pub(super) fn deadline(&self) -> Option<Timestamp> {
        match self.state {
            InviteState::Calling { a, b } => Some(a.map_or(b, |a| a.at.min(b))),
            InviteState::Proceeding { c: at }
            | InviteState::Accepted { m: at }
            | InviteState::Completed { d: at } => Some(at),
            InviteState::Terminated => None,
        }
    }

    /// No final response yet.
    pub(super) fn is_open(&self) -> bool {
        matches!(self.state, InviteState::Calling { .. } | InviteState::Proceeding { .. })
    }

    pub(super) fn is_proceeding(&self) -> bool {
        matches!(self.state, InviteState::Proceeding { .. })
    }

    pub(super) fn is_accepted(&self) -> bool {
        matches!(self.state, InviteState::Accepted { .. })
    }

    pub(super) fn handle(
        &mut self,
        now: Timestamp,
        times: &Times,
        reliable: bool,
        input: ClientInput,
    ) -> Effects {
        use InviteState as S;
        let mut effects = Effects::default();
        match (self.state, input) {
            (S::Calling { .. } | S::Proceeding { .. }, ClientInput::Response(class)) => {
                effects.deliver = true;
                match class {
                    Class::Provisional => self.provisional(now, times),
                    Class::Success => self.state = S::Accepted { m: now + times.life() },
                    Class::Failure => {
                        effects.acknowledge = true;
                        self.complete(now, times, reliable, &mut effects);
                    }
                }
            }
            (S::Accepted { .. }, ClientInput::Response(Class::Success)) => effects.deliver = true,
            (S::Completed { .. }, ClientInput::Response(Class::Failure)) => effects.acknowledge = true,
            (S::Calling { a, b }, ClientInput::Timer) => {
                if now >= b {
                    effects.timeout = true;
                    self.terminate(&mut effects);
                } else if let Some(a) = a.filter(|a| now >= a.at) {
                    // Timer A doubles without a cap (RFC 3261 section 17.1.1.2).
                    let interval = a.interval * 2;
                    self.state = S::Calling { a: Some(Retransmission { at: now + interval, interval }), b };
                    effects.resend = true;
                }
            }
            (S::Proceeding { c }, ClientInput::Timer) if now >= c => {
                effects.timeout = true;
                self.terminate(&mut effects);
            }
            (S::Accepted { m: at } | S::Completed { d: at }, ClientInput::Timer) if now >= at => {
                self.terminate(&mut effects);
            }
            (S::Calling { .. } | S::Proceeding { .. } | S::Completed { .. }, ClientInput::TransportError) => {
                effects.transport_error = true;
                self.terminate(&mut effects);
            }
            (S::Proceeding { c }, ClientInput::Cancelled) => {
                self.cancelled = true;
                self.state = S::Proceeding { c: c.min(now + times.life()) };
            }
            (S::Calling { .. }, ClientInput::Cancelled) => self.cancelled = true,
            _ => {}
        }
        effects
    }

    fn provisional(&mut self, now: Timestamp, times: &Times) {
        let limit = if self.cancelled { times.life() } else { times.proceeding };
        let c = match self.state {
            // After a CANCEL further provisionals do not buy time.
            InviteState::Proceeding { c } if self.cancelled => c,
            _ => now + limit,
        };
        self.state = InviteState::Proceeding { c };
    }

    fn complete(&mut self, now: Timestamp, times: &Times, reliable: bool, effects: &mut Effects) {
        if reliable {
            self.terminate(effects);
        } else {
            self.state = InviteState::Completed { d: now + times.life().max(Duration::from_secs(32)) };
        }
    }

    fn terminate(&mut self, effects: &mut Effects) {
        self.state = InviteState::Terminated;
        effects.terminate = true;
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    /// Trying and Proceeding differ by the interval of timer E only.
    Open {
        e: Option<Retransmission>,
        f: Timestamp,
        proceeding: bool,
    },
    Completed {
        k: Timestamp,
    },
    Terminated,
}

/// Non-INVITE client.
#[derive(Clone, Debug)]
pub(super) struct Client(State);

impl Client {
    pub(super) fn new(now: Timestamp, times: &Times, reliable: bool) -> Self {
        let e = (!reliable).then(|| Retransmission { at: now + times.t1, interval: times.t1 });
        Self(State::Open { e, f: now + times.life(), proceeding: false })
    }

    pub(super) fn deadline(&self) -> Option<Timestamp> {
        match self.0 {
            State::Open { e, f, .. } => Some(e.map_or(f, |e| e.at.min(f))),
            State::Completed { k } => Some(k),
            State::Terminated => None,
        }
    }

    pub(super) fn handle(
        &mut self,
        now: Timestamp,
        times: &Times,
        reliable: bool,
        input: ClientInput,
    ) -> Effects {
        let mut effects = Effects::default();
        match (self.0, input) {
            (State::Open { e, f, .. }, ClientInput::Response(Class::Provisional)) => {
                effects.deliver = true;
                self.0 = State::Open { e, f, proceeding: true };
            }
            (State::Open { .. }, ClientInput::Response(_)) => {
                effects.deliver = true;
                effects.terminate = reliable;
                self.0 = if reliable { State::Terminated } else { State::Completed { k: now + times.t4 } };
            }
            (State::Open { e, f, proceeding }, ClientInput::Timer) => {
                if now >= f {
                    effects.timeout = true;
                    effects.terminate = true;
                    self.0 = State::Terminated;
                } else if let Some(e) = e.filter(|e| now >= e.at) {
                    let interval = if proceeding { times.t2 } else { (e.interval * 2).min(times.t2) };
                    self.0 = State::Open {
                        e: Some(Retransmission { at: now + interval, interval }),
                        f,
                        proceeding,
                    };
                    effects.resend = true;
                }
            }
            (State::Completed { k }, ClientInput::Timer) if now >= k => {
                effects.terminate = true;
                self.0 = State::Terminated;
            }
            (State::Open { .. }, ClientInput::TransportError) => {
                effects.transport_error = true;
                effects.terminate = true;
                self.0 = State::Terminated;
            }
            _ => {}
        }
        effects
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transaction::TransactionConfig;

    fn times() -> Times {
        Times::of(&TransactionConfig::default())
    }

    fn ms(millis: i64) -> Timestamp {
        Timestamp::from_millis(millis)
    }

    #[test]
    fn invite_retransmits_at_the_times_of_timer_a_and_ends_at_timer_b() {
        let (times, mut machine) = (times(), InviteClient::new(ms(0), &times(), false));
        let mut sent = Vec::new();
        while let Some(at) = machine.deadline() {
            let effects = machine.handle(at, &times, false, ClientInput::Timer);
            if effects.resend {
                sent.push(at.as_millis());
            }
            if effects.terminate {
                assert!(effects.timeout);
                assert_eq!(at, ms(32_000));
            }
        }
        assert_eq!(sent, [500, 1_500, 3_500, 7_500, 15_500, 31_500]);
    }

    #[test]
    fn non_invite_retransmits_with_a_cap_of_t2() {
        let (times, mut machine) = (times(), Client::new(ms(0), &times(), false));
        let mut sent = Vec::new();
        while let Some(at) = machine.deadline() {
            if machine.handle(at, &times, false, ClientInput::Timer).resend {
                sent.push(at.as_millis());
            }
        }
        assert_eq!(sent, [500, 1_500, 3_500, 7_500, 11_500, 15_500, 19_500, 23_500, 27_500, 31_500]);
    }

    #[test]
    fn accepted_lets_further_2xx_pass_and_nothing_else() {
        let (times, mut machine) = (times(), InviteClient::new(ms(0), &times(), false));
        assert!(machine.handle(ms(1), &times, false, ClientInput::Response(Class::Success)).deliver);
        assert!(machine.handle(ms(2), &times, false, ClientInput::Response(Class::Success)).deliver);
        assert_eq!(
            machine.handle(ms(3), &times, false, ClientInput::Response(Class::Failure)),
            Effects::default()
        );
        assert_eq!(
            machine.handle(ms(3), &times, false, ClientInput::Response(Class::Provisional)),
            Effects::default()
        );
        assert_eq!(machine.handle(ms(3), &times, false, ClientInput::TransportError), Effects::default());
        assert_eq!(machine.deadline(), Some(ms(32_001)));
    }

    #[test]
    fn a_cancelled_invite_ends_within_64_t1() {
        let (times, mut machine) = (times(), InviteClient::new(ms(0), &times(), false));
        machine.handle(ms(10), &times, false, ClientInput::Response(Class::Provisional));
        machine.handle(ms(100), &times, false, ClientInput::Cancelled);
        machine.handle(ms(5_000), &times, false, ClientInput::Response(Class::Provisional));
        assert_eq!(machine.deadline(), Some(ms(32_100)));
        assert!(machine.handle(ms(32_100), &times, false, ClientInput::Timer).timeout);
    }
}
