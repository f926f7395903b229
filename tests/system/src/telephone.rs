//! A telephone that registers: RFC 3261 with digest by SHA-256 over UDP, written without a line of the system's.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use sha2::{Digest, Sha256};
use tokio::{
    net::UdpSocket,
    time::{Instant, timeout_at},
};

const T1: Duration = Duration::from_millis(500);
const T2: Duration = Duration::from_secs(4);
const BYTES: usize = 65_535;

/// A final answer.
#[derive(Debug, Clone, Default)]
pub struct Answer {
    /// Status.
    pub status: u16,
    /// Values by name in lower case, in order.
    headers: BTreeMap<String, Vec<String>>,
    /// Challenges that were answered on the way.
    pub challenges: u32,
    /// Times that something was sent again because nobody had answered.
    pub sent_again: u32,
}

impl Answer {
    /// The first value of a header; the name in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.first().map(String::as_str)
    }

    /// The contacts that are bound.
    pub fn contacts(&self) -> &[String] {
        self.headers.get("contact").map(Vec::as_slice).unwrap_or_default()
    }

    /// The expiry that was granted to the contact whose value contains `uri`.
    pub fn granted(&self, uri: &str) -> Option<Duration> {
        let contact = self.contacts().iter().find(|contact| contact.contains(uri))?;
        let seconds = contact.split(";expires=").nth(1)?.split(';').next()?.parse().ok()?;
        Some(Duration::from_secs(seconds))
    }
}

/// A telephone with its account.
#[derive(Debug)]
pub struct Telephone {
    socket: UdpSocket,
    registrar: SocketAddr,
    name: String,
    password: String,
    call_id: String,
    cseq: u32,
    /// The realm and nonce in use, and how often it was used.
    nonce: Option<(String, String, u32)>,
}

impl Telephone {
    /// At `bind`, with the account `name`, for the registrar at an address.
    pub async fn new(bind: IpAddr, registrar: SocketAddr, name: &str, password: &str) -> Result<Self> {
        let socket = UdpSocket::bind((bind, 0)).await.context("a telephone's socket")?;
        let call_id = format!("{:016x}@telephone", rand::random::<u64>());
        let (name, password) = (name.to_owned(), password.to_owned());
        Ok(Self { socket, registrar, name, password, call_id, cseq: 0, nonce: None })
    }

    /// Its contact.
    pub fn contact(&self) -> Result<String> {
        Ok(format!("sip:{}@{}", self.name, self.socket.local_addr()?))
    }

    /// Binds its contact, or refreshes it.
    pub async fn register(&mut self, expires_s: u32, limit: Duration) -> Result<Answer> {
        let contact = self.contact()?;
        self.ask(&format!("Contact: <{contact}>\r\nExpires: {expires_s}\r\n"), limit).await
    }

    /// Asks what is bound.
    pub async fn query(&mut self, limit: Duration) -> Result<Answer> {
        self.ask("", limit).await
    }

    /// Sends a REGISTER with these further headers, answers challenges, and gives the answer that is none. A challenge
    /// that is not stale is answered once: the password will not be right the second time.
    pub async fn ask(&mut self, more: &str, limit: Duration) -> Result<Answer> {
        let deadline = Instant::now() + limit;
        let (mut challenges, mut sent_again) = (0, 0);
        let mut asked = false;
        loop {
            let answer = self.once(more, deadline).await?;
            sent_again += answer.sent_again;
            let challenge = answer.headers.get("www-authenticate").and_then(|all| {
                all.iter().find(|challenge| challenge.contains("algorithm=SHA-256")).cloned()
            });
            let Some(challenge) = challenge.filter(|_| answer.status == 401) else {
                return Ok(Answer { challenges, sent_again, ..answer });
            };
            if asked && !challenge.contains("stale=true") {
                return Ok(Answer { challenges, sent_again, ..answer });
            }
            ensure!(challenges < 5, "challenged for ever");
            challenges += 1;
            asked = true;
            let realm = quoted(&challenge, "realm").context("a challenge without a realm")?;
            let nonce = quoted(&challenge, "nonce").context("a challenge without a nonce")?;
            self.nonce = Some((realm, nonce, 0));
        }
    }

    /// Sends the credentials of before once more, whatever becomes of them.
    pub async fn replay(&mut self, more: &str, limit: Duration) -> Result<Answer> {
        if let Some((_, _, count)) = &mut self.nonce {
            *count -= 1;
        }
        self.once(more, Instant::now() + limit).await
    }

    /// One request, sent again until it is answered.
    async fn once(&mut self, more: &str, deadline: Instant) -> Result<Answer> {
        self.cseq += 1;
        let branch = format!("z9hG4bK{:016x}", rand::random::<u64>());
        let request = self.request(&branch, more)?;
        let (mut wait, mut sent_again) = (T1, 0);
        loop {
            self.socket.send_to(request.as_bytes(), self.registrar).await?;
            let next = (Instant::now() + wait).min(deadline);
            while let Ok(received) = timeout_at(next, self.receive(&branch)).await {
                match received? {
                    Some(answer) if answer.status >= 200 => return Ok(Answer { sent_again, ..answer }),
                    _ => {}
                }
            }
            if Instant::now() >= deadline {
                bail!("{}: nobody answers REGISTER", self.name);
            }
            sent_again += 1;
            wait = (wait * 2).min(T2);
        }
    }

    /// The next message, if it is an answer to this branch.
    async fn receive(&self, branch: &str) -> Result<Option<Answer>> {
        let mut buffer = vec![0; BYTES];
        let (length, _) = self.socket.recv_from(&mut buffer).await?;
        let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
        let mut lines = text.split("\r\n");
        let status = lines.next().and_then(|line| line.strip_prefix("SIP/2.0 ")?.get(..3)?.parse().ok());
        let Some(status) = status.filter(|_| text.contains(branch)) else { return Ok(None) };
        let mut answer = Answer { status, ..Answer::default() };
        for (name, value) in lines.take_while(|line| !line.is_empty()).filter_map(|line| line.split_once(':'))
        {
            answer.headers.entry(name.trim().to_lowercase()).or_default().push(value.trim().to_owned());
        }
        Ok(Some(answer))
    }

    fn request(&mut self, branch: &str, more: &str) -> Result<String> {
        let (local, name, host) = (self.socket.local_addr()?, self.name.clone(), self.registrar);
        let uri = format!("sip:{host}");
        let credentials = self.credentials(&uri);
        Ok(format!(
            "REGISTER {uri} SIP/2.0\r\nVia: SIP/2.0/UDP {local};branch={branch};rport\r\nMax-Forwards: 70\r\n\
             From: <sip:{name}@{host}>;tag={:08x}\r\nTo: <sip:{name}@{host}>\r\nCall-ID: {}\r\nCSeq: {} REGISTER\r\n\
             User-Agent: trunkline-tests\r\n{more}{credentials}Content-Length: 0\r\n\r\n",
            self.cseq, self.call_id, self.cseq
        ))
    }

    fn credentials(&mut self, uri: &str) -> String {
        let Some((realm, nonce, count)) = &mut self.nonce else { return String::new() };
        *count += 1;
        let (name, cnonce) = (&self.name, "0a4f113b");
        let ha1 = hash(&format!("{name}:{realm}:{}", self.password));
        let ha2 = hash(&format!("REGISTER:{uri}"));
        let response = hash(&format!("{ha1}:{nonce}:{count:08x}:{cnonce}:auth:{ha2}"));
        format!(
            "Authorization: Digest username=\"{name}\", realm=\"{realm}\", nonce=\"{nonce}\", uri=\"{uri}\", \
             response=\"{response}\", algorithm=SHA-256, qop=auth, cnonce=\"{cnonce}\", nc={count:08x}\r\n"
        )
    }
}

fn quoted(challenge: &str, name: &str) -> Option<String> {
    challenge.split(&format!("{name}=\"")).nth(1)?.split('"').next().map(str::to_owned)
}

fn hash(text: &str) -> String {
    Sha256::digest(text.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect()
}
