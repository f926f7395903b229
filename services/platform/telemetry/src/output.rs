//! Log lines on their way to standard error: through a bounded queue and a thread of its own, so that a reader that stalls
//! does not stop whoever logs.

use std::{
    io::{self, Write},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel},
    },
    thread,
    time::{Duration, Instant},
};

use tracing_subscriber::fmt::MakeWriter;

/// Lines that may wait.
const QUEUE: usize = 8_192;
/// How long the end of the process waits for the last lines.
const FLUSH: Duration = Duration::from_secs(2);

enum Item {
    Line(Vec<u8>),
    Flush(SyncSender<()>),
}

/// Hands lines to the thread.
#[derive(Clone)]
pub(crate) struct Output {
    queue: SyncSender<Item>,
    dropped: Arc<AtomicU64>,
}

impl Output {
    /// Starts the thread, which writes to `target`.
    pub(crate) fn start(target: impl Write + Send + 'static) -> io::Result<Self> {
        let (queue, items) = sync_channel(QUEUE);
        let dropped = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&dropped);
        thread::Builder::new().name("log".to_owned()).spawn(move || write_lines(target, &items, &counted))?;
        Ok(Self { queue, dropped })
    }

    /// Waits until what was logged before is written, within bounds.
    pub(crate) fn flush(&self) {
        let (done, written) = sync_channel(1);
        let deadline = Instant::now() + FLUSH;
        let mut item = Item::Flush(done);
        // A queue that is full is given the time to get shorter.
        while let Err(TrySendError::Full(back)) = self.queue.try_send(item) {
            if Instant::now() >= deadline {
                return;
            }
            item = back;
            thread::sleep(Duration::from_millis(1));
        }
        let _ = written.recv_timeout(deadline.saturating_duration_since(Instant::now()));
    }

    /// Lines that were dropped because the reader stalled.
    pub(crate) fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }
}

fn write_lines(mut target: impl Write, items: &Receiver<Item>, dropped: &AtomicU64) {
    let mut told = 0;
    loop {
        match items.recv_timeout(Duration::from_secs(1)) {
            // A target that refuses leaves nowhere to say so.
            Ok(Item::Line(line)) => _ = target.write_all(&line),
            Ok(Item::Flush(done)) => {
                let _ = target.flush();
                let _ = done.try_send(());
            }
            Err(RecvTimeoutError::Timeout) => {
                let now = dropped.load(Ordering::Relaxed);
                if now > told {
                    let _ =
                        writeln!(target, "{} log lines were dropped: their reader was too slow", now - told);
                    told = now;
                }
            }
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}

/// Collects one event's line and sends it when it is complete.
pub(crate) struct Line<'a> {
    output: &'a Output,
    bytes: Vec<u8>,
}

impl Write for Line<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Line<'_> {
    fn drop(&mut self) {
        let line = std::mem::take(&mut self.bytes);
        if !line.is_empty() && self.output.queue.try_send(Item::Line(line)).is_err() {
            self.output.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl<'a> MakeWriter<'a> for Output {
    type Writer = Line<'a>;

    fn make_writer(&'a self) -> Line<'a> {
        Line { output: self, bytes: Vec::with_capacity(256) }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use parking_lot::Mutex;

    use super::*;

    /// What was written.
    #[derive(Clone, Default)]
    pub(crate) struct Shared(pub(crate) Arc<Mutex<Vec<u8>>>);

    impl Write for Shared {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_stalled_reader_costs_lines_and_stops_nobody() {
        let shared = Shared::default();
        let stall = shared.0.lock();
        let output = Output::start(shared.clone()).unwrap();
        for n in 0..QUEUE + 100 {
            writeln!(output.make_writer(), "line {n}").unwrap();
        }
        assert!(
            (99..=100).contains(&output.dropped()),
            "one line may be in the writer's hands: {}",
            output.dropped()
        );
        drop(stall);
        output.queue.send(Item::Line(b"last\n".to_vec())).unwrap();
        output.flush();
        let text = String::from_utf8(shared.0.lock().clone()).unwrap();
        assert!(text.starts_with("line 0\nline 1\n") && text.contains("last\n"));
    }
}
