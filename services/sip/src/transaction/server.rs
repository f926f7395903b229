//! The server machines: INVITE (RFC 6026 figure 5) and non-INVITE (RFC 3261 figure 8).

use std::time::Duration;

use trunkline_types::Timestamp;

use super::{Class, Effects, Times};

/// Input of a server machine.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum ServerInput {
    /// The request again.
    Retransmission,
    /// An ACK with the INVITE's branch (INVITE only).
    Ack,
    /// The user answers.
    Respond(Class),
    TransportError,
    /// A deadline has come.
    Timer,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum InviteState {
    /// `c`: our limit, see `TransactionConfig::proceeding_limit`.
    Proceeding {
        c: Timestamp,
    },
    /// Timer L: the 2xx is out; retransmitted INVITEs are absorbed.
    Accepted {
        l: Timestamp,
    },
    /// Timers G (unreliable only) and H.
    Completed {
        g: Option<(Timestamp, Duration)>,
        h: Timestamp,
    },
    /// Timer I: further ACKs are absorbed.
    Confirmed {
        i: Timestamp,
    },
    Terminated,
}

/// INVITE server.
#[derive(Clone, Debug)]
pub(super) struct InviteServer(InviteState);

impl InviteServer {
    pub(super) fn new(now: Timestamp, times: &Times) -> Self {
        Self(InviteState::Proceeding { c: now + times.proceeding })
    }

    pub(super) fn deadline(&self) -> Option<Timestamp> {
        match self.0 {
            InviteState::Completed { g, h } => Some(g.map_or(h, |(at, _)| at.min(h))),
            InviteState::Proceeding { c: at }
            | InviteState::Accepted { l: at }
            | InviteState::Confirmed { i: at } => Some(at),
            InviteState::Terminated => None,
        }
    }

    /// No final response yet.
    pub(super) fn is_open(&self) -> bool {
        matches!(self.0, InviteState::Proceeding { .. })
    }

    pub(super) fn is_accepted(&self) -> bool {
        matches!(self.0, InviteState::Accepted { .. })
    }

    pub(super) fn handle(
        &mut self,
        now: Timestamp,
        times: &Times,
        reliable: bool,
        input: ServerInput,
    ) -> Effects {
        use InviteState as S;
        let mut effects = Effects::default();
        match (self.0, input) {
            (S::Proceeding { .. } | S::Completed { .. }, ServerInput::Retransmission) => {
                effects.resend = true
            }
            (S::Proceeding { .. }, ServerInput::Respond(class)) => {
                effects.resend = true;
                self.0 = match class {
                    Class::Provisional => S::Proceeding { c: now + times.proceeding },
                    Class::Success => S::Accepted { l: now + times.life() },
                    Class::Failure => S::Completed {
                        g: (!reliable).then(|| (now + times.t1, times.t1)),
                        h: now + times.life(),
                    },
                };
            }
            (S::Accepted { .. }, ServerInput::Respond(Class::Success)) => effects.resend = true,
            (S::Accepted { .. }, ServerInput::Ack) => effects.deliver = true,
            (S::Accepted { .. }, ServerInput::TransportError) => effects.transport_error = true,
            (S::Completed { .. }, ServerInput::Ack) => {
                if reliable {
                    self.terminate(&mut effects);
                } else {
                    self.0 = S::Confirmed { i: now + times.t4 };
                }
            }
            (S::Completed { g, h }, ServerInput::Timer) => {
                if now >= h {
                    effects.timeout = true;
                    self.terminate(&mut effects);
                } else if let Some((_, interval)) = g.filter(|(at, _)| now >= *at) {
                    let interval = (interval * 2).min(times.t2);
                    self.0 = S::Completed { g: Some((now + interval, interval)), h };
                    effects.resend = true;
                }
            }
            (S::Proceeding { c }, ServerInput::Timer) if now >= c => {
                effects.timeout = true;
                self.terminate(&mut effects);
            }
            (S::Accepted { l: at } | S::Confirmed { i: at }, ServerInput::Timer) if now >= at => {
                self.terminate(&mut effects);
            }
            (S::Proceeding { .. } | S::Completed { .. }, ServerInput::TransportError) => {
                effects.transport_error = true;
                self.terminate(&mut effects);
            }
            _ => {}
        }
        effects
    }

    fn terminate(&mut self, effects: &mut Effects) {
        self.0 = InviteState::Terminated;
        effects.terminate = true;
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    /// Trying and Proceeding. `until`: then the client has given up (64·T1; RFC 4320 forbids a late answer).
    Open {
        until: Timestamp,
        answered: bool,
    },
    /// Timer J.
    Completed {
        j: Timestamp,
    },
    Terminated,
}

/// Non-INVITE server.
#[derive(Clone, Debug)]
pub(super) struct Server(State);

impl Server {
    pub(super) fn new(now: Timestamp, times: &Times) -> Self {
        Self(State::Open { until: now + times.life(), answered: false })
    }

    pub(super) fn deadline(&self) -> Option<Timestamp> {
        match self.0 {
            State::Open { until: at, .. } | State::Completed { j: at } => Some(at),
            State::Terminated => None,
        }
    }

    /// No final response yet.
    pub(super) fn is_open(&self) -> bool {
        matches!(self.0, State::Open { .. })
    }

    pub(super) fn handle(
        &mut self,
        now: Timestamp,
        times: &Times,
        reliable: bool,
        input: ServerInput,
    ) -> Effects {
        let mut effects = Effects::default();
        match (self.0, input) {
            (State::Open { answered: true, .. } | State::Completed { .. }, ServerInput::Retransmission) => {
                effects.resend = true;
            }
            (State::Open { until, .. }, ServerInput::Respond(Class::Provisional)) => {
                effects.resend = true;
                self.0 = State::Open { until, answered: true };
            }
            (State::Open { .. }, ServerInput::Respond(_)) => {
                effects.resend = true;
                effects.terminate = reliable;
                self.0 =
                    if reliable { State::Terminated } else { State::Completed { j: now + times.life() } };
            }
            (State::Open { until, .. }, ServerInput::Timer) if now >= until => {
                effects.timeout = true;
                effects.terminate = true;
                self.0 = State::Terminated;
            }
            (State::Completed { j }, ServerInput::Timer) if now >= j => {
                effects.terminate = true;
                self.0 = State::Terminated;
            }
            (State::Open { .. } | State::Completed { .. }, ServerInput::TransportError) => {
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
    fn a_failure_is_repeated_until_the_ack_or_timer_h() {
        let (times, mut machine) = (times(), InviteServer::new(ms(0), &times()));
        assert!(machine.handle(ms(0), &times, false, ServerInput::Respond(Class::Failure)).resend);
        let mut sent = Vec::new();
        while let Some(at) = machine.deadline() {
            let effects = machine.handle(at, &times, false, ServerInput::Timer);
            if effects.resend {
                sent.push(at.as_millis());
            }
            assert_eq!(effects.terminate, effects.timeout);
        }
        assert_eq!(sent, [500, 1_500, 3_500, 7_500, 11_500, 15_500, 19_500, 23_500, 27_500, 31_500]);
        let mut acked = InviteServer::new(ms(0), &times);
        acked.handle(ms(0), &times, false, ServerInput::Respond(Class::Failure));
        acked.handle(ms(100), &times, false, ServerInput::Ack);
        assert_eq!(acked.deadline(), Some(ms(5_100)));
        assert!(!acked.handle(ms(200), &times, false, ServerInput::Retransmission).resend);
    }

    #[test]
    fn accepted_absorbs_invites_and_passes_acks() {
        let (times, mut machine) = (times(), InviteServer::new(ms(0), &times()));
        machine.handle(ms(0), &times, false, ServerInput::Respond(Class::Success));
        assert_eq!(machine.handle(ms(1), &times, false, ServerInput::Retransmission), Effects::default());
        assert!(machine.handle(ms(2), &times, false, ServerInput::Ack).deliver);
        assert_eq!(machine.deadline(), Some(ms(32_000)));
    }

    #[test]
    fn trying_does_not_answer_retransmissions_and_does_not_wait_for_ever() {
        let (times, mut machine) = (times(), Server::new(ms(0), &times()));
        assert!(!machine.handle(ms(1), &times, false, ServerInput::Retransmission).resend);
        machine.handle(ms(2), &times, false, ServerInput::Respond(Class::Provisional));
        assert!(machine.handle(ms(3), &times, false, ServerInput::Retransmission).resend);
        assert!(machine.handle(ms(32_000), &times, false, ServerInput::Timer).timeout);
    }
}
