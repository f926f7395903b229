//! A real PostgreSQL server of a test's own: made in a temporary folder, on a free port, ended with its last owner.
//!
//! Needs Debian's package `postgresql-15`. PostgreSQL refuses to run as root: a test that does runs it as the user
//! `postgres`, which the package makes.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, TcpListener, TcpStream},
    os::unix::fs::chown,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Output, Stdio},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};

/// Where Debian and others put the server's programs; the first that is there is taken.
const BINARIES: [&str; 4] = [
    "/usr/lib/postgresql/15/bin",
    "/usr/lib/postgresql/17/bin",
    "/usr/lib/postgresql/16/bin",
    "/usr/local/bin",
];
const PASSWORD: &str = "test";
const START: Duration = Duration::from_secs(30);
const STOP: Duration = Duration::from_secs(20);
const LOOK: Duration = Duration::from_millis(20);

/// Why there is no server.
#[derive(Debug, thiserror::Error)]
pub enum PostgresError {
    /// It is not installed.
    #[error("PostgreSQL is not installed (looked in {}): install the package postgresql-15", BINARIES.join(", "))]
    Missing,
    /// A program could not be run.
    #[error("cannot run {program}: {source}")]
    Run {
        /// Which.
        program: String,
        /// What the operating system says.
        source: std::io::Error,
    },
    /// A program failed.
    #[error("{program} failed ({status}): {output}")]
    Failed {
        /// Which.
        program: String,
        /// How it ended.
        status: ExitStatus,
        /// The end of what it said.
        output: String,
    },
    /// A file or folder cannot be made.
    #[error("cannot use {path}: {source}")]
    File {
        /// Which.
        path: PathBuf,
        /// What the operating system says.
        source: std::io::Error,
    },
    /// It did not come up, or did not go, in time.
    #[error("PostgreSQL did not {what} within {within:?}: {log}")]
    Late {
        /// What was waited for.
        what: &'static str,
        /// How long.
        within: Duration,
        /// The end of its log.
        log: String,
    },
}

/// How a server is made.
#[derive(Debug, Clone)]
pub struct PostgresSetup {
    /// The address that it listens on, and that the URL names. 127.0.0.1 unless told.
    pub listen: IpAddr,
    /// The port; a free one unless told. (One that is free here may not be so in another network namespace.)
    pub port: Option<u16>,
    /// What stands before the server's command line, such as `["ip", "netns", "exec", "NAME"]`; it must end in an `exec`.
    pub prefix: Vec<String>,
    /// Whether commits wait for the disk, as they do in earnest. Off, a test is faster; what the server had acknowledged
    /// then still survives its own death, though not the machine's.
    pub durable: bool,
    /// Further settings, such as `("max_connections", "300")`.
    pub settings: Vec<(String, String)>,
}

impl Default for PostgresSetup {
    fn default() -> Self {
        let listen = IpAddr::V4(Ipv4Addr::LOCALHOST);
        Self { listen, port: None, prefix: Vec::new(), durable: true, settings: Vec::new() }
    }
}

/// A running server, or one that was stopped and can be started again on the same data. Its files go with it.
#[derive(Debug)]
pub struct Postgres {
    setup: PostgresSetup,
    binaries: PathBuf,
    folder: tempfile::TempDir,
    user: Option<(u32, u32)>,
    port: u16,
    server: Option<Child>,
}

impl Postgres {
    /// Makes a server on loopback and starts it.
    ///
    /// # Errors
    /// When it is not installed or does not come up.
    pub fn start() -> Result<Self, PostgresError> {
        Self::start_with(PostgresSetup::default())
    }

    /// Makes a server and starts it.
    ///
    /// # Errors
    /// When it is not installed or does not come up.
    pub fn start_with(setup: PostgresSetup) -> Result<Self, PostgresError> {
        let binaries = BINARIES.iter().map(PathBuf::from).find(|dir| dir.join("initdb").exists());
        let binaries = binaries.ok_or(PostgresError::Missing)?;
        let temp = std::env::temp_dir();
        let folder = tempfile::Builder::new()
            .prefix("trunkline-postgres-")
            .tempdir()
            .map_err(|source| PostgresError::File { path: temp, source })?;
        let user = if rustix::process::geteuid().is_root() { Some(postgres_user()?) } else { None };
        let made = Self { port: setup.port.unwrap_or(0), setup, binaries, folder, user, server: None };
        let mut made = made.initialise()?;
        made.start_again()?;
        Ok(made)
    }

    fn file<T>(&self, name: &str, result: std::io::Result<T>) -> Result<T, PostgresError> {
        result.map_err(|source| PostgresError::File { path: self.folder.path().join(name), source })
    }

    fn initialise(self) -> Result<Self, PostgresError> {
        let (path, password) = (self.folder.path(), self.folder.path().join("password"));
        self.file("password", fs::write(&password, PASSWORD))?;
        if let Some((uid, gid)) = self.user {
            for owned in [path, &password] {
                self.file("", chown(owned, Some(uid), Some(gid)))?;
            }
        }
        let mut command = self.command(&[], "initdb");
        command.args([
            "--username=trunkline",
            "--auth=scram-sha-256",
            "--encoding=UTF8",
            "--no-locale",
            "--no-sync",
        ]);
        command.arg("--pwfile").arg(&password).arg("--pgdata").arg(self.data());
        run(command)?;
        Ok(self)
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// A command of the server's own user, in no inherited locale.
    fn command(&self, prefix: &[String], program: &str) -> Command {
        let mut words: Vec<String> = prefix.to_vec();
        if let Some((uid, gid)) = self.user {
            words.extend(["setpriv".to_owned(), format!("--reuid={uid}"), format!("--regid={gid}")]);
            words.push("--clear-groups".to_owned());
        }
        words.push(self.binaries.join(program).display().to_string());
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).env("LC_ALL", "C").current_dir(self.folder.path()).stdin(Stdio::null());
        command
    }

    /// Starts the server again on its data.
    ///
    /// # Errors
    /// When it does not come up.
    pub fn start_again(&mut self) -> Result<(), PostgresError> {
        let keep_port = self.port != 0;
        let until = Instant::now() + START;
        loop {
            if !keep_port {
                self.port = self.file("a free port", free_port(self.setup.listen))?;
            }
            match self.launch(until) {
                // Another program may have taken the port in between.
                Err(PostgresError::Failed { output, .. })
                    if !keep_port && output.contains("Address already in use") && Instant::now() < until => {}
                launched => return launched,
            }
        }
    }

    fn launch(&mut self, until: Instant) -> Result<(), PostgresError> {
        let log = self.folder.path().join("log");
        let log = self.file("log", fs::OpenOptions::new().create(true).append(true).open(log))?;
        let errors = self.file("log", log.try_clone())?;
        let mut command = self.command(&self.setup.prefix, "postgres");
        command.arg("-D").arg(self.data());
        let settings = [
            ("listen_addresses", self.setup.listen.to_string()),
            ("port", self.port.to_string()),
            ("unix_socket_directories", self.folder.path().display().to_string()),
            ("fsync", if self.setup.durable { "on" } else { "off" }.to_owned()),
            ("max_connections", "200".to_owned()),
        ];
        for (name, value) in settings {
            command.arg("-c").arg(format!("{name}={value}"));
        }
        // The server's last word on a setting counts.
        for (name, value) in &self.setup.settings {
            command.arg("-c").arg(format!("{name}={value}"));
        }
        let ours = [self.data().join("postmaster.pid"), self.data().join("pg_hba.conf")];
        allow(&ours[1], self.setup.listen)
            .map_err(|source| PostgresError::File { path: ours[1].clone(), source })?;
        let child = command.stdout(log).stderr(errors).spawn();
        self.server =
            Some(child.map_err(|source| PostgresError::Run { program: "postgres".to_owned(), source })?);
        loop {
            if let Some(Ok(Some(status))) = self.server.as_mut().map(Child::try_wait) {
                self.server = None;
                let (program, output) = ("postgres".to_owned(), self.log());
                return Err(PostgresError::Failed { program, status, output });
            }
            // Its own file says when it takes sessions; a port that is open says less.
            if fs::read_to_string(&ours[0])
                .is_ok_and(|text| text.lines().nth(7).is_some_and(|l| l.trim() == "ready"))
            {
                return Ok(());
            }
            if Instant::now() > until {
                self.kill();
                return Err(PostgresError::Late { what: "come up", within: START, log: self.log() });
            }
            std::thread::sleep(LOOK);
        }
    }

    /// The end of what the server said.
    pub fn log(&self) -> String {
        let text = fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(12)..].join("\n")
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// A URL of the database that is there from the start.
    pub fn url(&self) -> String {
        self.url_of("postgres")
    }

    /// A URL of a database of this name.
    pub fn url_of(&self, database: &str) -> String {
        format!("postgres://trunkline:{PASSWORD}@{}:{}/{database}", self.setup.listen, self.port)
    }

    /// Makes an empty database and gives its URL.
    ///
    /// # Errors
    /// When the server does not.
    pub fn create_database(&self, name: &str) -> Result<String, PostgresError> {
        self.client("createdb", &[name])?;
        Ok(self.url_of(name))
    }

    /// Runs one of PostgreSQL's clients (`psql`, `pg_dump`, …) against the server, and gives what it said.
    ///
    /// # Errors
    /// When it fails.
    pub fn client(&self, program: &str, args: &[&str]) -> Result<Vec<u8>, PostgresError> {
        let mut command = self.command(&[], program);
        command.env("PGUSER", "trunkline").env("PGPASSWORD", PASSWORD).env("PGDATABASE", "postgres");
        command.env("PGPORT", self.port.to_string());
        // By its socket, which no network namespace hides.
        command.env("PGHOST", self.folder.path()).args(args);
        Ok(run(command)?.stdout)
    }

    /// Ends the server as an administrator does: sessions are cut off, data is brought in order.
    ///
    /// # Errors
    /// When it does not end in time; it is killed then.
    pub fn stop(&mut self) -> Result<(), PostgresError> {
        let Some(mut server) = self.server.take() else { return Ok(()) };
        signal(server.id(), Signal::INT);
        let until = Instant::now() + STOP;
        while Instant::now() < until {
            if !matches!(server.try_wait(), Ok(None)) {
                return Ok(());
            }
            std::thread::sleep(LOOK);
        }
        self.server = Some(server);
        self.kill();
        Err(PostgresError::Late { what: "stop", within: STOP, log: self.log() })
    }

    /// kill -9 of the server and all of its processes.
    pub fn kill(&mut self) {
        let Some(mut server) = self.server.take() else { return };
        let children = children(server.id());
        let _ = server.kill();
        let _ = server.wait();
        for child in &children {
            signal(*child, Signal::KILL);
        }
        // A server that starts while one of them still holds the shared memory would refuse to.
        let until = Instant::now() + STOP;
        while children.iter().any(|pid| alive(*pid)) && Instant::now() < until {
            std::thread::sleep(LOOK);
        }
    }

    /// Whether the port answers.
    pub fn answers(&self) -> bool {
        let timeout = Duration::from_millis(500);
        TcpStream::connect_timeout(&(self.setup.listen, self.port).into(), timeout).is_ok()
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Sessions from the network of the server's address are let in; `initdb` lets in those from loopback only.
fn allow(file: &Path, listen: IpAddr) -> std::io::Result<()> {
    const LINE: &str = "host all all samenet scram-sha-256\n";
    let text = fs::read_to_string(file)?;
    if listen.is_loopback() || text.contains(LINE) { Ok(()) } else { fs::write(file, text + LINE) }
}

fn free_port(on: IpAddr) -> std::io::Result<u16> {
    // An address of another network namespace cannot be tried from here.
    let socket = TcpListener::bind((on, 0)).or_else(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)))?;
    Ok(socket.local_addr()?.port())
}

fn postgres_user() -> Result<(u32, u32), PostgresError> {
    let path = PathBuf::from("/etc/passwd");
    let text = fs::read_to_string(&path).map_err(|source| PostgresError::File { path, source })?;
    let fields = text.lines().map(|line| line.split(':').collect::<Vec<_>>()).find(|f| f[0] == "postgres");
    let ids = fields.and_then(|f| Some((f.get(2)?.parse().ok()?, f.get(3)?.parse().ok()?)));
    ids.ok_or(PostgresError::Missing)
}

fn run(mut command: Command) -> Result<Output, PostgresError> {
    let program = format!("{command:?}");
    let output =
        command.output().map_err(|source| PostgresError::Run { program: program.clone(), source })?;
    if output.status.success() {
        return Ok(output);
    }
    let said = [&output.stdout[..], &output.stderr[..]].concat();
    let output_text = String::from_utf8_lossy(&said).trim().to_owned();
    Err(PostgresError::Failed { program, status: output.status, output: output_text })
}

fn signal(pid: u32, signal: Signal) {
    // One that has ended meanwhile needs no signal.
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        let _ = kill_process(pid, signal);
    }
}

/// State and parent of a process.
fn stat(pid: u32) -> Option<(char, u32)> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in brackets may hold anything.
    let mut fields = text.rsplit_once(')')?.1.split_whitespace();
    Some((fields.next()?.chars().next()?, fields.next()?.parse().ok()?))
}

fn alive(pid: u32) -> bool {
    stat(pid).is_some_and(|(state, _)| state != 'Z')
}

fn children(of: u32) -> Vec<u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.filter(|pid| stat(*pid).is_some_and(|(_, parent)| parent == of)).collect()
}
