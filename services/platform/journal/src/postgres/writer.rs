//! The node's one writer: takes what waits, in order, and commits it in batches, one at a time.
//!
//! While the server is away, appends wait, as many as the gate lets in and each for as long as the patience lasts; whoever
//! is still waiting when it is back is committed as if nothing had been. A batch whose answer was lost is settled before
//! anything else.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, sleep_until, timeout_at},
};

use super::{
    batch::Batch,
    store::{Outcome, Store},
    watch::Committed,
};
use crate::{
    AppendError, Fault,
    gate::{Gate, Queued},
    pace::Pace,
};

/// Time between attempts while the server is away.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// What the writer is asked for.
pub(super) enum Command {
    Append(Queued),
    #[cfg_attr(not(feature = "contract"), allow(dead_code))]
    Fault(Fault),
    Close(oneshot::Sender<()>),
}

/// The writer task's state.
pub(super) struct Writer {
    store: Store,
    commands: mpsc::Receiver<Command>,
    gate: Arc<Gate>,
    committed: Arc<Committed>,
    pace: Pace,
    patience: Duration,
    waiting: VecDeque<Queued>,
    /// A batch that was sent and whose answer was lost.
    in_doubt: Option<Batch>,
    closing: Option<oneshot::Sender<()>>,
    /// Since when the server has been away, and the pause before the next attempt.
    away: Option<(Instant, Duration)>,
}

impl Writer {
    pub(super) fn new(
        store: Store,
        commands: mpsc::Receiver<Command>,
        gate: Arc<Gate>,
        committed: Arc<Committed>,
        pace: Pace,
        patience: Duration,
    ) -> Self {
        let (waiting, in_doubt, closing, away) = (VecDeque::new(), None, None, None);
        Self { store, commands, gate, committed, pace, patience, waiting, in_doubt, closing, away }
    }

    /// Runs until it is told to close or nobody can tell it anything any more.
    pub(super) async fn run(mut self) {
        loop {
            if self.waiting.is_empty() && self.in_doubt.is_none() {
                self.gate.set_oldest(None);
                if self.closing.is_some() {
                    break;
                }
                match self.commands.recv().await {
                    Some(command) => self.note(command),
                    None => break,
                }
            }
            if let Some(until) = self.pace.wait(Instant::now()).filter(|_| self.closing.is_none()) {
                sleep_until(until).await;
            }
            self.gather();
            self.round().await;
        }
        self.store.close().await;
        if let Some(told) = self.closing.take() {
            let _ = told.send(());
        }
    }

    fn note(&mut self, command: Command) {
        match command {
            Command::Append(queued) => self.waiting.push_back(queued),
            Command::Fault(fault) => self.store.fault = Some(fault),
            Command::Close(told) => {
                self.commands.close();
                self.closing = Some(told);
            }
        }
    }

    /// Takes what has arrived. The gate bounds it.
    fn gather(&mut self) {
        while let Ok(command) = self.commands.try_recv() {
            self.note(command);
            if self.store.fault.is_some() {
                // A fault hits what comes after it, by itself.
                break;
            }
        }
    }

    async fn round(&mut self) {
        let (batch, settling) = match self.in_doubt.take() {
            Some(batch) => (batch, true),
            None => (Batch::take(&mut self.waiting), false),
        };
        let Some(oldest) = batch.appends.first() else { return };
        self.gate.set_oldest(Some(oldest.since));
        let started = Instant::now();
        self.pace.started(started, batch.appends.len());
        let outcome = match settling {
            true => self.store.settle(&batch).await,
            false => self.store.commit(&batch).await,
        };
        match outcome {
            Outcome::Answered(outcomes) => {
                self.gate.metrics.commit_seconds.observe(started.elapsed().as_secs_f64());
                self.gate.metrics.batch_appends.observe(batch.appends.len() as f64);
                self.back();
                let last = outcomes.iter().flatten().map(|appended| appended.position).max();
                for (queued, outcome) in batch.answer(outcomes, &mut self.waiting) {
                    queued.answer(outcome);
                }
                if let Some(position) = last {
                    self.committed.written(position);
                }
            }
            Outcome::Later(why) if settling => self.pause(Some(batch), &why).await,
            Outcome::Later(why) => {
                batch.give_back(&mut self.waiting);
                self.pause(None, &why).await;
            }
            Outcome::Lost(why) => self.pause(Some(batch), &why).await,
        }
    }

    fn back(&mut self) {
        if let Some((since, _)) = self.away.take() {
            tracing::info!(away_s = since.elapsed().as_secs_f64(), "the journal commits again");
        }
    }

    /// Waits before the next attempt, and answers those whose patience is over.
    async fn pause(&mut self, in_doubt: Option<Batch>, why: &str) {
        let (since, pause) = match self.away {
            Some((since, pause)) => (since, (pause * 2).min(LONGEST_PAUSE)),
            None => {
                tracing::error!(why, waiting = self.waiting.len(), "the journal cannot commit; appends wait");
                (Instant::now(), FIRST_PAUSE)
            }
        };
        self.away = Some((since, pause));
        self.in_doubt = in_doubt;
        let until = Instant::now() + pause;
        while self.closing.is_none() {
            match timeout_at(until, self.commands.recv()).await {
                Ok(Some(command)) => self.note(command),
                Ok(None) => break,
                Err(_) => break,
            }
        }
        self.expire(why);
    }

    /// Refuses what has waited too long; when it closes, everything.
    fn expire(&mut self, why: &str) {
        let (now, closing) = (Instant::now(), self.closing.is_some());
        let patience = self.patience;
        let over = |queued: &Queued| closing || now.duration_since(queued.since) >= patience;
        // A batch is settled as a whole: its youngest append decides.
        if self.in_doubt.as_ref().is_some_and(|batch| batch.appends.iter().all(over)) {
            let batch = self.in_doubt.take().unwrap_or_default();
            tracing::error!(why, appends = batch.appends.len(), "journal commit: outcome unknown");
            for queued in batch.appends {
                queued.answer(Err(AppendError::Ambiguous(why.to_owned())));
            }
        }
        while let Some(queued) = self.waiting.pop_front() {
            if !over(&queued) {
                self.waiting.push_front(queued);
                break;
            }
            queued.answer(Err(AppendError::Unavailable(why.to_owned())));
        }
    }
}
