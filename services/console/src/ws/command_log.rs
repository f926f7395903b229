use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, Instant},
};

use trunkline_proto::acd::v1::agent_command::Command;

use super::commands::wants_sdp;

/// Commands without a result at once.
pub(super) const MAX_PENDING: usize = 32;
/// Command ids remembered with their results. One that is forgotten is given to the agent's actor again, which remembers
/// what must not be done twice.
const MAX_REMEMBERED: usize = 64;
/// So many of them are results with SDP.
const MAX_SDP: usize = 4;

/// A session's commands by the client's id: each is done once and answered by one result, which is given again when the
/// id comes again. A command that the agent's actor does not answer is kept to be sent again: it, or its node, may be gone,
/// and its successor knows by the id what has been done.
///
/// There are thousands of sessions, with a few commands a minute: a list that is searched, since a table of so many that come
/// and go takes four times the memory.
#[derive(Debug, Default)]
pub(super) struct CommandLog {
    /// In the order in which they came.
    entries: VecDeque<Entry>,
    pending: usize,
}

#[derive(Debug)]
struct Entry {
    id: Arc<str>,
    kind: &'static str,
    wants_sdp: bool,
    begun: Instant,
    result: Option<Arc<str>>,
    /// What was asked for, and when last; while it is under way.
    asked: Option<(Box<Command>, Instant)>,
}

/// What to do about a command that came.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Begin {
    /// Do it.
    New,
    /// It is under way: its result comes.
    UnderWay,
    /// It was done: this was the result.
    Done(Arc<str>),
    /// Too many are under way.
    Full,
}

/// A command that is over.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Finished {
    pub(super) id: Arc<str>,
    pub(super) kind: &'static str,
    pub(super) took: Duration,
}

impl CommandLog {
    /// A command came.
    pub(super) fn begin(&mut self, id: &str, kind: &'static str, command: &Command, now: Instant) -> Begin {
        if let Some(entry) = self.find(id) {
            return entry.result.as_ref().map_or(Begin::UnderWay, |result| Begin::Done(Arc::clone(result)));
        }
        if self.pending >= MAX_PENDING {
            return Begin::Full;
        }
        self.make_room();
        let (wants_sdp, asked) = (wants_sdp(command), Some((Box::new(command.clone()), now)));
        self.entries.push_back(Entry { id: id.into(), kind, wants_sdp, begun: now, result: None, asked });
        self.pending += 1;
        Begin::New
    }

    /// The newest ones are asked for.
    fn find(&self, id: &str) -> Option<&Entry> {
        self.entries.iter().rev().find(|entry| *entry.id == *id)
    }

    /// The oldest with a result goes first; those under way stay.
    fn make_room(&mut self) {
        while self.entries.len() >= MAX_REMEMBERED {
            let Some(at) = self.entries.iter().position(|entry| entry.result.is_some()) else { return };
            self.entries.remove(at);
        }
    }

    /// Type of the command that is under way with this id.
    pub(super) fn under_way(&self, id: &str) -> Option<(&'static str, bool)> {
        self.find(id).filter(|entry| entry.result.is_none()).map(|entry| (entry.kind, entry.wants_sdp))
    }

    /// The result of a command; `None` when it is not under way (unknown, or answered already).
    pub(super) fn finish(&mut self, id: &str, result: &Arc<str>, now: Instant) -> Option<Finished> {
        let named = |entry: &&mut Entry| *entry.id == *id && entry.result.is_none();
        let entry = self.entries.iter_mut().rev().find(named)?;
        entry.result = Some(Arc::clone(result));
        entry.asked = None;
        self.pending -= 1;
        let took = now.saturating_duration_since(entry.begun);
        let finished = Finished { id: Arc::clone(&entry.id), kind: entry.kind, took };
        if entry.wants_sdp {
            self.forget_sdp();
        }
        Some(finished)
    }

    /// Results with SDP are long; before the newest ones they are forgotten.
    fn forget_sdp(&mut self) {
        let with_sdp = |entry: &Entry| entry.wants_sdp && entry.result.is_some();
        let all = self.entries.iter().filter(|entry| with_sdp(entry)).count();
        let mut old = all.saturating_sub(MAX_SDP);
        self.entries.retain(|entry| {
            let goes = old > 0 && with_sdp(entry);
            old -= usize::from(goes);
            !goes
        });
    }

    /// Commands that have been without an answer for `pause` since they were last sent: they are to be sent again, in this
    /// order. One is not when a later one has its result: the state has gone on from it.
    pub(super) fn unanswered(&mut self, now: Instant, pause: Duration) -> Vec<(Arc<str>, Command)> {
        if self.pending == 0 {
            return Vec::new();
        }
        let mut again = Vec::new();
        for entry in self.entries.iter_mut().rev() {
            let Some((command, sent)) = &mut entry.asked else { break };
            if now.saturating_duration_since(*sent) >= pause {
                *sent = now;
                again.push((Arc::clone(&entry.id), (**command).clone()));
            }
        }
        again.reverse();
        again
    }

    /// Ids of commands that have been under way for `limit` or longer.
    pub(super) fn overdue(&self, now: Instant, limit: Duration) -> Vec<Arc<str>> {
        if self.pending == 0 {
            return Vec::new();
        }
        let late =
            |entry: &&Entry| entry.result.is_none() && now.saturating_duration_since(entry.begun) >= limit;
        self.entries.iter().filter(late).map(|entry| Arc::clone(&entry.id)).collect()
    }
}

#[cfg(test)]
mod tests {
    use trunkline_proto::acd::v1::{Accept, SignOut};

    use super::*;

    fn hold() -> Command {
        Command::SignOut(SignOut {})
    }

    #[test]
    fn a_command_is_done_once_and_its_result_stays() {
        let (mut log, now) = (CommandLog::default(), Instant::now());
        assert_eq!(log.begin("a", "hold", &hold(), now), Begin::New);
        assert_eq!(log.begin("a", "hold", &hold(), now), Begin::UnderWay);
        let result: Arc<str> = "{}".into();
        assert!(log.finish("a", &result, now).is_some());
        assert!(log.finish("a", &result, now).is_none(), "one result only");
        assert_eq!(log.begin("a", "hold", &hold(), now), Begin::Done(result));
    }

    #[test]
    fn memory_and_work_are_bounded() {
        let (mut log, now) = (CommandLog::default(), Instant::now());
        for n in 0..MAX_PENDING {
            assert_eq!(log.begin(&n.to_string(), "hold", &hold(), now), Begin::New);
        }
        assert_eq!(log.begin("more", "hold", &hold(), now), Begin::Full);
        for n in 1..MAX_PENDING {
            log.finish(&n.to_string(), &"{}".into(), now);
        }
        for n in 0..10_000 {
            let id = format!("x{n}");
            assert_eq!(log.begin(&id, "hold", &hold(), now), Begin::New);
            log.finish(&id, &"{}".into(), now);
        }
        assert!(log.entries.len() <= MAX_REMEMBERED && log.entries.capacity() <= MAX_REMEMBERED);
        assert_eq!(
            log.begin("0", "hold", &hold(), now),
            Begin::UnderWay,
            "what is under way is not forgotten"
        );
        assert_eq!(log.overdue(now + Duration::from_secs(10), Duration::from_secs(10)), ["0".into()]);
    }

    #[test]
    fn results_with_sdp_are_remembered_for_the_last_few() {
        let (mut log, now) = (CommandLog::default(), Instant::now());
        let accept = Command::Accept(Accept { sdp_offer: "v=0".into(), ..Accept::default() });
        let waiting = "not answered";
        assert_eq!(log.begin(waiting, "accept", &accept, now), Begin::New);
        for n in 0..20 {
            log.begin(&format!("a{n}"), "accept", &accept, now);
            log.begin(&format!("h{n}"), "hold", &hold(), now);
            log.finish(&format!("h{n}"), &"{}".into(), now);
            log.finish(&format!("a{n}"), &"{sdp}".into(), now);
        }
        assert_eq!(log.begin("a16", "accept", &accept, now), Begin::Done("{sdp}".into()));
        assert_eq!(log.begin("a15", "accept", &accept, now), Begin::New);
        assert_eq!(log.begin("h0", "hold", &hold(), now), Begin::Done("{}".into()));
        assert_eq!(log.begin(waiting, "accept", &accept, now), Begin::UnderWay);
    }

    #[test]
    fn what_is_not_answered_is_sent_again_unless_a_later_one_is() {
        let (mut log, now, second) = (CommandLog::default(), Instant::now(), Duration::from_secs(1));
        let ids = |again: Vec<(Arc<str>, Command)>| again.into_iter().map(|(id, _)| id).collect::<Vec<_>>();
        for id in ["a", "b", "c"] {
            log.begin(id, "hold", &hold(), now);
        }
        assert!(log.unanswered(now + second / 2, second).is_empty(), "not yet");
        assert_eq!(ids(log.unanswered(now + second, second)), ["a".into(), "b".into(), "c".into()]);
        assert!(log.unanswered(now + second, second).is_empty(), "only just sent");
        log.finish("b", &"{}".into(), now);
        assert_eq!(
            ids(log.unanswered(now + second * 2, second)),
            ["c".into()],
            "the state has gone on from a"
        );
        log.finish("c", &"{}".into(), now);
        assert!(log.unanswered(now + second * 3, second).is_empty());
    }
}
