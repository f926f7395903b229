//! The one thread that writes recordings. It turns every 100 ms; a file is at most about 1.5 s behind the talk (400 ms
//! held back for packets that come late, a segment of a second in the buffer), and its copy in the store as much as a small
//! object takes to be put.

use std::fs::File;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError};
use std::time::Duration;

use trunkline_media_core::FRAME_SAMPLES;
use trunkline_media_core::timeline::{Span, SpanKind, Timeline};
use trunkline_media_core::wav::STEREO_FRAME_BYTES;
use trunkline_types::Timestamp;

use super::replica::Replica;
use super::spool::{Flushed, SpoolFile};
use super::{Context, Meta};
use crate::metrics::Stage;
use crate::tap::{Item, TapReader};

const TURN: Duration = Duration::from_millis(100);
/// When nothing is copied to the store.
const FLUSH: Duration = Duration::from_secs(1);
/// Free space is looked at this often.
const SPACE: Duration = Duration::from_secs(5);

/// One recording being written.
struct Open {
    meta: Meta,
    reader: TapReader,
    timeline: Timeline,
    file: SpoolFile,
    copy: Option<Replica>,
    flushed_at: Timestamp,
    beside: Beside,
}

/// What is beside the audio, on the spool.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Beside {
    Nothing,
    /// Less than is known.
    Behind,
    Everything,
}

pub(super) struct Writer {
    context: Arc<Context>,
    queue: Receiver<(Meta, TapReader)>,
    open: Vec<Open>,
    looked_at: Timestamp,
}

impl Writer {
    pub(super) fn new(context: Arc<Context>, queue: Receiver<(Meta, TapReader)>) -> Self {
        Self { context, queue, open: Vec::new(), looked_at: Timestamp::ZERO }
    }

    /// Until nobody can begin a recording any more and the last one is written.
    pub(super) fn run(mut self) {
        let mut more = true;
        while more || !self.open.is_empty() {
            let turn = std::time::Instant::now();
            if self.open.is_empty() {
                match self.queue.recv_timeout(SPACE) {
                    Ok((meta, reader)) => self.begin(meta, reader),
                    Err(RecvTimeoutError::Timeout) => {}
                    Err(RecvTimeoutError::Disconnected) => more = false,
                }
            }
            if !self.open.is_empty() {
                std::thread::sleep(TURN.saturating_sub(turn.elapsed()));
            }
            // What begins meanwhile is buffered until the turn: it does not wake this thread.
            loop {
                match self.queue.try_recv() {
                    Ok((meta, reader)) => self.begin(meta, reader),
                    Err(TryRecvError::Empty) => break,
                    Err(TryRecvError::Disconnected) => {
                        more = false;
                        break;
                    }
                }
            }
            self.turn();
        }
    }

    fn begin(&mut self, meta: Meta, reader: TapReader) {
        let copy = self.context.segment.map(|_| Replica::new(&self.context, &meta));
        self.open.push(Open {
            timeline: Timeline::new(meta.started_at()),
            file: SpoolFile::new(meta.audio(&self.context.spool)),
            flushed_at: Timestamp::ZERO,
            beside: Beside::Nothing,
            copy,
            meta,
            reader,
        });
    }

    fn turn(&mut self) {
        let now = self.context.clock.timestamp();
        let context = &self.context;
        let mut ended = Vec::new();
        let mut n = 0;
        while n < self.open.len() {
            match self.open[n].turn(now, context) {
                Some(outcome) => ended.push((self.open.swap_remove(n), outcome)),
                None => n += 1,
            }
        }
        for (recording, outcome) in ended {
            recording.settle(outcome, context);
            context.metrics.recordings_open.dec();
        }
        if now.since(self.looked_at) >= SPACE {
            self.looked_at = now;
            if let Ok(space) = rustix::fs::statvfs(&context.spool) {
                let free = space.f_bavail.saturating_mul(space.f_frsize);
                context.metrics.spool_free.set(i64::try_from(free).unwrap_or(i64::MAX));
            }
        }
    }
}

impl Open {
    /// One turn; `Some` when the recording is over, well or not.
    fn turn(&mut self, now: Timestamp, context: &Context) -> Option<std::io::Result<Arc<File>>> {
        let mut marks = false;
        while let Some(item) = self.reader.next() {
            marks |= !matches!(item, Item::Audio(_));
            self.take(item, context);
        }
        if let Some(end) = self.reader.end(now) {
            return Some(self.finish(end, context));
        }
        if marks {
            self.marked(context);
        }
        self.timeline.drain(now, |run| self.file.push(run));
        if now.since(self.flushed_at) >= context.segment.unwrap_or(FLUSH) {
            self.flushed_at = now;
            self.flush(context);
        }
        None
    }

    fn take(&mut self, item: Item, context: &Context) {
        match item {
            Item::Audio(packet) => {
                let mut samples = [0; FRAME_SAMPLES];
                let bytes = packet.bytes();
                packet.codec.decode_into(bytes, &mut samples);
                // Room for it: a writer that was held up has a ring full of what is older than the window.
                self.timeline.drain(packet.at, |run| self.file.push(run));
                if self.file.is_full() {
                    self.flush(context);
                }
                let channel = usize::from(packet.channel);
                self.timeline.push(
                    channel,
                    packet.at,
                    packet.ssrc,
                    packet.timestamp,
                    &samples[..bytes.len()],
                );
            }
            Item::Gap { from, to } => self.timeline.gap(from, to),
            Item::Hold { at, begins: true } => self.timeline.hold_started(at),
            Item::Hold { at, begins: false } => self.timeline.hold_ended(at),
            Item::Pause { at, begins: true } => self.timeline.pause(at),
            Item::Pause { at, begins: false } => self.timeline.resume(at),
        }
    }

    /// Marks survive a crash: they are put beside the audio, here and in the store.
    fn marked(&mut self, context: &Context) {
        self.meta.mark(&self.timeline);
        if let Some(copy) = &self.copy {
            copy.marked(&self.meta);
        }
        let _ = self.save(context);
    }

    fn save(&mut self, context: &Context) -> std::io::Result<()> {
        let saved = match self.beside {
            Beside::Nothing => self.meta.begin(&context.spool),
            Beside::Behind | Beside::Everything => self.meta.save(&context.spool),
        };
        self.beside = if saved.is_ok() { Beside::Everything } else { Beside::Behind };
        saved
    }

    fn flush(&mut self, context: &Context) {
        if self.beside != Beside::Everything {
            let _ = self.save(context);
        }
        let failing = || context.metrics.failing(Stage::Spool);
        match self.file.flush() {
            Flushed::Written | Flushed::StillTrouble => {}
            Flushed::Trouble(error) => {
                failing().inc();
                let problem = format!("the spool cannot be written: {error}; what is missing will be a gap");
                context.trouble(&self.meta, &problem, false);
            }
            Flushed::Over { from, to } => {
                failing().dec();
                self.timeline.gap(self.at(from), self.at(to));
                self.marked(context);
                context.trouble(&self.meta, "the spool can be written again", true);
            }
        }
        if let Some(copy) = &mut self.copy {
            copy.written(self.file.written(), self.file.disk());
        }
    }

    /// When a byte of audio was said.
    fn at(&self, byte: u64) -> Timestamp {
        let start = self.meta.started_at();
        start + Duration::from_micros(byte / STEREO_FRAME_BYTES * 125)
    }

    fn finish(&mut self, end: Timestamp, context: &Context) -> std::io::Result<Arc<File>> {
        let was_in_trouble = self.file.in_trouble();
        let timeline = &mut self.timeline;
        let file = &mut self.file;
        timeline.drain(end, |run| file.push(run));
        let mut spans = timeline.finish(end, |run| file.push(run));
        if was_in_trouble {
            context.metrics.failing(Stage::Spool).dec();
        }
        let (_, missing) = self.file.end()?;
        if let Some((from, to)) = missing {
            let ms = |byte: u64| byte / STEREO_FRAME_BYTES / 8;
            spans.push(Span { kind: SpanKind::Gap, start_ms: ms(from), end_ms: ms(to) });
            spans.sort_by_key(|s| (s.start_ms, s.end_ms));
        }
        let before = self.meta.clone();
        self.meta.set_spans(&spans);
        if (self.beside != Beside::Everything || !self.meta.marked_as(&before))
            && let Err(error) = self.save(context)
        {
            tracing::warn!(recording_id = %self.meta.recording, %error, "a crash now would lose the marks of a recording");
        }
        // After its marks: a file that says that it is whole needs nothing else.
        self.file.seal()
    }

    fn settle(self, outcome: std::io::Result<Arc<File>>, context: &Arc<Context>) {
        match outcome {
            Ok(file) => context.upload(self.meta, self.copy, Some(file)),
            Err(error) => {
                let kept = self.meta.audio(&context.spool);
                let kept = if kept.is_file() { self.meta.file_name() } else { String::new() };
                let problem = format!("the file cannot be written: {error}");
                context.failed(&self.meta, &problem, kept);
                context.busy.lock().remove(&self.meta.recording);
                if let Some(copy) = self.copy {
                    context.runtime.spawn(async move { drop(copy.end().await) });
                }
            }
        }
    }
}
