//! An agent who moves to another node, and whose console does.

use super::*;

impl Seat {
    /// Another node takes the agent over, from its journal as text.
    fn moved(&self, epoch: u64) -> Self {
        let (tenant, id) = (self.agent.tenant.clone(), self.agent.id.clone());
        let mut agent = Agent::new(tenant, id, Epoch(epoch), (*self.agent.config).clone());
        for event in &self.journal {
            agent.apply(&serde_json::from_str(&serde_json::to_string(event).unwrap()).unwrap());
        }
        assert_eq!(agent.snapshot(), self.agent.snapshot());
        let mut seat = Self {
            agent,
            now: self.now.plus(secs(4)),
            journal: self.journal.clone(),
            effects: Vec::new(),
            card: self.card.clone(),
            commands: self.commands,
        };
        let mut out = Outbox::new();
        seat.agent.recovered(seat.now, &mut out);
        seat.take(out);
        seat
    }

    fn announced(&self) -> Option<bool> {
        self.effects.iter().find_map(|e| match e {
            AgentEffect::ToQueue { message: AgentToQueue::Available { .. }, .. } => Some(true),
            AgentEffect::ToQueue { message: AgentToQueue::Unavailable { .. }, .. } => Some(false),
            _ => None,
        })
    }

    fn request(&self) -> AgentToCall {
        self.asks_call().into_iter().find(|m| !matches!(m, AgentToCall::Ask { .. })).expect("a request")
    }
}

/// An agent whose node died is available again at once, with its pages: nobody has to attach anew first.
#[test]
fn a_moved_agent_has_its_sessions_and_says_so_at_once() {
    let seat = Seat::ready();
    let before = seat.agent.view();
    let moved = seat.moved(2);
    assert_eq!(moved.announced(), Some(true));
    let view = moved.agent.view();
    assert_eq!((view.sessions, view.status), (before.sessions, before.status));
    assert!((view.epoch, view.version) > (before.epoch, before.version));
    assert_eq!(
        Seat::new(AgentConfig::default()).moved(2).announced(),
        None,
        "a signed-out one has nothing to say"
    );
}

/// The sessions of a console node that died are detached, unless they have come to another console meanwhile; the
/// conversation goes on.
#[test]
fn a_lost_console_detaches_what_it_served() {
    let mut seat = Seat::talking();
    let other = || Console { node: "n2".parse().unwrap(), incarnation: 7 };
    let gone = || SessionInput::Detach { reason: DetachReason::ConsoleLost };
    seat.session_at(1, other(), SessionInput::Attach { connection: 2 });
    let (session, console, by) = (tab(1), console(), other());
    assert!(seat.effects.contains(&AgentEffect::Superseded { session, console, by }));
    seat.session(1, gone());
    let there = Attached { session: tab(1), console: other(), connection: 2 };
    assert_eq!(seat.agent.view().sessions, [there]);
    assert_eq!(seat.agent.view().microphone, Some(tab(1)), "a session that moved keeps the microphone");
    seat.session(2, SessionInput::Attach { connection: 1 });
    seat.session(2, gone());
    let next_life = Console { incarnation: 8, ..other() };
    seat.session_at(1, next_life, gone());
    assert_eq!(seat.agent.view().sessions.len(), 1, "not the life that serves it");
    seat.session_at(1, other(), gone());
    assert!(seat.agent.view().sessions.is_empty());
    assert_eq!(seat.state(), "talking");
    seat.pass(secs(119));
    assert!(!seat.asks_call().iter().any(|m| matches!(m, AgentToCall::Control { .. })));
}

/// An older socket of a page does not take the session back: its words are answered by who has it, and do nothing.
#[test]
fn a_session_is_where_its_page_connected_last() {
    let mut seat = Seat::talking();
    let other = || Console { node: "n2".parse().unwrap(), incarnation: 7 };
    let superseded = |seat: &Seat| {
        let told = AgentEffect::Superseded { session: tab(1), console: console(), by: other() };
        seat.effects.contains(&told)
    };
    seat.session_at(1, other(), SessionInput::Attach { connection: 3 });
    let command = Command::Control { action: Action::Hangup };
    let late = SessionInput::Command { id: "late".into(), command };
    for message in [SessionInput::Attach { connection: 2 }, SessionInput::Keepalive, late] {
        seat.session(1, message);
        assert!(superseded(&seat) && seat.asks_call().is_empty(), "{:?}", seat.effects);
    }
    seat.session(1, SessionInput::Detach { reason: DetachReason::Closed });
    assert!(!superseded(&seat), "an old console's farewell needs no answer");
    assert_eq!(seat.agent.view().sessions, [Attached { session: tab(1), console: other(), connection: 3 }]);
}

/// A command that was done is not done again after the agent has moved; one that was under way is asked of the call
/// again under its old number, so that the call does it once.
#[test]
fn commands_are_done_once_across_a_move() {
    let mut seat = Seat::talking();
    let digits = Command::Control { action: Action::Digits("42".into()) };
    let press = || SessionInput::Command { id: "d".into(), command: digits.clone() };
    seat.session(1, press());
    let asked = seat.request();
    let mut seat = seat.moved(2);
    assert_eq!(seat.request(), asked);
    seat.session(1, press());
    assert!(seat.asks_call().is_empty(), "under way");
    let AgentToCall::Control { control, .. } = asked else { panic!("{asked:?}") };
    seat.call(CallToAgent::ControlDone { offer: offer(1), control, status: ConversationStatus::default() });
    assert_eq!(seat.answer(1, "d"), Some(Ok(CommandReply::Done)));
    let mut seat = seat.moved(3);
    assert!(seat.asks_call().iter().all(|m| matches!(m, AgentToCall::Ask { .. })), "nothing is left to ask");
    seat.session(1, press());
    assert_eq!(seat.answer(1, "d"), Some(Ok(CommandReply::Done)));
    assert!(seat.asks_call().is_empty());

    // A hang-up ends with the call; its repetition is told so, not that there is nothing to hang up.
    let hang_up =
        || SessionInput::Command { id: "h".into(), command: Command::Control { action: Action::Hangup } };
    seat.session(1, hang_up());
    let mut seat = seat.moved(4);
    assert!(matches!(seat.request(), AgentToCall::Control { action: Action::Hangup, .. }));
    seat.end(ReleaseCause::AgentHangup);
    let extend = || SessionInput::Command { id: "e".into(), command: Command::ExtendWrapUp };
    seat.session(1, extend());
    let mut seat = seat.moved(5);
    for (again, id) in [(hang_up(), "h"), (extend(), "e")] {
        seat.session(1, again);
        assert_eq!(seat.answer(1, id), Some(Ok(CommandReply::Done)));
    }
    let extended = seat.journal.iter().filter(|e| matches!(e, AgentEvent::WrapUpExtended { .. })).count();
    assert_eq!(extended, 1);
}

/// A take-over of the microphone outlives the agent's node; an acceptance whose answer was lost gets its audio anew.
#[test]
fn the_microphone_stays_where_it_is() {
    let mut seat = Seat::talking();
    seat.session(2, SessionInput::Attach { connection: 0 });
    seat.command(2, Command::TakeOver { sdp_offer: "v=0".into() });
    let AgentToCall::RemakeMedia { control, .. } = seat.request() else { panic!("no remake") };
    let sdp_answer = "v=0 answer".to_owned();
    seat.call(CallToAgent::MediaRemade { offer: offer(1), control, sdp_answer });
    let mut seat = seat.moved(2);
    assert_eq!(seat.agent.view().microphone, Some(tab(2)));
    let accept = Command::Accept { offer: offer(1), sdp_offer: "v=0 again".into() };
    assert_eq!(seat.command(1, accept), None, "under way");
    assert!(matches!(seat.request(), AgentToCall::RemakeMedia { session, .. } if session == tab(1)));
}

/// An entity that is rebuilt within its epoch (the journal left open what it had taken) uses no number twice: neither for
/// requests to the call, nor for announcements, nor for views.
#[test]
fn a_rebuilt_agent_uses_no_number_of_its_former_self() {
    let mut seat = Seat::talking();
    let press = |seat: &mut Seat, id: &str| {
        let command = Command::Control { action: Action::Hold };
        seat.session(1, SessionInput::Command { id: id.into(), command });
        match seat.request() {
            AgentToCall::Control { control, .. } => control,
            other => panic!("{other:?}"),
        }
    };
    let (first, version) = (press(&mut seat, "a"), seat.agent.view().version);
    seat.call(CallToAgent::ControlDone {
        offer: offer(1),
        control: first,
        status: ConversationStatus::default(),
    });
    let stamp = seat.agent.stamp();
    let mut again = seat.moved(1);
    assert_ne!(press(&mut again, "b"), first);
    assert!(again.agent.stamp() > stamp && again.agent.view().version > version);
}
