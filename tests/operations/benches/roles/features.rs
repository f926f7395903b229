//! What features add: a menu before the queue, a transfer, captures of SIP and RTCP, a stream to a recogniser, telephones that
//! register.

use std::{
    net::{IpAddr, SocketAddr},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use futures::{Stream, StreamExt, future::try_join_all};
use tokio::{net::TcpListener, sync::mpsc, time::Instant};
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::{Request, Response, Status, Streaming};
use trunkline_loadtest::report::{Figure, figure, note};
use trunkline_proto::transcription::v1::{
    Accepted, Segment, TranscribeRequest, TranscribeResponse, transcribe_request, transcribe_response,
    transcription_server::{Transcription, TranscriptionServer},
};
use trunkline_system_tests::telephone::Telephone;

use super::{
    Args, WARM_UP_S,
    cluster::{Cluster, each},
};

/// Sample telephones that there have to be.
pub const TELEPHONES: usize = 500;
const WANTED_S: u32 = 600;
const ANSWERED_WITHIN: Duration = Duration::from_secs(10);
/// As the reference recogniser says something: now and then, and at the end.
const SAYS_EVERY: u64 = 50;

impl Cluster<'_> {
    /// A menu with one choice and a transfer, beside calls without; then registrations.
    pub async fn features(&self, args: &Args) -> Result<Vec<Figure>> {
        let mut figures = self.listened(args, "callers listen", Way::Queue).await?;
        figures.extend(self.listened(args, "through a menu", Way::Menu).await?);
        figures.extend(self.listened(args, "passed on once", Way::Transfer).await?);
        figures.extend(self.registrations(args).await.context("registrations")?);
        Ok(figures)
    }

    /// Calls whose callers listen, at half of the rate: each may have two agents.
    pub async fn listened(&self, args: &Args, how: &str, way: Way) -> Result<Vec<Figure>> {
        let (rate, agents, end) = (args.rate / 2.0, args.agents, WARM_UP_S + args.seconds);
        let (callers, transfer) = match way {
            Way::Queue => ("", ""),
            Way::Menu => ("  to: menu\n  keys: [ { after: 2s, press: \"1\" } ]\n", ""),
            Way::Transfer => ("", ", transfer: sales"),
        };
        let text = format!(
            "name: calls\ncallers:\n{callers}  arrivals: constant\n  media: listen\n  phases: [ {{ for: {end}s, rate: {rate} }} ]\n\
             agents: {{ count: {agents}, talk: 2s, wrap_up: 300ms{transfer} }}\nwarm_up: {WARM_UP_S}s\nsettle: 20s\n"
        );
        let report = self.play(&format!("calls, {how}"), &text).await.with_context(|| how.to_owned())?;
        let counts = &report.counts;
        ensure!(counts.served >= counts.due, "not everybody was served: {counts:?}");
        let passed_on = if way == Way::Transfer { counts.served } else { 0 };
        ensure!(counts.passed_on == passed_on, "not everybody was passed on: {counts:?}");
        Ok(each(&format!("call, {how}"), &self.busy(&report, WARM_UP_S, end)?, rate))
    }

    /// Telephones come back at even distances, as they do when their times are spread.
    async fn registrations(&self, args: &Args) -> Result<Vec<Figure>> {
        let period = Duration::from_secs_f64(TELEPHONES as f64 / args.registrations);
        let mut telephones = Vec::with_capacity(TELEPHONES);
        for n in 1..=TELEPHONES {
            let name = format!("phone-{n:03}");
            telephones.push(Telephone::new(self.bind, self.sip(), &name, &format!("{name}-dev")).await?);
        }
        note(&format!("{TELEPHONES} telephones register, {} a second", args.registrations));
        let came = come(telephones, period, period).await?;
        let seconds = Duration::from_secs_f64(args.seconds);
        let (busy, came) = self.busy_over(come(came.telephones, period, seconds)).await?;
        let Came { answered, challenges, .. } = came?;
        let rate = answered as f64 / args.seconds;
        let mut figures = each("registration", &busy, rate);
        figures.push(figure("registration: a second", rate, ""));
        figures.push(figure(
            "registration: challenged first",
            f64::from(challenges) * 100.0 / answered as f64,
            "%",
        ));
        Ok(figures)
    }
}

/// How a caller gets to an agent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Way {
    Queue,
    Menu,
    Transfer,
}

struct Came {
    telephones: Vec<Telephone>,
    answered: usize,
    challenges: u32,
}

/// Each comes once a period, spread over it, when it is due, until the time is over. None may be refused.
async fn come(telephones: Vec<Telephone>, period: Duration, seconds: Duration) -> Result<Came> {
    let (begun, count) = (Instant::now(), telephones.len());
    let each = telephones.into_iter().enumerate().map(|(n, mut telephone)| async move {
        let (mut answered, mut challenges) = (0, 0);
        let mut due = period.mul_f64(n as f64 / count as f64);
        while due < seconds {
            tokio::time::sleep_until(begun + due).await;
            let answer = telephone.register(WANTED_S, ANSWERED_WITHIN).await?;
            ensure!(answer.status == 200, "a telephone is answered {}", answer.status);
            (answered, challenges) = (answered + 1, challenges + answer.challenges);
            due += period;
        }
        Ok((telephone, answered, challenges))
    });
    let mut came = Came { telephones: Vec::new(), answered: 0, challenges: 0 };
    for (telephone, answered, challenges) in try_join_all(each).await? {
        came.telephones.push(telephone);
        (came.answered, came.challenges) = (came.answered + answered, came.challenges + challenges);
    }
    tokio::time::sleep_until(begun + seconds).await;
    Ok(came)
}

/// What nodes send copies or audio to; it only counts.
pub struct Sink {
    pub at: SocketAddr,
    taken: Arc<AtomicU64>,
}

impl Sink {
    /// HEP over UDP.
    pub async fn captures(bind: IpAddr) -> Result<Self> {
        let socket = tokio::net::UdpSocket::bind((bind, 0)).await?;
        let (at, taken) = (socket.local_addr()?, Arc::new(AtomicU64::new(0)));
        let count = Arc::clone(&taken);
        tokio::spawn(async move {
            let mut packet = vec![0; 65_536];
            while socket.recv(&mut packet).await.is_ok() {
                count.fetch_add(1, Relaxed);
            }
        });
        Ok(Self { at, taken })
    }

    /// A recogniser that hears and says little.
    pub async fn recogniser(bind: IpAddr) -> Result<Self> {
        let listener = TcpListener::bind((bind, 0)).await?;
        let (at, taken) = (listener.local_addr()?, Arc::new(AtomicU64::new(0)));
        let server = tonic::transport::Server::builder()
            .add_service(TranscriptionServer::new(Recogniser(Arc::clone(&taken))))
            .serve_with_incoming(TcpListenerStream::new(listener));
        tokio::spawn(server);
        Ok(Self { at, taken })
    }

    /// What came since the last look.
    pub fn take(&self) -> u64 {
        self.taken.swap(0, Relaxed)
    }
}

struct Recogniser(Arc<AtomicU64>);

type Answers = Pin<Box<dyn Stream<Item = Result<TranscribeResponse, Status>> + Send>>;

#[tonic::async_trait]
impl Transcription for Recogniser {
    type TranscribeStream = Answers;

    async fn transcribe(
        &self,
        request: Request<Streaming<TranscribeRequest>>,
    ) -> Result<Response<Answers>, Status> {
        let (sender, answers) = mpsc::channel(64);
        let (heard, mut requests) = (Arc::clone(&self.0), request.into_inner());
        tokio::spawn(async move {
            while let Some(Ok(request)) = requests.next().await {
                let Some(answer) = answer(&heard, request) else { continue };
                let answer = TranscribeResponse { message: Some(answer) };
                if sender.send(Ok(answer)).await.is_err() {
                    break;
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(answers))))
    }
}

fn answer(heard: &AtomicU64, request: TranscribeRequest) -> Option<transcribe_response::Message> {
    let (id, start_ms, is_final) = match request.message? {
        transcribe_request::Message::Config(_) => {
            let accepted = Accepted { recogniser: "sink".into(), ..Accepted::default() };
            return Some(transcribe_response::Message::Accepted(accepted));
        }
        transcribe_request::Message::Audio(audio) => {
            heard.fetch_add(1, Relaxed);
            (audio.sequence / SAYS_EVERY, audio.start_ms, audio.sequence % SAYS_EVERY == SAYS_EVERY - 1)
        }
        transcribe_request::Message::Gap(_) | transcribe_request::Message::EndOfAudio(_) => return None,
    };
    is_final.then(|| {
        transcribe_response::Message::Segment(Segment {
            segment_id: id.to_string(),
            channel: 1,
            start_ms,
            end_ms: start_ms + 1,
            text: "a few words that a caller says".into(),
            is_final,
            ..Segment::default()
        })
    })
}
