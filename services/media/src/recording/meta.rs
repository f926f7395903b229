//! What is known of a recording beside its audio: in the spool, so that a crash loses neither whose it is nor its spans,
//! and as the manifest of its parts in the store, so that another node knows the same.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use trunkline_media_core::timeline::{Span, SpanKind, Timeline};
use trunkline_proto::media::v1 as pb;
use trunkline_types::{RecordingId, ShardId, TenantId, Timestamp};

use super::files;
use super::store::Stored;
use crate::events::Owner;

/// See the module. Fields may be added; what is missing has its default.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Meta {
    pub(crate) recording: RecordingId,
    shard: u16,
    pub(crate) tenant: TenantId,
    pub(crate) started_at_us: i64,
    pub(crate) spans: Vec<MetaSpan>,
    /// Spans that had not ended: what ends with the recording.
    #[serde(default)]
    open: Vec<MetaSpan>,
    /// The object, once it is stored.
    #[serde(default)]
    pub(crate) stored: Option<Stored>,
    /// Another life of a node found it.
    #[serde(default)]
    pub(crate) salvaged: bool,
}

/// A span in the file beside the audio.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct MetaSpan {
    kind: u8,
    start_ms: u64,
    end_ms: u64,
}

const GAP: u8 = 3;

fn number(kind: SpanKind) -> u8 {
    match kind {
        SpanKind::Hold => 1,
        SpanKind::Paused => 2,
        SpanKind::Gap => GAP,
    }
}

impl Meta {
    pub(crate) fn new(
        recording: RecordingId,
        shard: ShardId,
        tenant: TenantId,
        started_at: Timestamp,
    ) -> Self {
        Self {
            recording,
            shard: shard.index(),
            tenant,
            started_at_us: started_at.as_micros(),
            spans: Vec::new(),
            open: Vec::new(),
            stored: None,
            salvaged: false,
        }
    }

    pub(crate) fn owner(&self) -> Owner {
        let shard = ShardId::new(self.shard).unwrap_or(self.recording.call.shard());
        Owner { call: self.recording.call, shard, tenant: self.tenant.as_str().into() }
    }

    pub(crate) fn started_at(&self) -> Timestamp {
        Timestamp::from_micros(self.started_at_us)
    }

    /// Takes over the marks so far.
    pub(super) fn mark(&mut self, timeline: &Timeline) {
        self.set_spans(timeline.spans());
        let open = timeline.open_spans();
        self.open = open
            .map(|(kind, start_ms)| MetaSpan { kind: number(kind), start_ms, end_ms: start_ms })
            .collect();
    }

    /// The marks at the end.
    pub(super) fn set_spans(&mut self, spans: &[Span]) {
        self.open.clear();
        let span = |s: &Span| MetaSpan { kind: number(s.kind), start_ms: s.start_ms, end_ms: s.end_ms };
        self.spans = spans.iter().map(span).collect();
    }

    /// Closes what was open when the audio broke off.
    pub(super) fn close_spans(&mut self, end_ms: u64) {
        self.spans.extend(self.open.drain(..).map(|s| MetaSpan { end_ms: end_ms.max(s.start_ms), ..s }));
        self.spans.sort_by_key(|s| (s.start_ms, s.end_ms));
    }

    pub(super) fn add_gap(&mut self, start_ms: u64, end_ms: u64) {
        self.spans.push(MetaSpan { kind: GAP, start_ms, end_ms });
        self.spans.sort_by_key(|s| (s.start_ms, s.end_ms));
    }

    /// Whether both say the same of the audio.
    pub(super) fn marked_as(&self, other: &Self) -> bool {
        (&self.spans, &self.open) == (&other.spans, &other.open)
    }

    /// Whether nothing is marked.
    pub(super) fn is_unmarked(&self) -> bool {
        self.spans.is_empty() && self.open.is_empty()
    }

    pub(super) fn wire_spans(&self) -> Vec<pb::Span> {
        let span = |s: &MetaSpan| pb::Span { kind: s.kind.into(), start_ms: s.start_ms, end_ms: s.end_ms };
        self.spans.iter().map(span).collect()
    }

    /// `{tenant}/{recording}.wav`
    pub(crate) fn key(&self) -> String {
        key(&self.tenant, &self.recording)
    }

    /// Of the audio in the spool.
    pub(super) fn file_name(&self) -> String {
        format!("{}.wav", self.recording)
    }

    pub(crate) fn audio(&self, spool: &Path) -> PathBuf {
        spool.join(self.file_name())
    }

    pub(crate) fn beside(&self, spool: &Path) -> PathBuf {
        spool.join(format!("{}.json", self.recording))
    }

    /// What is known at the beginning, written before the audio's file is made.
    pub(super) fn begin(&self, spool: &Path) -> std::io::Result<()> {
        files::write(&self.beside(spool), &serde_json::to_vec(self)?)
    }

    /// What is known now, in place of what was.
    pub(super) fn save(&self, spool: &Path) -> std::io::Result<()> {
        files::replace(&self.beside(spool), &serde_json::to_vec(self)?)
    }

    pub(super) fn load(path: &Path) -> Option<Self> {
        std::fs::read(path).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok())
    }
}

/// Where the finished recording is kept.
pub(super) fn key(tenant: &TenantId, recording: &RecordingId) -> String {
    format!("{tenant}/{recording}.wav")
}
