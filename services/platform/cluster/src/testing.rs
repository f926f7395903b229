//! Real etcd for tests: members as processes on ephemeral ports of the loopback.

use std::{
    fs::File,
    net::TcpListener,
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::Duration,
};

use tempfile::TempDir;
use tokio::time::{Instant, sleep, timeout};

/// A cluster of etcd members, ended with the value.
pub struct Etcd {
    members: Vec<Member>,
    folder: TempDir,
    extra: Vec<String>,
}

struct Member {
    name: String,
    client: String,
    peer: String,
    process: Option<Child>,
}

impl Etcd {
    /// Starts so many members and waits until they have a leader.
    ///
    /// # Panics
    /// When etcd is not installed (Debian: `etcd-server`) or does not come up.
    pub async fn start(members: usize) -> Self {
        let etcd = Self::spawn_all("http", &[], members);
        etcd.until_it_answers().await;
        etcd
    }

    /// Starts one member that speaks TLS to clients, with these further arguments. It may not answer yet.
    ///
    /// # Panics
    /// When etcd is not installed.
    pub fn start_tls(arguments: &[String]) -> Self {
        Self::spawn_all("https", arguments, 1)
    }

    fn spawn_all(scheme: &str, extra: &[String], members: usize) -> Self {
        let folder = tempfile::Builder::new().prefix("etcd").tempdir().expect("a temporary folder");
        // Held together, so that no port is given twice; free again just before etcd takes it.
        let ports: Vec<TcpListener> =
            (0..members * 2).map(|_| TcpListener::bind("127.0.0.1:0").expect("a port")).collect();
        let url =
            |scheme: &str, at: usize| format!("{scheme}://{}", ports[at].local_addr().expect("an address"));
        let members = (0..members)
            .map(|n| Member {
                name: format!("m{n}"),
                client: url(scheme, n * 2),
                peer: url("http", n * 2 + 1),
                process: None,
            })
            .collect();
        drop(ports);
        let mut etcd = Self { members, folder, extra: extra.to_vec() };
        (0..etcd.members.len()).for_each(|n| etcd.spawn(n));
        etcd
    }

    fn spawn(&mut self, n: usize) {
        let cluster: Vec<_> = self.members.iter().map(|m| format!("{}={}", m.name, m.peer)).collect();
        let member = &self.members[n];
        let log = File::create(self.folder.path().join(format!("{}.log", member.name))).expect("a log file");
        let process = Command::new("etcd")
            .args(["--name", &member.name, "--data-dir"])
            .arg(self.folder.path().join(&member.name))
            .args(["--listen-client-urls", &member.client, "--advertise-client-urls", &member.client])
            .args(["--listen-peer-urls", &member.peer, "--initial-advertise-peer-urls", &member.peer])
            .args(["--initial-cluster", &cluster.join(","), "--initial-cluster-state", "new"])
            .args(["--heartbeat-interval", "50", "--election-timeout", "500"])
            .args(&self.extra)
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a log file"))
            .stderr(log)
            .spawn();
        let process = process.expect("etcd does not start: install it (Debian: apt-get install etcd-server)");
        self.members[n].process = Some(process);
    }

    /// The clients' addresses of all members.
    pub fn endpoints(&self) -> Vec<String> {
        self.members.iter().map(|member| member.client.clone()).collect()
    }

    /// Folder of data and logs.
    pub fn folder(&self) -> PathBuf {
        self.folder.path().to_owned()
    }

    /// Waits until a quorum answers.
    ///
    /// # Panics
    /// When it does not within 30 s.
    pub async fn until_it_answers(&self) {
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            for endpoint in self.endpoints() {
                let asked = async {
                    let mut client = etcd_client::Client::connect([&endpoint], None).await.ok()?;
                    client.put("/testing", "", None).await.ok()
                };
                if timeout(Duration::from_secs(1), asked).await.ok().flatten().is_some() {
                    return;
                }
            }
            assert!(
                Instant::now() < deadline,
                "etcd has no quorum: see the logs in {:?}",
                self.folder.path()
            );
            sleep(Duration::from_millis(50)).await;
        }
    }

    /// Kills a member (SIGKILL).
    pub fn kill(&mut self, n: usize) {
        if let Some(mut process) = self.members[n].process.take() {
            let _ = process.kill();
            let _ = process.wait();
        }
    }

    /// Starts a killed member again, on its data.
    pub fn restart(&mut self, n: usize) {
        self.kill(n);
        self.spawn(n);
    }

    /// Kills all members.
    pub fn kill_all(&mut self) {
        (0..self.members.len()).for_each(|n| self.kill(n));
    }

    /// Starts all members again.
    pub fn restart_all(&mut self) {
        self.kill_all();
        (0..self.members.len()).for_each(|n| self.spawn(n));
    }

    /// Process ids of the members that run.
    pub fn pids(&self) -> Vec<u32> {
        self.members.iter().filter_map(|member| member.process.as_ref().map(Child::id)).collect()
    }

    /// SIGSTOP to all members: connections stay, nothing is answered.
    pub fn pause_all(&self) {
        self.signal("-STOP");
    }

    /// SIGCONT to all members.
    pub fn resume_all(&self) {
        self.signal("-CONT");
    }

    fn signal(&self, signal: &str) {
        for pid in self.pids() {
            let _ = Command::new("kill").args([signal, &pid.to_string()]).status();
        }
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        self.resume_all();
        self.kill_all();
    }
}
