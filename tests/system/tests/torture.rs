//! Proves that each of the 49 messages of RFC 4475 is answered or dropped as it should be, over UDP and over TCP, that
//! the system answers OPTIONS right after each, and that neither memory nor descriptors grow.

use std::{collections::HashSet, time::Duration};

use anyhow::{Context, Result, bail, ensure};
use tokio::{net::UdpSocket, time::Instant};
use trunkline_system_tests::{
    net::loopback,
    rfc4475::{CASES, Case, Outcome, call_id, message},
    s,
    sip::{Answer, Read, Stream, options, receive},
    system::{Setup, System},
    until,
};

/// All messages so often, to see whether something grows.
const ROUNDS: u64 = 3;
const GROWTH_KIB: u64 = 24 * 1_024;
const ANSWER_WITHIN: Duration = s(5);
/// RFC 3261 timer E.
const T1: Duration = Duration::from_millis(500);

#[tokio::test]
async fn over_udp_each_message_has_its_outcome() -> Result<()> {
    // Two messages are one transaction by RFC 3261 section 17.2.3 (cparam01 and cparam02: same branch, sent-by and
    // method). With shorter timers the second is new before its sender gives up.
    let system = Setup::new("torture-udp")?.config("sip: { t1_ms: 20, t2_ms: 80 }\n")?.start().await?;
    // RFC 3261 section 18.2.2: without rport the answer goes to the default port of the address it came from.
    let socket = UdpSocket::bind(loopback(5060)).await.context(
        "127.0.0.1:5060 must be free: the messages' Via has no port, so their answers go to the default port",
    )?;
    // One message names another port, one another protocol with another default.
    let named =
        UdpSocket::bind(loopback(5050)).await.context("127.0.0.1:5050 must be free: quotbal names it")?;
    let tls =
        UdpSocket::bind(loopback(5061)).await.context("127.0.0.1:5061 must be free: bext01 came by TLS")?;
    let mut udp = Udp { system: &system, socket, others: [named, tls], seen: HashSet::new(), options: 0 };
    for case in &CASES {
        udp.try_case(case).await.with_context(|| format!("{} over UDP", case.name))?;
    }
    let before = (system.memory_kib()?, system.descriptors()?);
    for _ in 1..ROUNDS {
        for case in &CASES {
            udp.socket.send_to(&message(case.name)?, system.sip()).await?;
            udp.options_are_answered().await.with_context(|| format!("after {} again", case.name))?;
        }
    }
    flat(&system, before).await?;
    drop(udp);
    system.stop().await?;
    Ok(())
}

#[tokio::test]
async fn over_tcp_each_message_has_its_outcome() -> Result<()> {
    let system = System::start("torture-tcp").await?;
    let mut n = 0;
    for case in &CASES {
        let answer = exchange(&system, case, &mut n, true).await;
        let judged = answer.and_then(|answer| match (case.tcp, answer) {
            (Outcome::Answered(allowed), Some(answer)) => judge(case, &answer, allowed),
            (Outcome::Answered(_), None) => bail!("closed without an answer"),
            (Outcome::Dropped, Some(answer)) => bail!("answered: {}", answer.text),
            (Outcome::Dropped, None) => Ok(()),
        });
        judged.with_context(|| format!("{} over TCP", case.name))?;
    }
    let before = (system.memory_kib()?, system.descriptors()?);
    for _ in 1..ROUNDS {
        for case in &CASES {
            // The same transaction again: it need not be answered again.
            exchange(&system, case, &mut n, false).await.with_context(|| format!("{} again", case.name))?;
        }
    }
    flat(&system, before).await?;
    system.stop().await?;
    Ok(())
}

struct Udp<'a> {
    system: &'a System,
    socket: UdpSocket,
    others: [UdpSocket; 2],
    /// What came before: the answer to an INVITE is sent again, because nobody acknowledges it.
    seen: HashSet<Vec<u8>>,
    options: u64,
}

impl Udp<'_> {
    async fn try_case(&mut self, case: &Case) -> Result<()> {
        let bytes = message(case.name)?;
        self.socket.send_to(&bytes, self.system.sip()).await?;
        match case.udp {
            Outcome::Answered(allowed) => {
                let answer = self.answer(call_id(&bytes), &bytes).await?;
                judge(case, &answer, allowed)?;
                self.options_are_answered().await
            }
            // When the OPTIONS sent behind it is answered, the message was dealt with.
            Outcome::Dropped => {
                self.options_are_answered().await?;
                match self.fresh(Duration::from_millis(50)).await? {
                    Some(answer) => bail!("answered: {}", answer.text),
                    None => Ok(()),
                }
            }
        }
    }

    /// The final answer to a message, which is sent again as a sender over UDP does.
    async fn answer(&mut self, call_id: Option<String>, bytes: &[u8]) -> Result<Answer> {
        let deadline = Instant::now() + ANSWER_WITHIN;
        while Instant::now() < deadline {
            let Some(answer) = self.fresh(T1).await? else {
                self.socket.send_to(bytes, self.system.sip()).await?;
                continue;
            };
            let ours =
                call_id.as_ref().is_none_or(|id| answer.header("Call-ID").first() == Some(&id.as_str()));
            if ours && answer.status >= 200 {
                return Ok(answer);
            }
        }
        bail!("not answered")
    }

    /// The next answer that was not seen before.
    async fn fresh(&mut self, limit: Duration) -> Result<Option<Answer>> {
        let deadline = Instant::now() + limit;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let datagram = tokio::select! {
                datagram = receive(&self.socket, left) => datagram?,
                datagram = receive(&self.others[0], left) => datagram?,
                datagram = receive(&self.others[1], left) => datagram?,
            };
            let Some(datagram) = datagram else { return Ok(None) };
            if self.seen.insert(datagram.clone()) {
                return Ok(Some(
                    Answer::parse(&datagram).with_context(|| format!("no answer: {datagram:?}"))?,
                ));
            }
        }
    }

    async fn options_are_answered(&mut self) -> Result<()> {
        self.options += 1;
        let request = options(self.system.sip(), self.socket.local_addr()?, "UDP", self.options);
        self.socket.send_to(request.as_bytes(), self.system.sip()).await?;
        let answer = self
            .answer(call_id(request.as_bytes()), request.as_bytes())
            .await
            .context("the OPTIONS behind it")?;
        ensure!(answer.status == 200, "the OPTIONS behind it: {}", answer.text);
        Ok(())
    }
}

/// One connection: the message, its answer; then an OPTIONS on the same connection when that is still open, otherwise on
/// a new one. Returns the answer.
async fn exchange(system: &System, case: &Case, n: &mut u64, first: bool) -> Result<Option<Answer>> {
    let bytes = message(case.name)?;
    let mut stream = Stream::connect(system.sip()).await?;
    stream.send(&bytes).await;
    *n += 1;
    let request = options(system.sip(), stream.local()?, "TCP", *n);
    let own = call_id(request.as_bytes());
    if case.name == "clerr" {
        // It promises more than it has: what follows would be its body. The end of the stream settles it.
        stream.finish().await;
    } else {
        stream.send(request.as_bytes()).await;
    }
    let (mut answer, mut alive) = (None, false);
    while !alive || (first && answer.is_none() && case.tcp != Outcome::Dropped) {
        match stream.read(ANSWER_WITHIN).await? {
            Read::Message(bytes) => {
                let found = Answer::parse(&bytes).with_context(|| format!("no answer: {bytes:?}"))?;
                if found.header("Call-ID").first().copied() == own.as_deref() {
                    ensure!(found.status == 200, "the OPTIONS behind it: {}", found.text);
                    alive = true;
                } else if found.status >= 200 && answer.is_none() {
                    answer = Some(found);
                }
            }
            Read::Closed => break,
            Read::Silence => bail!("neither answered nor closed; answer so far {answer:?}"),
        }
    }
    if !alive {
        fresh_connection_is_served(system, n).await?;
    }
    Ok(answer)
}

async fn fresh_connection_is_served(system: &System, n: &mut u64) -> Result<()> {
    let mut stream = Stream::connect(system.sip()).await?;
    *n += 1;
    stream.send(options(system.sip(), stream.local()?, "TCP", *n).as_bytes()).await;
    match stream.read(ANSWER_WITHIN).await? {
        Read::Message(bytes) => {
            let answer = Answer::parse(&bytes).context("no answer")?;
            ensure!(answer.status == 200, "OPTIONS: {}", answer.text);
            Ok(())
        }
        other => bail!("OPTIONS on a new connection: {other:?}"),
    }
}

fn judge(case: &Case, answer: &Answer, allowed: &[u16]) -> Result<()> {
    ensure!(allowed.contains(&answer.status), "{} is not in {allowed:?}: {}", answer.status, answer.text);
    for name in case.with {
        ensure!(!answer.header(name).is_empty(), "without {name}: {}", answer.text);
    }
    Ok(())
}

/// Memory and descriptors are what they were after the first round, within what an allocator keeps.
async fn flat(system: &System, (memory, descriptors): (u64, usize)) -> Result<()> {
    until("descriptors go back", s(10), || {
        let now = system.descriptors();
        async move { Ok((now? <= descriptors + 2).then_some(())) }
    })
    .await
    .with_context(|| format!("{descriptors} descriptors before, {:?} now", system.descriptors()))?;
    let now = system.memory_kib()?;
    ensure!(now <= memory + GROWTH_KIB, "memory grew from {memory} to {now} KiB");
    Ok(())
}
