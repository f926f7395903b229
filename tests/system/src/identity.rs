//! Who hands out credentials for a bucket to a pod that shows the token of its service account: STS, as in AWS (over TLS, for
//! a role), and the agent of EKS Pod Identity. The token is renewed in its file as a kubelet does, and is good until then.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context, Result};
use rcgen::{CertificateParams, KeyPair};
use s3s::{
    access::{S3Access, S3AccessContext},
    auth::{S3Auth, SecretKey},
    dto::{Timestamp, TimestampFormat},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpListener,
    task::JoinHandle,
    time::timeout,
};
use tokio_rustls::{TlsAcceptor, rustls};

/// The role that STS gives.
pub const ROLE: &str = "arn:aws:iam::123456789012:role/recordings";
/// Credentials are good for this long. The client asks anew when less than five minutes are left.
const GOOD_FOR: Duration = Duration::from_secs(3);
/// A request has its head within this.
const PATIENCE: Duration = Duration::from_secs(5);
const MOST_BYTES: usize = 16 * 1024;

/// Credentials that are good for a while.
#[derive(Debug, Clone, Default)]
pub struct Sessions(Arc<Mutex<BTreeMap<String, (Instant, String)>>>);

impl Sessions {
    fn begin(&self, count: usize) -> (String, String, String) {
        let (id, session) = (format!("ASIA{count:016}"), format!("session-{count}"));
        self.lock().insert(id.clone(), (Instant::now() + GOOD_FOR, session.clone()));
        (id.clone(), secret(&id), session)
    }

    fn good(&self, id: &str, session: &str) -> bool {
        self.lock().get(id).is_some_and(|(until, own)| Instant::now() < *until && own == session)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, (Instant, String)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn secret(id: &str) -> String {
    format!("secret of {id}")
}

#[async_trait::async_trait]
impl S3Auth for Sessions {
    async fn get_secret_key(&self, id: &str) -> s3s::S3Result<SecretKey> {
        if self.lock().contains_key(id) {
            return Ok(SecretKey::from(secret(id)));
        }
        Err(s3s::s3_error!(InvalidAccessKeyId))
    }
}

#[async_trait::async_trait]
impl S3Access for Sessions {
    async fn check(&self, context: &mut S3AccessContext<'_>) -> s3s::S3Result<()> {
        let id = context.credentials().map(|credentials| credentials.access_key.clone());
        let session = context.headers().get("x-amz-security-token").and_then(|value| value.to_str().ok());
        if id.zip(session).is_some_and(|(id, session)| self.good(&id, session)) {
            return Ok(());
        }
        Err(s3s::s3_error!(ExpiredToken))
    }
}

#[derive(Debug, Default)]
struct State {
    /// The one that is good.
    token: String,
    renewed: usize,
    /// Tokens for which credentials were given, and those that were refused, in their order.
    given: Vec<String>,
    refused: usize,
}

/// By which way a pod asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// `AssumeRoleWithWebIdentity` of STS.
    WebIdentity,
    /// EKS Pod Identity.
    PodIdentity,
}

/// Both servers. Dropped, they are gone.
#[derive(Debug)]
pub struct Identity {
    /// What the store takes.
    pub sessions: Sessions,
    sts: SocketAddr,
    agent: SocketAddr,
    authority: PathBuf,
    token_file: PathBuf,
    state: Arc<Mutex<State>>,
    tasks: [JoinHandle<()>; 2],
}

impl Drop for Identity {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

impl Identity {
    /// Starts them with a first token, whose file lies in `folder`.
    ///
    /// # Errors
    /// When there is no address, or the folder cannot be written.
    pub async fn start(folder: &Path) -> Result<Self> {
        let key = KeyPair::generate()?;
        let certificate = CertificateParams::new(vec!["127.0.0.1".to_owned()])?.self_signed(&key)?;
        let authority = folder.join("sts.pem");
        std::fs::write(&authority, certificate.pem())?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let tls = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(
                vec![certificate.der().clone()],
                key.serialize_der().try_into().map_err(anyhow::Error::msg)?,
            )?;
        let (sts, agent) = (
            TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?,
            TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?,
        );
        let (sessions, state) = (Sessions::default(), Arc::new(Mutex::new(State::default())));
        let addresses = (sts.local_addr()?, agent.local_addr()?);
        let desk = |way| Desk { way, sessions: sessions.clone(), state: state.clone() };
        let tasks = [
            tokio::spawn(serve(sts, Some(TlsAcceptor::from(Arc::new(tls))), desk(Way::WebIdentity))),
            tokio::spawn(serve(agent, None, desk(Way::PodIdentity))),
        ];
        let token_file = folder.join("token");
        let (sts, agent) = addresses;
        let identity = Self { sessions, sts, agent, authority, token_file, state, tasks };
        identity.renew()?;
        Ok(identity)
    }

    /// A new token takes the place of the one that was good.
    ///
    /// # Errors
    /// When its file cannot be written.
    pub fn renew(&self) -> Result<()> {
        let mut state = self.lock();
        state.renewed += 1;
        state.token = format!("eyJ-token-{}", state.renewed);
        let fresh = self.token_file.with_extension("new");
        std::fs::write(&fresh, &state.token).context("the token's file")?;
        Ok(std::fs::rename(fresh, &self.token_file)?)
    }

    /// The file has a token that is good nowhere.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn spoil(&self) -> Result<()> {
        std::fs::write(&self.token_file, "eyJ-token-of-another").context("the token's file")
    }

    /// What a pod's environment has, as the webhook of EKS sets it.
    pub fn environment(&self, way: Way) -> Vec<(&'static str, String)> {
        let token_file = self.token_file.display().to_string();
        match way {
            Way::WebIdentity => vec![
                ("AWS_ROLE_ARN", ROLE.to_owned()),
                ("AWS_WEB_IDENTITY_TOKEN_FILE", token_file),
                ("AWS_ENDPOINT_URL_STS", format!("https://{}", self.sts)),
                ("SSL_CERT_FILE", self.authority.display().to_string()),
            ],
            Way::PodIdentity => vec![
                ("AWS_CONTAINER_CREDENTIALS_FULL_URI", format!("http://{}/v1/credentials", self.agent)),
                ("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", token_file),
            ],
        }
    }

    /// How often credentials were given for the token that is good now.
    pub fn given(&self) -> usize {
        let state = self.lock();
        state.given.iter().filter(|token| **token == state.token).count()
    }

    /// How many requests were refused.
    pub fn refused(&self) -> usize {
        self.lock().refused
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Clone)]
struct Desk {
    way: Way,
    sessions: Sessions,
    state: Arc<Mutex<State>>,
}

impl Desk {
    /// Status and body.
    fn answer(&self, head: &str) -> (&'static str, String) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if !self.asked_rightly(head, &state.token) {
            state.refused += 1;
            return match self.way {
                Way::WebIdentity => {
                    ("403 Forbidden", "<Error><Code>InvalidIdentityToken</Code></Error>".into())
                }
                Way::PodIdentity => ("400 Bad Request", r#"{"message":"AccessDeniedException"}"#.into()),
            };
        }
        let token = state.token.clone();
        state.given.push(token);
        let (id, secret, session) = self.sessions.begin(state.given.len());
        let expires = written(SystemTime::now() + GOOD_FOR);
        (
            "200 OK",
            match self.way {
                Way::WebIdentity => format!(
                    "<AssumeRoleWithWebIdentityResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\">\
                 <AssumeRoleWithWebIdentityResult><Credentials><SessionToken>{session}</SessionToken>\
                 <SecretAccessKey>{secret}</SecretAccessKey><Expiration>{expires}</Expiration>\
                 <AccessKeyId>{id}</AccessKeyId></Credentials></AssumeRoleWithWebIdentityResult>\
                 </AssumeRoleWithWebIdentityResponse>"
                ),
                Way::PodIdentity => serde_json::json!({
                    "AccessKeyId": id, "SecretAccessKey": secret, "Token": session, "Expiration": expires,
                })
                .to_string(),
            },
        )
    }

    fn asked_rightly(&self, head: &str, token: &str) -> bool {
        let line = head.lines().next().unwrap_or_default();
        match self.way {
            Way::WebIdentity => {
                let role = ROLE.replace(':', "%3A").replace('/', "%2F");
                let query =
                    line.split_once('?').and_then(|(_, rest)| rest.split_once(' ')).map_or("", |q| q.0);
                let has =
                    |name: &str, value: &str| query.split('&').any(|part| part == format!("{name}={value}"));
                line.starts_with("POST /")
                    && has("Action", "AssumeRoleWithWebIdentity")
                    && has("RoleArn", &role)
                    && has("WebIdentityToken", token)
            }
            Way::PodIdentity => {
                line.starts_with("GET /v1/credentials ")
                    && head.lines().any(|line| {
                        line.split_once(": ").is_some_and(|(name, value)| {
                            name.eq_ignore_ascii_case("authorization") && value == token
                        })
                    })
            }
        }
    }
}

/// As AWS writes instants.
fn written(at: SystemTime) -> String {
    let mut text = Vec::new();
    // Into memory: there is no way to fail.
    let _ = Timestamp::from(at).format(TimestampFormat::DateTime, &mut text);
    String::from_utf8_lossy(&text).into_owned()
}

async fn serve(listener: TcpListener, tls: Option<TlsAcceptor>, desk: Desk) {
    while let Ok((socket, _)) = listener.accept().await {
        let (tls, desk) = (tls.clone(), desk.clone());
        tokio::spawn(async move {
            // A client that goes away or that does not trust the certificate is its own affair.
            let _ = timeout(PATIENCE, async {
                match tls {
                    Some(tls) => converse(tls.accept(socket).await?, &desk).await,
                    None => converse(socket, &desk).await,
                }
            })
            .await;
        });
    }
}

/// One request, which has no body.
async fn converse(mut socket: impl AsyncRead + AsyncWrite + Unpin, desk: &Desk) -> std::io::Result<()> {
    let mut head = Vec::new();
    while !head.windows(4).any(|end| end == b"\r\n\r\n") && head.len() < MOST_BYTES {
        if socket.read_buf(&mut head).await? == 0 {
            return Ok(());
        }
    }
    let (status, body) = desk.answer(&String::from_utf8_lossy(&head));
    let length = body.len();
    let text = format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}");
    socket.write_all(text.as_bytes()).await?;
    socket.shutdown().await
}
