//! A way to the server that can be cut at the worst moments.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};

/// When the next append is cut off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    Never = 0,
    /// It does not reach the server.
    Request = 1,
    /// It reaches the server, its answer does not come back.
    Answer = 2,
}

pub struct Proxy {
    pub address: SocketAddr,
    cut: Arc<AtomicU8>,
    task: JoinHandle<()>,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Proxy {
    pub async fn start(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, cut) = (listener.local_addr().unwrap(), Arc::new(AtomicU8::new(0)));
        let cuts = Arc::clone(&cut);
        let task = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(pass(client, server, Arc::clone(&cuts)));
            }
        });
        Self { address, cut, task }
    }

    /// Of the next bytes that hold `append_payload`, a text that only the appends of these tests have.
    pub fn cut(&self, cut: Cut) {
        self.cut.store(cut as u8, Ordering::SeqCst);
    }

    pub fn is_cut(&self) -> bool {
        self.cut.load(Ordering::SeqCst) == Cut::Never as u8
    }
}

/// Passes bytes both ways until either side ends or a cut is due.
async fn pass(mut client: TcpStream, server: SocketAddr, cuts: Arc<AtomicU8>) {
    let Ok(mut server) = TcpStream::connect(server).await else { return };
    let (mut up, mut down) = (vec![0; 1 << 16], vec![0; 1 << 16]);
    let mut cut_answer = false;
    loop {
        tokio::select! {
            read = client.read(&mut up) => {
                let Ok(n @ 1..) = read else { return };
                let append = up[..n].windows(13).any(|bytes| bytes == b"test.happened");
                let cut = if append { cuts.swap(Cut::Never as u8, Ordering::SeqCst) } else { 0 };
                if cut == Cut::Request as u8 {
                    return;
                }
                cut_answer |= cut == Cut::Answer as u8;
                if server.write_all(&up[..n]).await.is_err() {
                    return;
                }
            }
            read = server.read(&mut down) => {
                let Ok(n @ 1..) = read else { return };
                if cut_answer || client.write_all(&down[..n]).await.is_err() {
                    return;
                }
            }
        }
    }
}
