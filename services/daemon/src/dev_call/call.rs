//! One call, from INVITE to its end.

use std::time::{Duration, Instant};

use anyhow::Context;
use tokio::{
    net::UdpSocket,
    sync::{mpsc, watch},
    task::JoinHandle,
};
use trunkline_sip::{
    CSeq, Dialog, HeaderName, Headers, Method, NameAddr, Reason, Request, Response, SipUri, TransactionId,
    Uri, token, uas::Capabilities,
};

use super::{
    audio::Law,
    listen::Heard,
    report::{Line, Outcome, describe},
    rtp::{self, Noticed, Script, Session},
    sdp::{self, Direction, Remote},
    ua::{self, Event, Handle},
};

/// Longest wait for the answer to our BYE or CANCEL.
const FAREWELL: Duration = Duration::from_secs(5);
const SDP: &str = "application/sdp";

/// What one call is to do.
pub struct Plan {
    /// Whom to call.
    pub to: Uri,
    /// Where to send the INVITE.
    pub target: std::net::SocketAddr,
    /// The caller's number.
    pub from: String,
    /// The caller's name.
    pub name: String,
    /// Codecs in order of preference.
    pub laws: [Law; 2],
    /// What to say.
    pub script: Script,
    /// Hang up when it is said.
    pub hang_up_after: bool,
    /// Hang up so long after the answer.
    pub talk: Option<Duration>,
    /// Hang up so long after the beginning.
    pub max: Duration,
}

enum Phase {
    Calling,
    Talking,
    /// CANCEL is sent; a 200 may cross it.
    Cancelling,
    /// BYE is sent.
    Leaving(TransactionId),
    Over,
}

struct Call {
    plan: Plan,
    ua: Handle,
    line: Line,
    events: mpsc::Receiver<Event>,
    media: watch::Sender<Option<Session>>,
    local: sdp::Local,
    contact: Uri,
    invite: Request,
    invite_id: TransactionId,
    dialog: Option<Dialog>,
    remote: Option<Remote>,
    our_events: u8,
    phase: Phase,
    farewell: Option<Instant>,
    outcome: Outcome,
}

/// Places a call and stays with it until it has ended. `stop` becoming true hangs up.
pub async fn place(plan: Plan, ua: Handle, line: Line, mut stop: watch::Receiver<bool>) -> Outcome {
    let begun = Instant::now();
    let (call, voice, mut noticed) = match Call::begin(plan, ua, line.clone()).await {
        Ok(begun) => begun,
        Err(error) => {
            line.failure(&format!("could not be placed: {error:#}"));
            return Outcome { begun, failure: Some("could not be placed".into()), ..Outcome::new() };
        }
    };
    let mut call = Box::new(call);
    let mut listening = true;
    while !matches!(call.phase, Phase::Over) {
        let deadline = call.deadline();
        let done = tokio::select! {
            event = call.events.recv() => match event {
                Some(event) => call.event(event).await,
                None => Err(ua::closed()),
            },
            what = noticed.recv(), if listening => match what {
                Some(what) => call.noticed(what).await,
                None => { listening = false; Ok(()) }
            },
            () = stopped(&mut stop), if call.farewell.is_none() => call.hang_up("Ctrl-C").await,
            () = tokio::time::sleep_until(deadline.into()) => call.late().await,
        };
        if let Err(error) = done {
            call.broken(&error).await;
        }
    }
    call.finish(voice).await
}

/// Waits until all calls are to end.
async fn stopped(stop: &mut watch::Receiver<bool>) {
    // The sender lives as long as the command; without it there is nobody left to wait for.
    let _ = stop.wait_for(|stop| *stop).await;
}

impl Call {
    async fn begin(
        plan: Plan,
        ua: Handle,
        line: Line,
    ) -> anyhow::Result<(Self, JoinHandle<Heard>, mpsc::Receiver<Noticed>)> {
        let ip = ua.local.ip();
        let socket = UdpSocket::bind((ip, 0)).await.context("no UDP socket for media")?;
        let mut local = sdp::Local::new(socket.local_addr()?, rand::random::<u64>() >> 2);
        let contact = SipUri::new(Some("caller"), &ua::host_of(ip))?.with_port(ua.local.port());
        let from = SipUri::new(Some(&plan.from), &ua::host_of(ip))?;
        let call_id = token::call_id(rand::random(), "dev-call");
        let can = Capabilities::default();
        let offer = local.write(&plan.laws, Some(sdp::EVENTS), Direction::SendRecv);
        let from = NameAddr::new(from).with_display(&plan.name).with_tag(&token::tag(rand::random()));
        let invite = Request::new(Method::Invite, plan.to.clone())
            .with_header(HeaderName::Via, ua.via()?.to_value())
            .with_header(HeaderName::MaxForwards, "70")
            .with_header(HeaderName::From, from.to_value())
            .with_header(HeaderName::To, NameAddr::new(plan.to.clone()).to_value())
            .with_header(HeaderName::CallId, call_id.clone())
            .with_header(HeaderName::CSeq, CSeq { number: 1, method: Method::Invite }.to_value())
            .with_header(HeaderName::Contact, NameAddr::new(contact.clone()).to_value())
            .with_header(HeaderName::Allow, can.allow())
            .with_header(HeaderName::UserAgent, "trunkline dev call")
            .with_body(SDP, offer);
        let events = ua.register(&call_id).await?;
        line.say(&format!("placed to {} as {:?} <{}>", plan.to, plan.name, plan.from));
        let outcome = Outcome { begun: Instant::now(), ..Outcome::new() };
        let invite_id = ua.send(invite.clone(), plan.target).await?;
        let (media, session) = watch::channel(None);
        let (sender, noticed) = mpsc::channel(32);
        let script = plan.script.clone();
        let voice = tokio::spawn(async move { rtp::run(socket, script, session, sender).await });
        let call = Self {
            plan,
            ua,
            line,
            events,
            media,
            local,
            contact: contact.into(),
            invite,
            invite_id,
            dialog: None,
            remote: None,
            our_events: sdp::EVENTS,
            phase: Phase::Calling,
            farewell: None,
            outcome,
        };
        Ok((call, voice, noticed))
    }

    fn deadline(&self) -> Instant {
        let max = self.outcome.begun + self.plan.max;
        let talk = self.outcome.answered.zip(self.plan.talk).map(|(at, talk)| at + talk);
        self.farewell.unwrap_or_else(|| talk.map_or(max, |talk| talk.min(max)))
    }

    /// The deadline has come.
    async fn late(&mut self) -> anyhow::Result<()> {
        match (self.farewell, self.outcome.answered) {
            (Some(_), _) => {
                self.line.say("ended without waiting longer for the other side's answer");
                self.phase = Phase::Over;
                Ok(())
            }
            (None, Some(_)) => self.hang_up("its time was up").await,
            (None, None) => {
                let text = format!("not answered within {} s", self.plan.max.as_secs_f64());
                self.outcome.failure = Some(text);
                self.hang_up("it was not answered in time").await
            }
        }
    }

    async fn event(&mut self, event: Event) -> anyhow::Result<()> {
        match event {
            Event::Response(id, response) if id == self.invite_id => self.answer_to_invite(response).await,
            Event::Response(id, response) => {
                if matches!(self.phase, Phase::Leaving(bye) if bye == id) && !response.is_provisional() {
                    self.phase = Phase::Over;
                }
                Ok(())
            }
            Event::Request(id, request) => self.request(id, request).await,
            Event::Ack(ack) => {
                if !ack.body.is_empty() {
                    self.take(sdp::read(&ack.body).map_err(anyhow::Error::msg)?);
                }
                Ok(())
            }
            Event::Failed(id) if id == self.invite_id && matches!(self.phase, Phase::Calling) => {
                self.fail(&format!("no answer to the INVITE from {}", self.plan.target));
                Ok(())
            }
            Event::Failed(id) if matches!(self.phase, Phase::Leaving(bye) if bye == id) => {
                self.phase = Phase::Over;
                Ok(())
            }
            Event::Failed(_) if matches!(self.phase, Phase::Talking) => {
                self.outcome.failure = Some("no ACK for a re-INVITE".into());
                self.hang_up("our 200 was never acknowledged").await
            }
            Event::Failed(_) => Ok(()),
        }
    }

    async fn answer_to_invite(&mut self, response: Response) -> anyhow::Result<()> {
        let after = self.outcome.begun.elapsed();
        match response.status {
            100 => Ok(()),
            101..200 => {
                if self.dialog.is_none() {
                    self.dialog = Dialog::from_response(&self.invite, &response).ok();
                }
                if response.status == 180 && self.outcome.ringing.is_none() {
                    self.outcome.ringing = Some(after);
                }
                let early = if response.body.is_empty() { "" } else { ", early media" };
                self.line.say(&format!("{} after {}{early}", describe(&response), millis(after)));
                // Early media that cannot be used is no reason to give up: the answer comes later.
                if let Ok(remote) = sdp::read(&response.body) {
                    self.take(remote);
                }
                Ok(())
            }
            200..300 => self.answered(response, after).await,
            status => {
                if matches!(self.phase, Phase::Cancelling) {
                    self.phase = Phase::Over;
                    return Ok(());
                }
                let hint = match status {
                    401 | 407 => " (it asks for credentials, which this caller has not)",
                    404 => " (nobody by this name; --to names a queue, a flow or a number)",
                    _ => "",
                };
                self.fail(&format!("refused: {}{hint}", describe(&response)));
                Ok(())
            }
        }
    }

    async fn answered(&mut self, response: Response, after: Duration) -> anyhow::Result<()> {
        let known = self.dialog.as_ref().filter(|dialog| dialog.matches_response(&response));
        if known.is_none() || !known.is_some_and(|dialog| dialog.confirmed) {
            let mut dialog = Dialog::from_response(&self.invite, &response)?;
            let ack = dialog.ack(1, &self.ua.via()?, None)?;
            let hop = ua::resolve(&dialog.next_hop()?).await?;
            self.ua.ack(self.invite_id, ack, hop).await?;
            if self.dialog.as_ref().is_some_and(|dialog| dialog.confirmed) {
                // Another fork answered too: one is enough.
                let bye = dialog.request(Method::Bye, &self.ua.via()?, None)?;
                self.ua.send(bye, hop).await?;
                return Ok(());
            }
            self.dialog = Some(dialog);
        } else {
            return Ok(());
        }
        self.outcome.answered = Some(Instant::now());
        if matches!(self.phase, Phase::Cancelling) {
            self.phase = Phase::Talking;
            return self.hang_up("the answer crossed our CANCEL").await;
        }
        self.phase = Phase::Talking;
        match sdp::read(&response.body) {
            Ok(remote) => {
                self.line.say(&format!(
                    "answered after {} ({}, media at {}), says {}",
                    millis(after),
                    remote.law.name(),
                    remote.address,
                    self.plan.script.speech.name,
                ));
                self.take(remote);
                Ok(())
            }
            Err(problem) => {
                self.outcome.failure = Some(format!("its answer cannot be used: {problem}"));
                self.hang_up("the answer has no audio for us").await
            }
        }
    }

    /// Takes the other side's offer or answer.
    fn take(&mut self, remote: Remote) {
        let held = self.remote.is_some_and(|old| old.holds());
        match (held, remote.holds()) {
            (false, true) => {
                self.line.say(&format!("on hold (the other side is {})", remote.direction.name()))
            }
            (true, false) => self.line.say("resumed"),
            _ => {}
        }
        if self.remote.is_some_and(|old| old.address != remote.address) {
            self.line.say(&format!("media moved to {}", remote.address));
        }
        self.remote = Some(remote);
        self.media.send_replace(Some(Session {
            remote: remote.address,
            law: remote.law,
            events: remote.events,
            our_events: self.our_events,
            send: !remote.holds(),
            talk: self.outcome.answered.is_some(),
        }));
    }

    async fn request(&mut self, id: TransactionId, request: Request) -> anyhow::Result<()> {
        let Some(dialog) = &mut self.dialog else {
            return self.ua.respond(id, Response::to(&request, 481)).await;
        };
        if let Err(error) = dialog.receive_request(&request) {
            return self.ua.respond(id, Response::to(&request, error.status())).await;
        }
        let ok = Response::to(&request, 200)
            .with_header(HeaderName::Contact, NameAddr::new(self.contact.clone()).to_value());
        match request.method {
            Method::Bye => {
                self.ua.respond(id, Response::to(&request, 200)).await?;
                if matches!(self.phase, Phase::Calling | Phase::Talking) {
                    self.line.say(&format!(
                        "ended by the other side after {}{}",
                        self.age(),
                        causes(&request.headers)
                    ));
                }
                self.phase = Phase::Over;
            }
            Method::Invite if request.body.is_empty() => {
                let laws = self.plan.laws;
                let offer = self.local.write(&laws, Some(self.our_events), Direction::SendRecv);
                self.ua.respond(id, ok.with_body(SDP, offer)).await?;
            }
            Method::Invite | Method::Update if !request.body.is_empty() => match sdp::read(&request.body) {
                Ok(remote) => {
                    self.our_events = remote.events.unwrap_or(self.our_events);
                    let answer = self.local.write(&[remote.law], remote.events, remote.direction.answer());
                    self.take(remote);
                    self.ua.respond(id, ok.with_body(SDP, answer)).await?;
                }
                Err(problem) => {
                    self.line.say(&format!("refused an offer with 488: {problem}"));
                    self.ua.respond(id, Response::to(&request, 488)).await?;
                }
            },
            _ => self.ua.respond(id, ok).await?,
        }
        Ok(())
    }

    async fn noticed(&mut self, what: Noticed) -> anyhow::Result<()> {
        match what {
            Noticed::Audio => {
                let since = match self.outcome.answered {
                    Some(at) => {
                        format!("hears audio since {:.1} s after the answer", at.elapsed().as_secs_f64())
                    }
                    None => "hears audio before the answer".into(),
                };
                self.outcome.audio_after =
                    Some(self.outcome.answered.map_or(Duration::ZERO, |at| at.elapsed()));
                self.line.say(&since);
            }
            Noticed::Quiet => self.line.say("hears nothing: no packet for 2 s"),
            Noticed::Back(after) => {
                self.line.say(&format!("hears audio again after {:.1} s", after.as_secs_f64()));
            }
            Noticed::Key(key) => self.line.say(&format!("was sent the key {key}")),
            Noticed::DigitsSent => self.line.say(&format!("pressed {}", self.plan.script.digits)),
            Noticed::DigitsImpossible => {
                self.outcome.failure = Some("keys could not be sent".into());
                self.line.failure("cannot press keys: the other side has no telephone-event (RFC 4733)");
            }
            Noticed::Said => {
                self.line.say(&format!("has said {}", self.plan.script.speech.name));
                if self.plan.hang_up_after {
                    return self.hang_up("everything was said").await;
                }
            }
        }
        Ok(())
    }

    /// Ends the call from our side, in whatever phase.
    async fn hang_up(&mut self, why: &str) -> anyhow::Result<()> {
        if self.farewell.is_some() {
            return Ok(());
        }
        self.farewell = Some(Instant::now() + FAREWELL);
        match (&self.phase, &mut self.dialog) {
            (Phase::Calling, _) => {
                self.line.say(&format!("gives up after {}: {why}", self.age()));
                self.phase = Phase::Cancelling;
                let mut reason = Headers::default();
                reason.push(HeaderName::Reason, Reason::sip(487, "Request Terminated").to_value());
                self.ua.cancel(self.invite_id, reason).await?;
            }
            (Phase::Talking, Some(dialog)) => {
                let bye = dialog.request(Method::Bye, &self.ua.via()?, None)?;
                let bye =
                    bye.with_header(HeaderName::Reason, Reason::q850(16, "Normal call clearing").to_value());
                let hop = ua::resolve(&dialog.next_hop()?).await?;
                self.line.say(&format!("hangs up after {}: {why}", self.age()));
                self.phase = Phase::Leaving(self.ua.send(bye, hop).await?);
            }
            _ => self.phase = Phase::Over,
        }
        Ok(())
    }

    /// Something went wrong on our side of an established call: the other side must not be left alone with it.
    async fn broken(&mut self, error: &anyhow::Error) {
        let why = format!("{error:#}");
        if matches!(self.phase, Phase::Talking) && self.farewell.is_none() {
            self.line.failure(&why);
            self.outcome.failure = Some(why);
            if self.hang_up("it cannot go on").await.is_ok() {
                return;
            }
        }
        self.fail(&format!("{error:#}"));
    }

    fn fail(&mut self, why: &str) {
        self.line.failure(why);
        self.outcome.failure = Some(why.to_owned());
        self.phase = Phase::Over;
    }

    /// How long the call lasts: from the answer, else from the beginning.
    fn age(&self) -> String {
        format!("{:.1} s", self.outcome.answered.unwrap_or(self.outcome.begun).elapsed().as_secs_f64())
    }

    async fn finish(self, voice: JoinHandle<Heard>) -> Outcome {
        let mut outcome = self.outcome;
        outcome.ended = Some(Instant::now());
        drop(self.media);
        if let Ok(call_id) = self.invite.headers.call_id() {
            self.ua.forget(call_id).await;
        }
        match voice.await {
            Ok(heard) => outcome.heard = heard,
            Err(error) => self.line.failure(&format!("the media task failed: {error}")),
        }
        if outcome.answered.is_some() {
            self.line.heard(&outcome.heard);
        }
        match &outcome.heard.tape {
            Some(Ok(path)) => self.line.say(&format!("recorded to {}", path.display())),
            Some(Err(error)) => {
                self.line.failure(&format!("not recorded: {error}"));
                outcome.failure.get_or_insert_with(|| "not recorded".into());
            }
            None => {}
        }
        outcome
    }
}

fn millis(duration: Duration) -> String {
    format!("{:.0} ms", duration.as_secs_f64() * 1_000.0)
}

/// Why, by the Reason headers (RFC 3326).
fn causes(headers: &Headers) -> String {
    headers
        .reasons()
        .iter()
        .map(|reason| {
            let cause = reason.cause.map(|cause| format!(" cause {cause}")).unwrap_or_default();
            let text = reason.text.as_deref().map(|text| format!(" ({text})")).unwrap_or_default();
            format!(", {}{cause}{text}", reason.protocol)
        })
        .collect()
}
