//! A TCP proxy that cuts, delays and swallows.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinHandle,
};

pub struct Proxy {
    pub address: SocketAddr,
    control: Arc<Control>,
    task: JoinHandle<()>,
}

struct Control {
    /// Connections of a lower number end.
    cut: watch::Sender<u64>,
    /// Bytes of present connections go nowhere.
    swallow: watch::Sender<u64>,
    refuse: AtomicBool,
    delay_us: AtomicU64,
    accepted: AtomicU64,
    /// The next connection that has passed so many bytes is cut in the midst of them; 0 = none.
    after_bytes: AtomicUsize,
}

impl Proxy {
    pub async fn start(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let control = Arc::new(Control {
            cut: watch::Sender::new(0),
            swallow: watch::Sender::new(0),
            refuse: AtomicBool::new(false),
            delay_us: AtomicU64::new(0),
            accepted: AtomicU64::new(0),
            after_bytes: AtomicUsize::new(0),
        });
        let task = tokio::spawn(accept(listener, target, control.clone()));
        Self { address, control, task }
    }

    /// Ends all connections at once.
    pub fn cut(&self) {
        self.control.cut.send_replace(self.control.accepted.load(Ordering::SeqCst));
    }

    /// From now on nothing comes through present connections, and nobody is told.
    pub fn swallow(&self) {
        self.control.swallow.send_replace(self.control.accepted.load(Ordering::SeqCst));
    }

    /// New connections end at once.
    pub fn refuse(&self, refuse: bool) {
        self.control.refuse.store(refuse, Ordering::SeqCst);
    }

    pub fn delay(&self, delay: Duration) {
        self.control.delay_us.store(u64::try_from(delay.as_micros()).unwrap(), Ordering::SeqCst);
    }

    pub fn cut_after(&self, bytes: usize) {
        self.control.after_bytes.store(bytes, Ordering::SeqCst);
    }

    pub fn accepted(&self) -> u64 {
        self.control.accepted.load(Ordering::SeqCst)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
        self.control.cut.send_replace(u64::MAX);
    }
}

async fn accept(listener: TcpListener, target: SocketAddr, control: Arc<Control>) {
    loop {
        let Ok((client, _)) = listener.accept().await else { return };
        if control.refuse.load(Ordering::SeqCst) {
            continue;
        }
        let number = control.accepted.fetch_add(1, Ordering::SeqCst) + 1;
        let control = control.clone();
        tokio::spawn(async move {
            let Ok(server) = TcpStream::connect(target).await else { return };
            let mut cut = control.cut.subscribe();
            let (client_in, client_out) = client.into_split();
            let (server_in, server_out) = server.into_split();
            tokio::select! {
                () = pump(client_in, server_out, number, &control, true) => {}
                () = pump(server_in, client_out, number, &control, false) => {}
                _ = cut.wait_for(|cut| *cut >= number) => {}
            }
        });
    }
}

async fn pump(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    number: u64,
    control: &Control,
    forth: bool,
) {
    let mut buffer = vec![0; 16 * 1024];
    let mut passed = 0;
    loop {
        let Ok(n) = from.read(&mut buffer).await else { return };
        if n == 0 {
            return;
        }
        if *control.swallow.borrow() >= number {
            continue;
        }
        let delay = control.delay_us.load(Ordering::SeqCst);
        if delay > 0 {
            tokio::time::sleep(Duration::from_micros(delay)).await;
        }
        let limit = control.after_bytes.load(Ordering::SeqCst);
        if forth && limit > 0 && passed + n > limit {
            // Once: the next connection lives.
            control.after_bytes.store(0, Ordering::SeqCst);
            let _ = to.write_all(&buffer[..limit.saturating_sub(passed)]).await;
            let _ = to.flush().await;
            return;
        }
        passed += n;
        if to.write_all(&buffer[..n]).await.is_err() {
            return;
        }
    }
}
