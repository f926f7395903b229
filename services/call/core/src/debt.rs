//! What is owed to queues and agents: said again until it is acknowledged. Debts follow from events, so a recovered
//! call pays them anew; receivers drop what they know.

use std::time::Duration;

use trunkline_types::{AgentId, OfferId, QueueId, ReleaseCause, Timestamp};

use crate::{
    call::{Call, Cx},
    effect::{AgentNotice, LeaveCause, QueueRequest},
    settings::Settings,
};

/// One obligation.
#[derive(Clone, Debug)]
pub(crate) struct Debt {
    pub kind: DebtKind,
    pub next: Timestamp,
    interval: Duration,
    until: Timestamp,
}

/// To whom and what.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum DebtKind {
    Leave {
        queue: QueueId,
        entry: u32,
        cause: LeaveCause,
    },
    Answered {
        queue: QueueId,
        entry: u32,
        offer: OfferId,
        at: Timestamp,
    },
    ConnectFailed {
        queue: QueueId,
        entry: u32,
        offer: OfferId,
        cause: ReleaseCause,
    },
    AgentEnded {
        agent: AgentId,
        offer: OfferId,
        cause: ReleaseCause,
        at: Timestamp,
        connected: Option<Timestamp>,
    },
}

impl Debt {
    pub fn new(kind: DebtKind, at: Timestamp, settings: &Settings) -> Self {
        Self { kind, next: at, interval: settings.resend_first, until: at.plus(settings.debt_deadline) }
    }
}

impl Call {
    /// Pays everything that is due now.
    pub(crate) fn pay_due(&mut self, cx: &mut Cx<'_>) {
        let due: Vec<usize> = (0..self.debts.len()).filter(|n| self.debts[*n].next <= cx.now).collect();
        for n in due.into_iter().rev() {
            self.debt_timer(cx, n);
        }
    }

    /// Says it (again), or gives up: queues and agents ask on their own whether a call is still there.
    pub(crate) fn debt_timer(&mut self, cx: &mut Cx<'_>, n: usize) {
        let (max, now) = (self.settings.resend_max, cx.now);
        let Some(debt) = self.debts.get_mut(n) else { return };
        if now >= debt.until {
            self.debts.remove(n);
            return;
        }
        debt.next = now.plus(debt.interval);
        debt.interval = (debt.interval * 2).min(max);
        match debt.kind.clone() {
            DebtKind::Leave { queue, entry, cause } => {
                self.tell_queue(cx, &queue, QueueRequest::Leave { entry, cause });
            }
            DebtKind::Answered { queue, entry, offer, at } => {
                self.tell_queue(cx, &queue, QueueRequest::Answered { entry, offer, at });
            }
            DebtKind::ConnectFailed { queue, entry, offer, cause } => {
                let reason = cause.as_str().to_owned();
                self.tell_queue(cx, &queue, QueueRequest::ConnectFailed { entry, offer, reason });
            }
            DebtKind::AgentEnded { agent, offer, cause, at, connected } => {
                self.tell_agent(cx, &agent, &offer, AgentNotice::Ended { cause, at, connected });
            }
        }
    }

    /// A queue has not said yet that the call is out of it, and rings nowhere any more.
    pub(crate) fn leaving(&self) -> bool {
        self.debts.iter().any(|debt| matches!(debt.kind, DebtKind::Leave { .. }))
    }

    /// Acknowledged.
    pub(crate) fn settle(&mut self, paid: impl Fn(&DebtKind) -> bool) {
        self.debts.retain(|debt| !paid(&debt.kind));
    }

    /// After a recovery everything is owed from now on.
    pub(crate) fn renew_debts(&mut self, now: Timestamp) {
        let settings = self.settings.clone();
        for debt in &mut self.debts {
            *debt = Debt::new(debt.kind.clone(), now, &settings);
        }
    }
}
