use trunkline_acd_core::{
    Action, AgentView, SessionId,
    agent::{AgentStatus, Command, Console, DetachReason, NextStatus, Notes, SessionInput},
};

use trunkline_types::QueueId;

use crate::Rng;

/// A model of the person at the console: looks at the view now and then, and does something or nothing.
#[derive(Debug, Default)]
pub(crate) struct Human {
    pub(crate) view: Option<AgentView>,
    pub(crate) attached: bool,
    session: u32,
    /// The call has left its media node: the page makes a new connection.
    pub(crate) audio_moved: bool,
    commands: u32,
    /// Queues to which callers are passed on; none where the call is a model that knows no transfer.
    transfer_to: Vec<QueueId>,
}

impl Human {
    /// One who passes callers on to these queues now and then.
    pub(crate) fn who_transfers(to: Vec<QueueId>) -> Self {
        Self { transfer_to: to, ..Self::default() }
    }

    pub(crate) fn session(&self) -> SessionId {
        SessionId(format!("tab-{}", self.session))
    }

    /// The console's own connection comes back after the agent's shard has moved.
    pub(crate) fn lost_connection(&mut self) {
        self.attached = false;
    }

    /// The console that serves the page.
    pub(crate) fn console(&self) -> Console {
        Console { node: "console".parse().unwrap_or_else(|_| unreachable!("a valid name")), incarnation: 1 }
    }

    /// An offer for the call's new media node.
    pub(crate) fn new_audio(&mut self) -> Option<SessionInput> {
        let talks = matches!(&self.view.as_ref()?.status, AgentStatus::Talking { .. });
        self.commands += 1;
        let command = Command::TakeOver { sdp_offer: "offer".into() };
        talks.then(|| SessionInput::Command { id: format!("{}", self.commands), command })
    }

    /// `diligent`: no more nonsense, everything is to come to an end.
    pub(crate) fn look(&mut self, rng: &mut Rng, diligent: bool) -> Option<SessionInput> {
        if !self.attached {
            self.attached = true;
            // A reloaded page is a new session now and then.
            self.session += u32::from(rng.chance(500));
            return Some(SessionInput::Attach { connection: 0 });
        }
        if !diligent && rng.chance(15) {
            self.attached = false;
            return Some(SessionInput::Detach { reason: DetachReason::Closed });
        }
        let percent = rng.below(100);
        let command = match &self.view.as_ref()?.status {
            AgentStatus::SignedOut | AgentStatus::NotReady { .. } if diligent || percent < 60 => {
                Command::Ready
            }
            AgentStatus::Ready { .. } if !diligent && percent < 4 => {
                Command::NotReady { reason: "break".into() }
            }
            AgentStatus::Ready { .. } if !diligent && percent < 5 => Command::SignOut,
            AgentStatus::Ringing { offer, .. } => {
                let offer = offer.clone();
                match percent {
                    _ if diligent => Command::Accept { offer, sdp_offer: "offer".into() },
                    0..55 => Command::Accept { offer, sdp_offer: "offer".into() },
                    55..65 => Command::Decline { offer },
                    65..70 => Command::SetNextStatus { next: Some(NextStatus::SignedOut) },
                    _ => return None,
                }
            }
            AgentStatus::Talking { .. } => match percent {
                0..25 => Command::Control { action: Action::Hangup },
                _ if diligent => return None,
                25..35 => Command::Control { action: Action::Hold },
                35..45 => Command::Control { action: Action::Resume },
                45..50 => Command::Control { action: Action::Mute },
                50..55 => Command::TakeOver { sdp_offer: "offer".into() },
                60..75 if !self.transfer_to.is_empty() => {
                    let queue = self.transfer_to[rng.below(self.transfer_to.len() as u64) as usize].clone();
                    let action = match percent {
                        60..63 => Action::Transfer(queue),
                        63..68 => Action::Consult(queue),
                        68..72 => Action::CompleteTransfer,
                        _ => Action::CancelConsult,
                    };
                    Command::Control { action }
                }
                55..60 => Command::SaveNotes { notes: Notes { text: "x".into(), ..Notes::default() } },
                _ => return None,
            },
            AgentStatus::WrapUp { .. } if diligent || percent < 40 => {
                Command::FinishWrapUp { notes: Notes::default() }
            }
            AgentStatus::WrapUp { .. } if percent < 45 => Command::ExtendWrapUp,
            _ => return None,
        };
        self.commands += 1;
        Some(SessionInput::Command { id: format!("{}", self.commands), command })
    }
}
