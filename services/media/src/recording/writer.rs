//! The one thread that writes recordings. It turns every 100 ms; a file is at most about 1.5 s behind the talk (400 ms
//! held back for packets that come late, a second in the buffer).

use std::fs::File;
use std::io::{BufWriter, Seek, SeekFrom, Write};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use trunkline_media_core::timeline::Timeline;
use trunkline_media_core::{FRAME_SAMPLES, SAMPLE_RATE_HZ, wav};
use trunkline_types::Timestamp;

use super::{Context, Meta};
use crate::tap::{Item, TapReader};

const TURN: Duration = Duration::from_millis(100);
const FLUSH: Duration = Duration::from_secs(1);
const BUFFER_BYTES: usize = 64 * 1024;

/// One recording being written.
struct Open {
    meta: Meta,
    reader: TapReader,
    timeline: Timeline,
    file: BufWriter<File>,
    flushed_at: Timestamp,
    trouble: Option<std::io::Error>,
}

pub(super) struct Writer {
    context: Arc<Context>,
    queue: Receiver<(Meta, TapReader)>,
    open: Vec<Open>,
}

impl Writer {
    pub(super) fn new(context: Arc<Context>, queue: Receiver<(Meta, TapReader)>) -> Self {
        Self { context, queue, open: Vec::new() }
    }

    /// Until nobody can begin a recording any more and the last one is written.
    pub(super) fn run(mut self) {
        let mut more = true;
        while more || !self.open.is_empty() {
            let turn = std::time::Instant::now();
            loop {
                match self.queue.recv_timeout(TURN.saturating_sub(turn.elapsed())) {
                    Ok((meta, reader)) => self.begin(meta, reader),
                    Err(RecvTimeoutError::Timeout) => break,
                    Err(RecvTimeoutError::Disconnected) => {
                        if more {
                            more = false;
                        } else {
                            std::thread::sleep(TURN);
                        }
                        break;
                    }
                }
            }
            self.turn();
        }
    }

    fn begin(&mut self, meta: Meta, reader: TapReader) {
        match create(&self.context, &meta) {
            Ok(file) => {
                let timeline = Timeline::new(meta.started_at());
                let flushed_at = meta.started_at();
                self.open.push(Open { meta, reader, timeline, file, flushed_at, trouble: None });
            }
            Err(error) => {
                self.context.metrics.recordings_open.dec();
                self.context.failed(&meta, &format!("the file cannot be made: {error}"), String::new());
            }
        }
    }

    fn turn(&mut self) {
        let now = self.context.clock.timestamp();
        let context = &self.context;
        self.open.retain_mut(|recording| {
            let end = recording.turn(now, context);
            let Some(outcome) = end else { return true };
            match outcome {
                Ok(()) => context.upload(recording.meta.clone(), false),
                Err(error) => {
                    let kept = recording.meta.audio(&context.spool);
                    let kept = kept.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
                    context.failed(&recording.meta, &format!("the file cannot be written: {error}"), kept);
                }
            }
            context.metrics.recordings_open.dec();
            false
        });
    }
}

fn create(context: &Context, meta: &Meta) -> std::io::Result<BufWriter<File>> {
    meta.save(&context.spool)?;
    let mut file = BufWriter::with_capacity(BUFFER_BYTES, File::create_new(meta.audio(&context.spool))?);
    file.write_all(&wav::header(2, SAMPLE_RATE_HZ, 0))?;
    file.flush()?;
    Ok(file)
}

impl Open {
    /// One turn; `Some` when the recording is over, well or not.
    fn turn(&mut self, now: Timestamp, context: &Context) -> Option<std::io::Result<()>> {
        while let Some(item) = self.reader.next() {
            self.take(item, context);
        }
        if let Some(end) = self.reader.end(now) {
            return Some(self.finish(end, context));
        }
        self.timeline.drain(now, write(&mut self.file, &mut self.trouble));
        if now.since(self.flushed_at) >= FLUSH {
            self.flushed_at = now;
            self.keep(|file| file.flush());
        }
        self.trouble.take().map(Err)
    }

    fn take(&mut self, item: Item, context: &Context) {
        match item {
            Item::Audio(packet) => {
                let mut samples = [0; FRAME_SAMPLES];
                let bytes = packet.bytes();
                packet.codec.decode_into(bytes, &mut samples);
                // Room for it: a writer that was held up has a ring full of what is older than the window.
                self.timeline.drain(packet.at, write(&mut self.file, &mut self.trouble));
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
        if !matches!(item, Item::Audio(_)) {
            // Marks survive a crash: what is complete is put beside the audio.
            self.meta.set_spans(self.timeline.spans());
            let saved = self.meta.save(&context.spool);
            self.keep(|_| saved);
        }
    }

    fn finish(&mut self, end: Timestamp, context: &Context) -> std::io::Result<()> {
        let spans = self.timeline.finish(end, write(&mut self.file, &mut self.trouble));
        if let Some(error) = self.trouble.take() {
            return Err(error);
        }
        self.file.flush()?;
        let data = self.timeline.flushed() * wav::STEREO_FRAME_BYTES;
        let file = self.file.get_mut();
        file.seek(SeekFrom::Start(0))?;
        file.write_all(&wav::header(2, SAMPLE_RATE_HZ, data))?;
        file.sync_all()?;
        self.meta.set_spans(&spans);
        self.meta.save(&context.spool)
    }

    fn keep(&mut self, act: impl FnOnce(&mut BufWriter<File>) -> std::io::Result<()>) {
        if let Err(error) = act(&mut self.file) {
            self.trouble.get_or_insert(error);
        }
    }
}

/// Writes runs of the time line; the first error is kept and ends the writing.
fn write<'a>(
    file: &'a mut BufWriter<File>,
    trouble: &'a mut Option<std::io::Error>,
) -> impl FnMut(&[[i16; 2]]) + 'a {
    move |run| {
        for piece in run.chunks(256) {
            let mut bytes = [0u8; 1_024];
            for (out, moment) in bytes.chunks_exact_mut(4).zip(piece) {
                let ([a, b], [c, d]) = (moment[0].to_le_bytes(), moment[1].to_le_bytes());
                out.copy_from_slice(&[a, b, c, d]);
            }
            if trouble.is_none()
                && let Err(error) = file.write_all(&bytes[..piece.len() * 4])
            {
                *trouble = Some(error);
            }
        }
    }
}
