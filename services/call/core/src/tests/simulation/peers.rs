//! The peers of the simulated call.

use bytes::Bytes;

use super::*;

/// Which node's SDP it is.
fn sdp_of(node: &NodeId) -> Bytes {
    Bytes::from(format!("v=0\r\n{node}\r\n"))
}

fn node_of(sdp: &[u8]) -> Option<NodeId> {
    std::str::from_utf8(sdp).ok()?.lines().nth(1)?.parse().ok()
}

fn object(recording: RecordingId, salvaged: bool) -> RecordedObject {
    RecordedObject {
        recording,
        key: String::new(),
        duration_ms: 1,
        size_bytes: 1,
        sha256: String::new(),
        holds: Vec::new(),
        gaps: Vec::new(),
        salvaged,
    }
}

fn sessions(node: &NodeId, media: &Media) -> MediaOk {
    let endpoints = media.endpoints.iter().map(|leg| EndpointInfo {
        leg: *leg,
        connected: true,
        codec: None,
        direction: None,
        local_sdp: sdp_of(node),
    });
    let session = SessionInfo {
        call: call_id(),
        endpoints: endpoints.collect(),
        recording: media.recording,
        transcribing: media.transcript.is_some(),
    };
    let sessions = if media.endpoints.is_empty() { Vec::new() } else { vec![session] };
    MediaOk { sessions, ..MediaOk::default() }
}

impl World {
    // ------------------------------------------------------------------------------------------------ caller

    pub(super) fn edge_gives_invite(&mut self, transaction: String) {
        let known = self.heard || self.now.since(self.began) > Duration::from_secs(32);
        if known || self.caller_gone {
            return;
        }
        self.plan(Duration::from_millis(500), Happening::EdgeGivesInvite(transaction.clone()));
        let Some(mut incoming) = self.first.clone() else { return };
        incoming.transaction = transaction;
        incoming.route = self.route();
        self.send(Happening::ToCall(Input::Request(Box::new(incoming))));
    }

    /// The caller's requests reach the call through another edge from now on. An INVITE that has only been rung is sent
    /// again, and is another transaction there.
    pub(super) fn edge_dies(&mut self) {
        self.edge += 1;
        if !self.answered && self.heard && !self.caller_gone {
            let Some(mut incoming) = self.first.clone() else { return };
            incoming.transaction = format!("t1-{}", self.edge);
            incoming.route = self.route();
            let after = self.dice.span(500);
            self.plan(after, Happening::ToCall(Input::Request(Box::new(incoming))));
        }
    }

    pub(super) fn caller_hears(&mut self, response: &Response, retransmission: bool) {
        if let Some(tag) = response.headers.to_tag() {
            self.bed.tag = tag;
        }
        self.heard = true;
        if response.is_provisional() {
            return;
        }
        let cseq = response.headers.cseq().unwrap();
        // To a straggler, after the 2xx: the transactions at edge and caller are over.
        let late =
            self.answers.contains(&cseq.number) && cseq.method == Method::Invite && !response.is_success();
        if !retransmission && !late {
            // What a former owner answered the edge passed on, and no second answer.
            let request = format!("{} {}", cseq.number, cseq.method);
            let (epoch, statuses) = self.finals.entry(request).or_insert((self.epoch, BTreeSet::new()));
            if *epoch == self.epoch {
                statuses.insert(response.status);
            }
        }
        if cseq.method == Method::Invite {
            self.inviting.take_if(|inviting| *inviting == cseq.number);
        }
        if response.is_success() && cseq.method == Method::Invite {
            self.answered = true;
            if let Some(node) = node_of(&response.body) {
                // An answer that comes again says nothing new.
                if self.answers.insert(cseq.number) {
                    self.caller_at = Some(node);
                }
            }
            // ACKs are lost as well; the 200 comes again.
            if !self.dice.percent(self.loss) {
                let request = self.bed.request("ACK", cseq.number, "", "");
                let incoming =
                    Incoming { transaction: String::new(), request, route: self.route(), new_call: None };
                let after = self.dice.span(50);
                self.plan(after, Happening::ToCall(Input::Request(Box::new(incoming))));
            }
        }
    }

    pub(super) fn caller_asked(&mut self, client_transaction: String, request: &Request) {
        if request.method == Method::Invite {
            return self.send(Happening::CallerInvited(self.epoch, client_transaction, request.clone()));
        }
        if request.method == Method::Bye {
            self.answered_bye = true;
        }
        if self.dice.percent(90) {
            let response = Box::new(Response::to(request, if self.caller_gone { 481 } else { 200 }));
            let after = self.dice.span(100);
            self.plan(after, Happening::ToCall(Input::Response { client_transaction, response }));
        }
    }

    /// Our INVITE. The edge gives it to the caller once, and its response whenever it is asked.
    pub(super) fn caller_invited(&mut self, epoch: u64, client_transaction: String, request: &Request) {
        let cseq = request.headers.cseq().unwrap().number;
        let first = *self.numbered.entry(cseq).or_insert(epoch);
        assert_eq!(first, epoch, "CSeq {cseq} of two owners");
        if let Some((status, _)) = self.invited.get(&cseq).copied() {
            if status != 0 {
                self.send_answer(client_transaction, request, status);
            }
            return;
        }
        let open = self.invited.values().any(|(status, acked)| *status == 200 && !acked);
        let status = match self.dice.below(100) {
            _ if self.caller_gone || self.answered_bye => 481,
            _ if self.inviting.is_some() => 491,
            _ if open => 500,
            0..=1 => 488,
            2 => 0,
            3..=8 => 500,
            9..=18 => 491,
            _ => 200,
        };
        self.invited.insert(cseq, (status, status != 200));
        if status == 0 {
            let failure = crate::TransactionFailure::Timeout;
            let failed = Input::TransactionFailed { transaction: client_transaction, failure };
            return self.plan(Duration::from_secs(32), Happening::ToCall(failed));
        }
        if status == 200 {
            self.caller_at = node_of(&request.body).or(self.caller_at.take());
        }
        self.send_answer(client_transaction, request, status);
    }

    fn send_answer(&mut self, client_transaction: String, request: &Request, status: u16) {
        let mut response = Response::to(request, status);
        if status == 200 {
            response = response.with_body("application/sdp", "v=0\r\n");
            return self.caller_repeats(client_transaction, response, 0);
        }
        self.send(Happening::ToCall(Input::Response { client_transaction, response: Box::new(response) }));
    }

    /// RFC 3261 section 13.3.1.4 at the caller.
    pub(super) fn caller_repeats(&mut self, client_transaction: String, response: Response, n: u8) {
        let cseq = response.headers.cseq().unwrap().number;
        if self.invited.get(&cseq).is_some_and(|(_, acked)| *acked) || n > 10 || self.answered_bye {
            return;
        }
        let again = Happening::CallerRepeats(client_transaction.clone(), response.clone(), n + 1);
        self.plan(Duration::from_millis(500 << n.min(3)), again);
        self.send(Happening::ToCall(Input::Response { client_transaction, response: Box::new(response) }));
    }

    pub(super) fn caller_acked(&mut self, ack: &Request) {
        assert_eq!(ack.method, Method::Ack);
        if !self.dice.percent(self.loss)
            && let Some((_, acked)) = self.invited.get_mut(&ack.headers.cseq().unwrap().number)
        {
            *acked = true;
        }
    }

    // ------------------------------------------------------------------------------------------------ media

    pub(super) fn media(&mut self, node: &NodeId, epoch: u64, command: MediaCommand) {
        let Some(mut media) = self.media.remove(node) else { panic!("a command to {node}") };
        // Fenced: a former owner's command that was under way does nothing any more.
        // The bus keeps the order of one sender to one node: nothing from before a CloseSession comes after it.
        let overtaken = command.id < media.closed;
        if command.body == MediaBody::CloseSession && !media.dead {
            media.closed = media.closed.max(command.id);
        }
        if !media.dead && epoch >= media.epoch && !overtaken {
            media.epoch = epoch;
            let reply = match media.replies.get(&command.id) {
                Some(reply) => reply.clone(),
                None => {
                    let result = self.execute(node, &mut media, command.body);
                    let reply = MediaReply { command: command.id, result };
                    media.replies.insert(command.id, reply.clone());
                    reply
                }
            };
            self.send(Happening::ToCall(Input::MediaReply(Box::new(reply))));
        }
        let kept = self.media.remove(node).map(|media| media.kept).unwrap_or_default();
        media.kept.extend(kept);
        self.media.insert(node.clone(), media);
    }

    /// Told now, and again until it is acknowledged.
    pub(super) fn event(&mut self, node: &NodeId, event: MediaEvent) {
        self.event_id += 1;
        let id = self.event_id;
        self.media.entry(node.clone()).or_default().kept.insert(id, event.clone());
        self.tell_event(node, id, event);
    }

    fn tell_event(&mut self, node: &NodeId, id: u64, event: MediaEvent) {
        let node = Some(node.clone());
        let input = Input::MediaEvent { node, id, acknowledge: true, event: Box::new(event) };
        self.send(Happening::ToCall(input));
    }

    pub(super) fn acknowledged(&mut self, node: &NodeId, event: u64) {
        if let Some(media) = self.media.get_mut(node) {
            media.kept.remove(&event);
        }
    }

    pub(super) fn media_tick(&mut self) {
        self.plan(Duration::from_millis(1_300), Happening::MediaTick);
        let alive = self.media.iter().filter(|(_, media)| !media.dead);
        let kept: Vec<_> = alive
            .flat_map(|(node, media)| media.kept.iter().map(|(id, e)| (node.clone(), *id, e.clone())))
            .collect();
        for (node, id, event) in kept {
            self.tell_event(&node, id, event);
        }
    }

    /// The node on which the call is dies. It is noticed, or it is back before that.
    pub(super) fn media_dies(&mut self) {
        let Some(node) = self.call.media_node().cloned() else { return };
        let alive = self.media.values().filter(|media| !media.dead).count();
        let Some(media) = self.media.get_mut(&node).filter(|media| !media.dead && alive > 1) else { return };
        // What had been recorded is in the store, if it was long enough.
        let stored = media.recording.take();
        *media = Media { dead: true, ..Media::default() };
        self.stored.extend(stored.filter(|_| self.dice.percent(85)));
        if self.dice.percent(70) {
            let after = Duration::from_millis(500) + self.dice.span(3_500);
            self.plan(after, Happening::MediaNoticed(node.clone()));
            let back = Duration::from_secs(5) + self.dice.span(30_000);
            self.plan(back, Happening::MediaRestarts(node));
        } else {
            let back = self.dice.span(2_000);
            self.plan(back, Happening::MediaRestarts(node));
        }
    }

    pub(super) fn media_restarts(&mut self, node: NodeId) {
        self.media.insert(node.clone(), Media { epoch: 0, ..Media::default() });
        self.library.gone.lock().unwrap().retain(|gone| *gone != node);
        let mut nodes = self.library.nodes.lock().unwrap();
        if !nodes.contains(&node) {
            nodes.push(node);
        }
    }

    pub(super) fn media_drains(&mut self, node: NodeId, tries: u8) {
        let node = if tries == 0 {
            let Some(node) = self.call.media_node().cloned() else { return };
            self.plan(Duration::from_secs(60), Happening::MediaDrained(node.clone()));
            node
        } else {
            node
        };
        self.library.nodes.lock().unwrap().retain(|known| *known != node);
        if let Some(media) = self.media.get_mut(&node) {
            media.draining = true;
        }
        if tries < 20 && self.call.media_node() == Some(&node) {
            self.plan(Duration::from_secs(1), Happening::MediaDrains(node.clone(), tries + 1));
            self.tell(Input::LeaveMediaNode(node));
        }
    }

    pub(super) fn media_drained(&mut self, node: &NodeId) {
        let Some(media) = self.media.get_mut(node) else { return };
        media.draining = false;
        if !media.dead {
            let mut nodes = self.library.nodes.lock().unwrap();
            if !nodes.contains(node) {
                nodes.push(node.clone());
            }
        }
    }

    fn execute(
        &mut self,
        node: &NodeId,
        media: &mut Media,
        body: MediaBody,
    ) -> Result<MediaOk, MediaFailure> {
        use MediaBody::{CloseSession, ListSessions, Salvage};
        let fail = |kind| Err(MediaFailure { kind, message: String::new() });
        if self.dice.percent(2) && !matches!(body, CloseSession | ListSessions) {
            return fail(MediaFailureKind::Overload);
        }
        if media.draining && media.endpoints.is_empty() && body.creates() {
            return fail(MediaFailureKind::ShuttingDown);
        }
        let caller_offers = matches!(&body, MediaBody::CreateRtp { sdp, .. } if !sdp.is_empty());
        if (caller_offers || matches!(body, MediaBody::CreateWebRtc { .. })) && self.dice.percent(3) {
            return fail(MediaFailureKind::NoCommonCodec);
        }
        let mut no_recogniser = false;
        match body {
            MediaBody::CreateRtp { leg, .. } => {
                assert_eq!(leg.index, 0);
                media.endpoints.insert(leg);
                self.event(node, MediaEvent::Connected { leg });
            }
            MediaBody::CreateWebRtc { leg, .. } | MediaBody::ReplaceWebRtc { leg, .. } => {
                if media.endpoints.is_empty() {
                    return fail(MediaFailureKind::UnknownSession);
                }
                let agents = media.endpoints.iter().filter(|known| known.index > 0 && **known != leg).count();
                assert!(agents <= 1, "a third agent's leg beside {:?}", media.endpoints);
                media.endpoints.insert(leg);
                self.event(node, MediaEvent::Connected { leg });
            }
            _ if media.endpoints.is_empty()
                && !matches!(body, CloseSession | ListSessions | Salvage { .. }) =>
            {
                return fail(MediaFailureKind::UnknownSession);
            }
            MediaBody::CloseEndpoint { leg } => {
                media.endpoints.remove(&leg);
            }
            CloseSession => {
                media.endpoints.clear();
                self.finish_recording(node, media);
                self.finish_transcript(node, media);
            }
            MediaBody::SetProgram { leg, program: Program::Play(play) } => {
                if !media.endpoints.contains(&leg) {
                    return fail(MediaFailureKind::UnknownEndpoint);
                }
                if self.dice.percent(5) {
                    return fail(MediaFailureKind::UnknownPrompt);
                }
                self.event(node, MediaEvent::PlaybackFinished { leg, token: play.token });
            }
            MediaBody::StartRecording { .. } if self.dice.percent(3) => {
                return fail(MediaFailureKind::Internal);
            }
            MediaBody::StartRecording { recording, .. } => {
                media.recording = Some(recording);
                no_recogniser = self.dice.percent(20);
                if self.dice.percent(8) {
                    for over in [false, true].into_iter().take(1 + self.dice.below(2) as usize) {
                        let reason = "No space left on device".to_owned();
                        self.event(node, MediaEvent::RecordingTrouble { recording, reason, over });
                    }
                }
            }
            MediaBody::StopRecording { .. } => self.finish_recording(node, media),
            MediaBody::StartTranscription { recording, .. } => media.transcript = Some(recording),
            MediaBody::StopTranscription { .. } => self.finish_transcript(node, media),
            Salvage { recording, .. } => {
                let event = if self.stored.contains(&recording) {
                    MediaEvent::RecordingFinished(Box::new(object(recording, true)))
                } else {
                    MediaEvent::RecordingFailed { recording, reason: "nothing is stored".into() }
                };
                self.event(node, event);
            }
            ListSessions => return Ok(sessions(node, media)),
            _ => {}
        }
        let direction = if self.dice.percent(50) { Direction::RecvOnly } else { Direction::SendRecv };
        Ok(MediaOk { sdp: sdp_of(node), no_recogniser, ..ok(direction) })
    }

    fn finish_recording(&mut self, node: &NodeId, media: &mut Media) {
        if let Some(recording) = media.recording.take() {
            self.event(node, MediaEvent::RecordingFinished(Box::new(object(recording, false))));
        }
    }

    fn finish_transcript(&mut self, node: &NodeId, media: &mut Media) {
        if let Some(recording) = media.transcript.take() {
            let state = crate::TranscriptState::Finished;
            self.event(node, MediaEvent::TranscriptStatus { recording, state, detail: String::new() });
        }
    }

    // ------------------------------------------------------------------------------------------------ queue

    fn queue_says(&mut self, entry: u32, signal: QueueSignal) {
        let queue = self.call.queue().cloned().unwrap_or_else(queue);
        self.send(Happening::ToCall(Input::Queue { queue, entry, signal }));
    }

    pub(super) fn queue(&mut self, request: QueueRequest) {
        match request {
            QueueRequest::Enqueue(enqueue) => {
                let entry = enqueue.entry;
                let left = self.queue.gone.contains(&entry) || self.queue.answered.contains(&entry);
                if self.queue.timed_out == Some(entry) {
                    self.queue_says(entry, QueueSignal::TimedOut);
                } else if left {
                    self.queue_says(entry, QueueSignal::Left);
                } else if self.queue.waiting != Some(entry) && self.dice.percent(5) {
                    self.queue.gone.insert(entry);
                    self.queue_says(entry, QueueSignal::Refused(RefusedReason::QueueFull));
                } else {
                    self.queue.waiting = Some(entry);
                    self.queue_says(entry, QueueSignal::Queued { position: 0 });
                }
            }
            QueueRequest::Leave { entry, .. } => {
                self.queue.gone.insert(entry);
                self.queue.waiting.take_if(|waiting| *waiting == entry);
                self.queue.timed_out.take_if(|late| *late == entry);
                self.queue_says(entry, QueueSignal::Left);
            }
            QueueRequest::Answered { entry, offer, .. } => {
                self.queue.answered.insert(entry);
                self.queue.waiting.take_if(|waiting| *waiting == entry);
                self.queue_says(entry, QueueSignal::Acknowledged(offer));
            }
            QueueRequest::ConnectFailed { entry, offer, .. } => {
                self.queue_says(entry, QueueSignal::Acknowledged(offer));
            }
            QueueRequest::Gone { entry } => {
                self.queue.gone.insert(entry);
                self.queue.waiting.take_if(|waiting| *waiting == entry);
            }
            QueueRequest::Alive { .. } => {}
        }
    }

    pub(super) fn queue_tick(&mut self) {
        self.plan(Duration::from_secs(1), Happening::QueueTick);
        if let Some(entry) = self.queue.timed_out {
            self.queue_says(entry, QueueSignal::TimedOut);
        }
        let Some(entry) = self.queue.waiting else { return };
        let busy = self.agents.values().any(|agent| agent.entry == entry && agent.is != AgentIs::Over);
        if !busy && self.dice.percent(10) {
            self.queue.offers += 1;
            let (is, at) = (AgentIs::Connecting, None);
            let agent = AgentPeer { is, entry, at, remaking: None, remade: 0, pending: None };
            self.agents.insert(offer(self.queue.offers), agent);
        } else if !busy && self.dice.percent(2) {
            self.queue.waiting = None;
            self.queue.timed_out = Some(entry);
        } else if self.dice.percent(5) {
            self.queue_says(entry, QueueSignal::Ask);
        }
    }

    // ------------------------------------------------------------------------------------------------ agent

    fn agent_says(&mut self, offer: &OfferId, request: AgentRequest) {
        let agent = format!("agent-{}", offer.n).parse().unwrap();
        self.send(Happening::ToCall(Input::Agent { agent, offer: offer.clone(), request }));
    }

    pub(super) fn agent_tick(&mut self) {
        self.plan(Duration::from_millis(700), Happening::AgentTick);
        let there: Vec<OfferId> = self
            .agents
            .iter()
            .filter(|(_, agent)| agent.is != AgentIs::Over)
            .map(|(offer, _)| offer.clone())
            .collect();
        for offer in there {
            self.agent_acts(&offer);
        }
    }

    fn agent_acts(&mut self, offer: &OfferId) {
        let Some(mut agent) = self.agents.get(offer).cloned() else { return };
        if agent.is == AgentIs::Connecting {
            let connect = AgentRequest::Connect {
                session: "s".into(),
                sdp_offer: "v".into(),
                agent_name: "A".into(),
                queue: queue(),
                recording: true,
                recording_required: self.dice.percent(30),
            };
            let request = if self.dice.percent(5) { AgentRequest::GiveUp } else { connect };
            return self.agent_says(offer, request);
        }
        if agent.pending.is_none() && self.dice.percent(8) {
            self.controls += 1;
            agent.pending = Some((self.controls.to_string(), self.wish()));
            self.agents.insert(offer.clone(), agent.clone());
        }
        if let Some(moved) = agent.remaking {
            let (session, request) = ("s".to_owned(), format!("move-{moved}"));
            let remake = AgentRequest::RemakeMedia { session, request, sdp_offer: "v".into() };
            return self.agent_says(offer, remake);
        }
        match agent.pending {
            Some((command, control)) => {
                self.agent_says(offer, AgentRequest::Control { session: "s".into(), command, control });
            }
            None if self.dice.percent(2) => self.agent_says(offer, AgentRequest::AskAlive),
            None if self.dice.percent(2) => {
                let (session, request) = ("s2".to_owned(), self.now.as_micros().to_string());
                self.agent_says(offer, AgentRequest::RemakeMedia { session, request, sdp_offer: "v".into() });
            }
            None => {}
        }
    }

    fn wish(&mut self) -> Control {
        let on = self.controls.is_multiple_of(2);
        match self.dice.below(18) {
            0 => Control::HangUp,
            1..=3 => Control::Hold(on),
            4..=5 => Control::Mute(on),
            6..=7 => Control::Digits("12".into()),
            8..=11 => Control::PauseRecording(on),
            12 => Control::Transfer(queue()),
            13..=14 => Control::Consult(queue()),
            15..=16 => Control::CompleteTransfer,
            _ => Control::CancelConsult,
        }
    }

    pub(super) fn agent(&mut self, offer: OfferId, notice: AgentNotice) {
        let Some(agent) = self.agents.get_mut(&offer) else { return };
        match notice {
            AgentNotice::Connected { sdp_answer, .. } if agent.is == AgentIs::Connecting => {
                agent.is = AgentIs::Talking;
                agent.at = node_of(sdp_answer.as_bytes());
            }
            AgentNotice::MediaMoved { moved } if moved > agent.remade => agent.remaking = Some(moved),
            AgentNotice::MediaRemade { request, sdp_answer, error, .. } => {
                let moved = request.strip_prefix("move-").and_then(|moved| moved.parse().ok());
                if error.is_empty() {
                    agent.at = node_of(sdp_answer.as_bytes());
                }
                if let Some(moved) = agent.remaking.take_if(|moving| Some(*moving) == moved) {
                    agent.remade = moved;
                }
            }
            AgentNotice::ConnectFailed { .. } => {
                assert_ne!(agent.is, AgentIs::Talking, "connected and failed under one offer");
                agent.is = AgentIs::Over;
            }
            AgentNotice::Ended { at, .. } => {
                let took = self.now.since(at);
                let in_time = agent.is == AgentIs::Over || took <= HEARD_WITHIN;
                assert!(in_time, "the agent heard of the end after {took:?}");
                (agent.is, agent.at) = (AgentIs::Over, None);
                (agent.pending, agent.remaking) = (None, None);
                self.agent_says(&offer, AgentRequest::EndedAck);
            }
            AgentNotice::Result { command, .. } => {
                agent.pending.take_if(|(pending, _)| *pending == command);
            }
            _ => {}
        }
    }
}
