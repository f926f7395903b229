//! The life of an entity within its host: rebuilt, published, retired, lost and rebuilt again.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use actix::{Actor, AsyncContext};
use trunkline_journal::{AppendError, EntityHistory, Pending};
use trunkline_types::{EntityAddress, Epoch, Machine};

use crate::{
    Activation, Behaviour, Handle, Lost, Undeliverable,
    entity::{Discard, Entity, Origin},
    handle::{Admission, Admitted},
    host::Inner,
    registry::{Slot, Starting},
};

/// The first pause before an entity that ended early is started again; doubles up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// How long a new activation waits for the appends of the former one.
const FLIGHT_WAIT: Duration = Duration::from_secs(30);

impl<B: Behaviour> Inner<B> {
    /// Reads the history, then starts the actor. The slot is `Starting`.
    pub(crate) fn activate(
        self: &Arc<Self>,
        address: Arc<EntityAddress>,
        ticket: u64,
        attempt: u32,
        flights: Vec<Pending>,
    ) {
        let host = Arc::clone(self);
        self.runtime.spawn(async move {
            let settle = async {
                for flight in flights {
                    let _ = flight.await;
                }
            };
            if tokio::time::timeout(FLIGHT_WAIT, settle).await.is_err() {
                tracing::warn!(entity = %address, "the journal has not answered; the entity is rebuilt from what is there");
            }
            if attempt > 0 {
                tokio::time::sleep((FIRST_PAUSE * 2_u32.pow((attempt - 1).min(12))).min(LONGEST_PAUSE)).await;
            }
            let Ok(_turn) = host.activating.acquire().await else { return };
            if host.starting(&address, ticket).is_none() {
                return;
            }
            match host.journal.load_entity(&address).await {
                Ok(history) => host.start_on_arbiter(address, ticket, history, attempt),
                Err(error) => {
                    host.give_up(&address, ticket, &Lost::History(error.to_string()), Undeliverable::Failed);
                }
            }
        });
    }

    pub(crate) fn start_on_arbiter(
        self: &Arc<Self>,
        address: Arc<EntityAddress>,
        ticket: u64,
        history: EntityHistory,
        attempt: u32,
    ) {
        let (host, at) = (Arc::clone(self), Arc::clone(&address));
        let sent =
            self.arbiters.of(address.shard()).spawn_fn(move || host.start(&at, ticket, history, attempt));
        if !sent {
            self.drop_slot(&address, ticket, Undeliverable::Failed);
        }
    }

    /// The epoch of the start that holds this ticket, and whether a message waits for it; `None` = another one has taken
    /// its place.
    fn starting(&self, address: &EntityAddress, ticket: u64) -> Option<(Epoch, bool)> {
        match self.registry.stripe(address).get(address) {
            Some(Slot::Starting(starting)) if starting.ticket == ticket => {
                Some((starting.epoch, !starting.waiting.is_empty()))
            }
            _ => None,
        }
    }

    /// On the arbiter: rebuilds the core and starts the actor.
    fn start(
        self: &Arc<Self>,
        address: &Arc<EntityAddress>,
        ticket: u64,
        history: EntityHistory,
        attempt: u32,
    ) {
        let Some((epoch, waited_for)) = self.starting(address, ticket) else { return };
        let shard = address.shard();
        // What was admitted before the shard was let go is still handled: the journal takes it until another node seals.
        let released = self.tenures.is_released(shard, epoch);
        let lost = !released && self.placement.sealed(shard) != Some(epoch);
        if lost || (released && !waited_for) || self.closing.load(Ordering::Acquire) {
            return self.drop_slot(address, ticket, Undeliverable::Failed);
        }
        if history.finished {
            return self.drop_slot(address, ticket, Undeliverable::Finished);
        }
        if history.count == 0 && !self.wanted_new(address) {
            return self.drop_slot(address, ticket, Undeliverable::Unknown);
        }
        let generation = self.ticket();
        let admission = Admission::new(self.options.permits, self.metrics.depth.clone());
        self.metrics.activate(if history.count == 0 { "new" } else { "journal" });
        let built = catch_unwind(AssertUnwindSafe(|| {
            let mut failure = None;
            let actor = Entity::create(|context| {
                let handle = Handle::new(context.address().recipient(), Arc::clone(&admission));
                let (mut core, behaviour) = (self.factory)(address, handle);
                failure = replay(&behaviour, &mut core, &history).err();
                let dead = failure.is_some();
                Entity::new(
                    self.origin(address, epoch, core, behaviour, &admission, generation, attempt, &history),
                    dead,
                )
            });
            failure.map_or(Ok(actor), Err)
        }));
        match built {
            Ok(Ok(actor)) => self.publish(address, ticket, actor, admission, generation),
            Ok(Err(why)) => self.give_up(address, ticket, &Lost::History(why), Undeliverable::Failed),
            Err(_) => {
                self.metrics.panics.inc();
                self.give_up(
                    address,
                    ticket,
                    &Lost::History("panic while it was rebuilt".to_owned()),
                    Undeliverable::Failed,
                );
            }
        }
    }

    #[allow(clippy::too_many_arguments)]
    fn origin(
        self: &Arc<Self>,
        address: &Arc<EntityAddress>,
        epoch: Epoch,
        core: B::Core,
        behaviour: B,
        admission: &Arc<Admission>,
        generation: u64,
        attempt: u32,
        history: &EntityHistory,
    ) -> Origin<B> {
        Origin {
            address: Arc::clone(address),
            epoch,
            core,
            behaviour,
            admission: Arc::clone(admission),
            host: Arc::clone(self),
            generation,
            attempt,
            count: history.count,
            seq: history.last_seq,
            snapshot: history.snapshot.as_ref().map_or(0, |snapshot| snapshot.nth),
            snapshot_bytes: history.snapshot.as_ref().map_or(0, |snapshot| snapshot.body.len()),
        }
    }

    fn wanted_new(&self, address: &EntityAddress) -> bool {
        match self.registry.stripe(address).get(address) {
            Some(Slot::Starting(starting)) => {
                starting.waiting.iter().any(|(_, activation)| *activation != Activation::OnlyExisting)
            }
            _ => false,
        }
    }

    /// Lets messages reach the actor, those that waited first.
    fn publish(
        &self,
        address: &Arc<EntityAddress>,
        ticket: u64,
        actor: actix::Addr<Entity<B>>,
        admission: Arc<Admission>,
        generation: u64,
    ) {
        let mut slots = self.registry.stripe(address);
        let holds = |slot: &&mut Slot<B>| matches!(slot, Slot::Starting(s) if s.ticket == ticket);
        let Some(slot) = slots.get_mut(&**address).filter(holds) else {
            // Another start took its place while it was rebuilt.
            #[allow(clippy::disallowed_methods)]
            actor.do_send(Discard);
            return;
        };
        let epoch = slot.epoch();
        let running =
            Slot::Running { actor: actor.clone(), admission: Arc::clone(&admission), generation, epoch };
        let Slot::Starting(starting) = std::mem::replace(slot, running) else { return };
        for (message, _) in starting.waiting {
            // As many as there are permits waited at most.
            let Some(permit) = admission.admit() else { break };
            #[allow(clippy::disallowed_methods)]
            actor.do_send(Admitted { message, permit });
        }
        for watcher in starting.watchers {
            let _ = watcher.send(true);
        }
    }

    fn give_up(&self, address: &EntityAddress, ticket: u64, lost: &Lost, why: Undeliverable) {
        tracing::error!(entity = %address, %lost, "entity cannot be started");
        self.metrics.lose(lost.reason());
        if let Some(told) = &self.on_lost {
            told(address, lost);
        }
        self.drop_slot(address, ticket, why);
    }

    /// Forgets the entity, unless another start has taken its place, and answers what waited for it.
    fn drop_slot(&self, address: &EntityAddress, ticket: u64, why: Undeliverable) {
        let removed = {
            let mut slots = self.registry.stripe(address);
            match slots.get(address) {
                Some(Slot::Starting(starting)) if starting.ticket == ticket => {
                    self.registry.remove(&mut slots, address)
                }
                _ => None,
            }
        };
        let Some(Slot::Starting(starting)) = removed else { return };
        for (message, _) in starting.waiting {
            self.metrics.undeliverable(match why {
                Undeliverable::Unknown => "unknown",
                Undeliverable::Finished => "finished",
                Undeliverable::Failed => "failed",
            });
            if let Some(given) = &self.on_undeliverable {
                given(address, message, why);
            }
        }
        for watcher in starting.watchers {
            let _ = watcher.send(false);
        }
    }

    /// An actor that has nothing left to do asks whether it may go. Not while a message is on its way to it, unless the
    /// host closes.
    pub(crate) fn retire(
        &self,
        address: &EntityAddress,
        generation: u64,
        admission: &Admission,
        closing: bool,
    ) -> bool {
        let mut slots = self.registry.stripe(address);
        match slots.get(address) {
            Some(Slot::Running { generation: held, .. }) if *held == generation => {
                if !closing && !admission.idle() {
                    return false;
                }
                self.registry.remove(&mut slots, address);
                true
            }
            // Not published yet: it asks again with its next message or timer.
            Some(Slot::Starting(_)) => false,
            _ => true,
        }
    }

    /// An actor discarded its state.
    pub(crate) fn lost(
        self: &Arc<Self>,
        address: &Arc<EntityAddress>,
        generation: u64,
        lost: Lost,
        attempt: u32,
        flights: Vec<Pending>,
    ) {
        tracing::error!(entity = %address, %lost, attempt, "entity lost its state");
        self.metrics.lose(lost.reason());
        if matches!(lost, Lost::Panicked(_)) {
            self.metrics.panics.inc();
        }
        if let Some(told) = &self.on_lost {
            told(address, &lost);
        }
        let fenced = match &lost {
            Lost::Journal(AppendError::Fenced { current }) => Some(*current),
            _ => None,
        };
        if let Some(current) = fenced {
            self.placement.fenced(address.shard(), current);
        }
        let mut slots = self.registry.stripe(address);
        match slots.get_mut(&**address) {
            Some(slot @ Slot::Running { .. }) => {
                if !matches!(slot, Slot::Running { generation: held, .. } if *held == generation) {
                    return;
                }
                let epoch = slot.epoch();
                let ours = self.admitted(address.shard()) == Some(epoch);
                if fenced.is_some() || !ours || self.closing.load(Ordering::Acquire) {
                    self.registry.remove(&mut slots, address);
                    return;
                }
                let ticket = self.ticket();
                *slot = Slot::Starting(Starting::new(epoch, ticket));
                drop(slots);
                self.activate(Arc::clone(address), ticket, attempt, flights);
            }
            // It was lost in its first step, before it was published.
            Some(Slot::Starting(starting)) => {
                let ticket = starting.ticket;
                drop(slots);
                match fenced {
                    Some(_) => self.drop_slot(address, ticket, Undeliverable::Failed),
                    None => self.activate(Arc::clone(address), ticket, attempt, flights),
                }
            }
            None => {}
        }
    }
}

/// Brings a fresh core to where the journal ends.
fn replay<B: Behaviour>(behaviour: &B, core: &mut B::Core, history: &EntityHistory) -> Result<(), String> {
    if let Some(snapshot) = &history.snapshot {
        behaviour
            .restore(core, snapshot.version, &snapshot.body)
            .map_err(|error| format!("snapshot after event {}: {error}", snapshot.nth))?;
    }
    for stored in &history.events {
        let event = behaviour.decode(stored).map_err(|error| {
            format!("event {} ({} v{}): {error}", stored.nth, stored.kind, stored.version)
        })?;
        core.apply(&event);
    }
    Ok(())
}
