use std::{
    collections::{HashMap, VecDeque},
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
#[derive(Debug, Default)]
pub(super) struct CommandLog {
    entries: HashMap<Arc<str>, Entry>,
    order: VecDeque<Arc<str>>,
    pending: usize,
}

#[derive(Debug)]
struct Entry {
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
        if let Some(entry) = self.entries.get(id) {
            return entry.result.as_ref().map_or(Begin::UnderWay, |result| Begin::Done(Arc::clone(result)));
        }
        if self.pending >= MAX_PENDING {
            return Begin::Full;
        }
        let id: Arc<str> = id.into();
        let (wants_sdp, asked) = (wants_sdp(command), Some((Box::new(command.clone()), now)));
        let entry = Entry { kind, wants_sdp, begun: now, result: None, asked };
        self.entries.insert(Arc::clone(&id), entry);
        self.order.push_back(id);
        self.pending += 1;
        self.forget();
        Begin::New
    }

    /// The oldest with a result goes first; those under way stay.
    fn forget(&mut self) {
        while self.order.len() > MAX_REMEMBERED {
            let done = |id: &Arc<str>| self.entries.get(id).is_none_or(|entry| entry.result.is_some());
            let Some(at) = self.order.iter().position(done) else { return };
            if let Some(id) = self.order.remove(at) {
                self.entries.remove(&id);
            }
        }
    }

    /// Type of the command that is under way with this id.
    pub(super) fn under_way(&self, id: &str) -> Option<(&'static str, bool)> {
        self.entries.get(id).filter(|e| e.result.is_none()).map(|e| (e.kind, e.wants_sdp))
    }

    /// The result of a command; `None` when it is not under way (unknown, or answered already).
    pub(super) fn finish(&mut self, id: &str, result: &Arc<str>, now: Instant) -> Option<Finished> {
        let (key, _) = self.entries.get_key_value(id)?;
        let key = Arc::clone(key);
        let entry = self.entries.get_mut(id).filter(|entry| entry.result.is_none())?;
        entry.result = Some(Arc::clone(result));
        entry.asked = None;
        self.pending -= 1;
        let (kind, took) = (entry.kind, now.saturating_duration_since(entry.begun));
        if entry.wants_sdp {
            self.forget_sdp();
        }
        Some(Finished { id: key, kind, took })
    }

    /// Results with SDP are long; after the newest ones they are forgotten.
    fn forget_sdp(&mut self) {
        let with_sdp = |entry: &Entry| entry.wants_sdp && entry.result.is_some();
        let all = self.order.iter().rev().filter(|id| self.entries.get(*id).is_some_and(with_sdp));
        let old: Vec<Arc<str>> = all.skip(MAX_SDP).cloned().collect();
        for id in old {
            self.entries.remove(&id);
            self.order.retain(|kept| *kept != id);
        }
    }

    /// Commands that have been without an answer for `pause` since they were last sent: they are to be sent again, in this
    /// order. One is not when a later one has its result: the state has gone on from it.
    pub(super) fn unanswered(&mut self, now: Instant, pause: Duration) -> Vec<(Arc<str>, Command)> {
        if self.pending == 0 {
            return Vec::new();
        }
        let mut again = Vec::new();
        for id in self.order.iter().rev() {
            let Some(entry) = self.entries.get_mut(id) else { continue };
            let Some((command, sent)) = &mut entry.asked else { break };
            if now.saturating_duration_since(*sent) >= pause {
                *sent = now;
                again.push((Arc::clone(id), (**command).clone()));
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
        let late = |id: &&Arc<str>| {
            self.entries
                .get(*id)
                .is_some_and(|e| e.result.is_none() && now.saturating_duration_since(e.begun) >= limit)
        };
        self.order.iter().filter(late).cloned().collect()
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
        assert!(log.entries.len() <= MAX_REMEMBERED && log.order.len() == log.entries.len());
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
        assert_eq!(log.order.len(), log.entries.len());
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
