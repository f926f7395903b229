//! One entity as an actix actor: steps its core, appends, and releases effects behind their commits.

use std::{
    any::Any,
    collections::VecDeque,
    future::Future,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{self, Poll},
    time::Duration,
};

use actix::{Actor, ActorFuture, AsyncContext, Context, Handler, Message};
use bytes::Bytes;
use tokio::time::{Instant, Sleep};
use trunkline_journal::{Append, AppendError, Appended, EffectId, NewEvent, Pending, Snapshot};
use trunkline_types::{EntityAddress, Epoch, Machine, Outbox, Output, Timestamp};

use crate::{
    Behaviour, CommitClass, Lost,
    clock::{now, until, wake_at},
    handle::{Admission, Admitted, Permit},
    host::Inner,
};

/// A core whose deadline stays in the past is a defect; it is stepped no more often than this.
const LEAST_TIMER: Duration = Duration::from_millis(10);
/// Events taken from one outbox at most; more is a core that runs away.
const MOST_EVENTS: usize = trunkline_journal::MAX_EVENTS_PER_APPEND;

/// Counts the effects of the process, see [`EffectId::i`].
static EMISSIONS: AtomicU64 = AtomicU64::new(0);

/// What an entity starts from.
pub(crate) struct Origin<B: Behaviour> {
    pub(crate) address: Arc<EntityAddress>,
    pub(crate) epoch: Epoch,
    pub(crate) core: B::Core,
    pub(crate) behaviour: B,
    pub(crate) admission: Arc<Admission>,
    pub(crate) host: Arc<Inner<B>>,
    /// Tells this activation from others of the same entity.
    pub(crate) generation: u64,
    /// How many activations in a row ended early before this one.
    pub(crate) attempt: u32,
    /// Committed events, and the place of the last one in the shard.
    pub(crate) count: u64,
    pub(crate) seq: u64,
    /// Events within the newest snapshot.
    pub(crate) snapshot: u64,
    /// How large that was.
    pub(crate) snapshot_bytes: usize,
}

/// An append under way.
struct Flight {
    pending: Pending,
    /// Held until the decision that the message led to is committed.
    permit: Option<Permit>,
    snapshot: Option<Snapshot>,
}

pub(crate) struct Entity<B: Behaviour> {
    from: Origin<B>,
    outbox: Outbox<B::Event, B::Effect>,
    flights: VecDeque<Flight>,
    /// Effects in order, each with the number of the append that has to be committed before it.
    effects: VecDeque<(u64, B::Effect)>,
    /// Appends made, and appends committed.
    sent: u64,
    committed: u64,
    /// The last append with an event of class `First`: later effects wait for it.
    barrier: u64,
    started: Timestamp,
    dead: bool,
    closing: bool,
}

impl<B: Behaviour> Entity<B> {
    /// `dead` = it could not be rebuilt and does nothing but end.
    pub(crate) fn new(from: Origin<B>, dead: bool) -> Self {
        Self {
            from,
            outbox: Outbox::new(),
            flights: VecDeque::new(),
            effects: VecDeque::new(),
            sent: 0,
            committed: 0,
            barrier: 0,
            started: now(),
            dead,
            closing: false,
        }
    }

    /// Advances the core to now, lets it do `work`, and takes what it put out.
    fn step(
        &mut self,
        context: &mut Context<Self>,
        permit: Option<Permit>,
        work: impl FnOnce(&mut Self, Timestamp),
    ) {
        if self.dead {
            return;
        }
        if self.outlived() {
            self.effects.clear();
            self.flights.clear();
            return self.stop(context);
        }
        let at = now();
        let stepped = catch_unwind(AssertUnwindSafe(|| {
            self.from.core.advance(at, &mut self.outbox);
            work(self, at);
            self.take(at, permit)
        }));
        match stepped {
            Ok(Ok(())) => self.rest(context),
            Ok(Err(lost)) => self.lose(context, lost),
            Err(panic) => self.lose(context, panicked(&*panic)),
        }
    }

    /// Whether the shard has been sealed anew, so that this activation is one of a former epoch.
    fn outlived(&self) -> bool {
        self.from
            .host
            .placement
            .sealed(self.from.address.shard())
            .is_some_and(|epoch| epoch > self.from.epoch)
    }

    /// Sorts the outbox into an append and waiting effects.
    fn take(&mut self, at: Timestamp, permit: Option<Permit>) -> Result<(), Lost> {
        let mut events: Vec<NewEvent> = Vec::new();
        for output in self.outbox.drain() {
            match output {
                Output::Event(event) => {
                    if self.from.behaviour.class(&event) == CommitClass::First {
                        self.barrier = self.sent + 1;
                    }
                    events.push(self.from.behaviour.encode(&event, at));
                }
                Output::Effect(effect) => self.effects.push_back((self.barrier, effect)),
            }
        }
        if events.len() > MOST_EVENTS {
            return Err(Lost::Panicked(format!("{} events in one step", events.len())));
        }
        if let Some(last) = events.last_mut() {
            last.last = self.from.behaviour.finished(&self.from.core);
            self.append(events, permit);
        }
        self.release();
        self.from.behaviour.stepped(&self.from.core, at);
        Ok(())
    }

    fn append(&mut self, events: Vec<NewEvent>, permit: Option<Permit>) {
        let after = self.from.count;
        self.from.count += events.len() as u64;
        self.sent += 1;
        let snapshot = self.snapshot();
        let entity = EntityAddress::clone(&self.from.address);
        let pending = self.from.host.journal.append(Append { entity, epoch: self.from.epoch, after, events });
        self.flights.push_back(Flight { pending, permit, snapshot });
    }

    /// The state that the append in hand leads to, when it is time for a snapshot.
    fn snapshot(&mut self) -> Option<Snapshot> {
        let nth = self.from.count;
        if nth - self.from.snapshot < self.from.host.options.spacing(self.from.snapshot_bytes) {
            return None;
        }
        self.from.snapshot = nth;
        let (version, body): (u16, Bytes) = self.from.behaviour.snapshot(&self.from.core)?;
        self.from.snapshot_bytes = body.len();
        Some(Snapshot { nth, version, body })
    }

    /// Performs the effects whose turn it is.
    fn release(&mut self) {
        while self.effects.front().is_some_and(|(barrier, _)| *barrier <= self.committed) {
            let Some((_, effect)) = self.effects.pop_front() else { break };
            let i = EMISSIONS.fetch_add(1, Ordering::Relaxed);
            let shard = self.from.address.shard();
            self.from
                .behaviour
                .perform(effect, EffectId { shard, epoch: self.from.epoch, seq: self.from.seq, i });
        }
    }

    /// The oldest append has been answered.
    fn answered(&mut self, context: &mut Context<Self>, outcome: Result<Appended, AppendError>) {
        let Some(flight) = self.flights.pop_front() else { return };
        let appended = match outcome {
            Ok(appended) => appended,
            Err(error) => return self.lose(context, Lost::Journal(error)),
        };
        self.committed += 1;
        self.from.seq = appended.last_seq;
        if let Some(snapshot) = flight.snapshot {
            let (host, address) = (Arc::clone(&self.from.host), Arc::clone(&self.from.address));
            self.from.host.runtime.spawn(async move {
                if let Err(error) = host.journal.put_snapshot(&address, snapshot).await {
                    tracing::warn!(entity = %address, %error, "snapshot not stored; the history stays longer");
                }
            });
        }
        drop(flight.permit);
        match catch_unwind(AssertUnwindSafe(|| self.release())) {
            Ok(()) => self.rest(context),
            Err(panic) => self.lose(context, panicked(&*panic)),
        }
    }

    /// Ends the actor when there is nothing left to do for it.
    fn rest(&mut self, context: &mut Context<Self>) {
        let settled = self.flights.is_empty() && self.effects.is_empty();
        if settled {
            self.shrink();
        }
        if !settled || self.dead || !(self.closing || self.from.behaviour.finished(&self.from.core)) {
            return;
        }
        if self.from.host.retire(&self.from.address, self.from.generation, &self.from.admission, self.closing)
        {
            self.stop(context);
        }
    }

    /// Most actors rest for most of the time: what a step needs is not kept until the next.
    fn shrink(&mut self) {
        self.outbox.shrink();
        self.flights = VecDeque::new();
        self.effects = VecDeque::new();
    }

    fn stop(&mut self, context: &mut Context<Self>) {
        use actix::ActorContext;
        self.dead = true;
        context.stop();
    }

    /// Discards the state. What was appended may still be committed: a new activation waits for that.
    fn lose(&mut self, context: &mut Context<Self>, lost: Lost) {
        if self.dead {
            return;
        }
        self.stop(context);
        self.effects.clear();
        let young = now().since(self.started) < Duration::from_secs(60);
        let attempt = if young { self.from.attempt + 1 } else { 1 };
        let flights = std::mem::take(&mut self.flights).into_iter().map(|flight| flight.pending).collect();
        self.from.host.lost(&self.from.address, self.from.generation, lost, attempt, flights);
    }
}

fn panicked(panic: &(dyn Any + Send)) -> Lost {
    let text = panic.downcast_ref::<&str>().map(ToString::to_string);
    let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
    Lost::Panicked(text.unwrap_or_else(|| "no message".to_owned()))
}

impl<B: Behaviour> Unpin for Entity<B> {}

impl<B: Behaviour> Actor for Entity<B> {
    type Context = Context<Self>;

    fn started(&mut self, context: &mut Self::Context) {
        if self.dead {
            return self.stop(context);
        }
        context.spawn(Pump { timer: None, armed: None });
        if self.from.count > 0 {
            self.step(context, None, |entity, at| entity.from.core.recovered(at, &mut entity.outbox));
        }
    }
}

impl<B: Behaviour> Handler<Admitted<B::Message>> for Entity<B> {
    type Result = ();

    fn handle(&mut self, Admitted { message, permit }: Admitted<B::Message>, context: &mut Self::Context) {
        self.step(context, Some(permit), |entity, at| {
            if let Some(input) = entity.from.behaviour.input(message, at) {
                entity.from.core.handle(at, input, &mut entity.outbox);
            }
        });
    }
}

/// Ends the actor once what is under way is committed.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct Close;

impl<B: Behaviour> Handler<Close> for Entity<B> {
    type Result = ();

    fn handle(&mut self, _: Close, context: &mut Self::Context) {
        self.closing = true;
        self.rest(context);
    }
}

/// Ends the actor at once: its shard was sealed anew, and another activation has taken its place.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct Discard;

impl<B: Behaviour> Handler<Discard> for Entity<B> {
    type Result = ();

    fn handle(&mut self, _: Discard, context: &mut Self::Context) {
        self.effects.clear();
        self.flights.clear();
        self.stop(context);
    }
}

/// A look at the core.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct Inspect<C>(pub(crate) Box<dyn FnOnce(&C) + Send>);

impl<B: Behaviour> Handler<Inspect<B::Core>> for Entity<B> {
    type Result = ();

    fn handle(&mut self, inspect: Inspect<B::Core>, _: &mut Self::Context) {
        (inspect.0)(&self.from.core);
    }
}

/// Waits for the oldest append and for the next deadline. One for the life of an actor; actix polls it after the mailbox.
struct Pump {
    timer: Option<Pin<Box<Sleep>>>,
    armed: Option<Armed>,
}

/// What a timer is set for.
#[derive(Clone, Copy)]
struct Armed {
    deadline: Timestamp,
    /// When it goes off, see [`wake_at`].
    at: Timestamp,
}

impl Pump {
    /// Sets the timer. One that is set too early is left: it finds nothing due and is set again, which is cheaper than to
    /// move it with every message.
    fn arm(&mut self, deadline: Option<Timestamp>, least: Duration) -> bool {
        let Some(deadline) = deadline.filter(|deadline| *deadline != Timestamp::MAX) else {
            return self.armed.is_some();
        };
        if self.armed.is_none_or(|armed| deadline < armed.deadline) {
            let at = wake_at(deadline, now());
            let left = until(at);
            let instant = Instant::now() + if left.is_zero() { least } else { left };
            match &mut self.timer {
                Some(timer) => timer.as_mut().reset(instant),
                None => self.timer = Some(Box::pin(tokio::time::sleep_until(instant))),
            }
            self.armed = Some(Armed { deadline, at });
        }
        true
    }
}

impl<B: Behaviour> ActorFuture<Entity<B>> for Pump {
    type Output = ();

    fn poll(
        mut self: Pin<&mut Self>,
        entity: &mut Entity<B>,
        context: &mut Context<Entity<B>>,
        task: &mut task::Context<'_>,
    ) -> Poll<()> {
        let mut least = Duration::ZERO;
        loop {
            while let Some(flight) = entity.flights.front_mut() {
                let Poll::Ready(outcome) = Pin::new(&mut flight.pending).poll(task) else { break };
                entity.answered(context, outcome);
            }
            if entity.dead {
                return Poll::Ready(());
            }
            if entity.closing {
                // It decides nothing more; deadlines are the next owner's.
                return Poll::Pending;
            }
            if !self.arm(entity.from.core.next_deadline(), least) {
                return Poll::Pending;
            }
            let Some(timer) = &mut self.timer else { return Poll::Pending };
            if timer.as_mut().poll(task).is_pending() {
                return Poll::Pending;
            }
            if let Some(due) = self.armed.take().filter(|due| due.at <= now()) {
                entity.from.host.metrics.lag(now().since(due.at).as_secs_f64());
            }
            entity.step(context, None, |_, _| ());
            least = LEAST_TIMER;
        }
    }
}
