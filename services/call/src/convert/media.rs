//! Media nodes.

use trunkline_call_core::{
    Codec, Direction, Disconnect, EndpointInfo, Input, MediaBody, MediaCommand, MediaEvent, MediaFailure,
    MediaFailureKind, MediaOk, MediaReply, Missing, Play, Program, Quality, RecordedObject, SessionInfo,
    Span, Speaker, TranscriptState,
};
use trunkline_proto::media::v1::{
    self as pb, disconnected, mark_recording, media_command::Command, media_event, media_failure,
    media_reply, program, span, transcript_status,
};
use trunkline_types::{CallId, Epoch, LegId, NodeId, RecordingId, TenantId};

use super::{Parsed, missing, parse};

/// A command for a media node.
pub(crate) fn to_media(
    tenant: &TenantId,
    call: CallId,
    epoch: Epoch,
    command: MediaCommand,
) -> pb::MediaCommand {
    // The session list is the shard's, not the call's.
    let list = command.body == MediaBody::ListSessions;
    pb::MediaCommand {
        call_id: if list { String::new() } else { call.to_string() },
        shard: call.shard().index().into(),
        epoch: epoch.0,
        command_id: command.id,
        acknowledges_events: true,
        command: Some(body(tenant, call, command.body)),
        ..pb::MediaCommand::default()
    }
}

/// An event has been taken.
pub(crate) fn acknowledge(call: CallId, epoch: Epoch, event: u64) -> pb::MediaCommand {
    pb::MediaCommand {
        call_id: call.to_string(),
        shard: call.shard().index().into(),
        epoch: epoch.0,
        command_id: 0,
        acknowledges_events: true,
        command: Some(Command::AcknowledgeEvents(pb::AcknowledgeEvents { event_ids: vec![event] })),
        ..pb::MediaCommand::default()
    }
}

fn body(tenant: &TenantId, call: CallId, body: MediaBody) -> Command {
    let tenant = tenant.to_string();
    match body {
        MediaBody::CreateRtp { leg, sdp, signalling_ip, former_sdp, sip_call_id } => {
            Command::CreateRtp(pb::CreateRtpEndpoint {
                endpoint: leg.to_string(),
                sdp,
                prefer: Vec::new(),
                signalling_ip,
                former_sdp,
                sip_call_id,
            })
        }
        MediaBody::SetRemote { leg, sdp } => {
            Command::SetRemote(pb::SetRemote { endpoint: leg.to_string(), sdp })
        }
        MediaBody::Renegotiate { leg, sdp } => {
            Command::RenegotiateRtp(pb::RenegotiateRtp { endpoint: leg.to_string(), sdp })
        }
        MediaBody::CreateOffer { leg } => Command::CreateOffer(pb::CreateOffer { endpoint: leg.to_string() }),
        MediaBody::CreateWebRtc { leg, sdp, prefer } => Command::CreateWebrtc(pb::CreateWebRtcEndpoint {
            endpoint: leg.to_string(),
            sdp: sdp.into(),
            prefer: prefer.map(codec_to).into_iter().collect(),
        }),
        MediaBody::ReplaceWebRtc { leg, sdp, prefer } => Command::ReplaceWebrtc(pb::ReplaceWebRtc {
            endpoint: leg.to_string(),
            sdp: sdp.into(),
            prefer: prefer.map(codec_to).into_iter().collect(),
        }),
        MediaBody::CloseEndpoint { leg } => {
            Command::CloseEndpoint(pb::CloseEndpoint { endpoint: leg.to_string() })
        }
        MediaBody::CloseSession => Command::CloseSession(pb::CloseSession {}),
        MediaBody::SetProgram { leg, program } => Command::SetProgram(pb::SetProgram {
            endpoint: leg.to_string(),
            program: Some(program_to(program)),
        }),
        MediaBody::Bridge { a, b } => Command::Bridge(pb::Bridge { a: a.to_string(), b: b.to_string() }),
        MediaBody::SetMuted { leg, muted } => {
            Command::SetMuted(pb::SetMuted { endpoint: leg.to_string(), muted })
        }
        MediaBody::SendDigits { leg, digits } => Command::SendDigits(pb::SendDigits {
            endpoint: leg.to_string(),
            digits,
            duration_ms: 0,
            gap_ms: 0,
        }),
        MediaBody::ListSessions => {
            Command::ListSessions(pb::ListSessions { shard: call.shard().index().into() })
        }
        other => recording_body(tenant, other),
    }
}

fn recording_body(tenant: String, body: MediaBody) -> Command {
    match body {
        MediaBody::StartRecording { recording, left, right } => Command::StartRecording(pb::StartRecording {
            recording_id: recording.to_string(),
            tenant,
            left: left.to_string(),
            right: right.to_string(),
        }),
        MediaBody::MarkHold { recording, on } => {
            let mark = if on { mark_recording::Mark::HoldStarted } else { mark_recording::Mark::HoldEnded };
            Command::MarkRecording(pb::MarkRecording {
                recording_id: recording.to_string(),
                mark: mark.into(),
            })
        }
        MediaBody::PauseRecording { recording, paused: true, resume_after_ms } => {
            Command::PauseRecording(pb::PauseRecording {
                recording_id: recording.to_string(),
                resume_after_ms,
            })
        }
        MediaBody::PauseRecording { recording, paused: false, .. } => {
            Command::ResumeRecording(pb::ResumeRecording { recording_id: recording.to_string() })
        }
        MediaBody::StopRecording { recording } => {
            Command::StopRecording(pb::StopRecording { recording_id: recording.to_string() })
        }
        MediaBody::StartTranscription { recording, left, right, language, phrases } => {
            Command::StartTranscription(pb::StartTranscription {
                transcription_id: recording.to_string(),
                tenant,
                left: left.to_string(),
                right: right.to_string(),
                language,
                phrases,
            })
        }
        MediaBody::Salvage { recording, node } => Command::SalvageRecording(pb::SalvageRecording {
            recording_id: recording.to_string(),
            tenant,
            node: node.to_string(),
        }),
        MediaBody::StopTranscription { recording } => {
            Command::StopTranscription(pb::StopTranscription { transcription_id: recording.to_string() })
        }
        _ => unreachable!("sorted by `body`"),
    }
}

fn program_to(program: Program) -> pb::Program {
    let kind = match program {
        Program::Silence => program::Kind::Silence(pb::Silence {}),
        Program::Music(name) => program::Kind::Music(pb::Music { name }),
        Program::PeerOf(leg) => program::Kind::PeerOf(leg.to_string()),
        Program::Play(play) => program::Kind::Play(Box::new(play_to(*play))),
    };
    pb::Program { kind: Some(kind) }
}

fn play_to(play: Play) -> pb::Play {
    pb::Play {
        prompts: play.prompts,
        then: Some(Box::new(program_to(play.then))),
        token: play.token,
        interruptible: play.interruptible,
        over_music: play.over_music,
    }
}

fn codec_to(codec: Codec) -> i32 {
    let codec = match codec {
        Codec::Pcmu => pb::Codec::Pcmu,
        Codec::Pcma => pb::Codec::Pcma,
    };
    codec.into()
}

const fn codec(codec: pb::Codec) -> Option<Codec> {
    match codec {
        pb::Codec::Pcmu => Some(Codec::Pcmu),
        pb::Codec::Pcma => Some(Codec::Pcma),
        pb::Codec::Unspecified => None,
    }
}

const fn direction(direction: pb::Direction) -> Option<Direction> {
    match direction {
        pb::Direction::Sendrecv => Some(Direction::SendRecv),
        pb::Direction::Sendonly => Some(Direction::SendOnly),
        pb::Direction::Recvonly => Some(Direction::RecvOnly),
        pb::Direction::Inactive => Some(Direction::Inactive),
        pb::Direction::Unspecified => None,
    }
}

/// A media node's answer to the call `call`; of a shard's sessions only its own is kept.
pub(crate) fn from_reply(call: CallId, reply: pb::MediaReply) -> Parsed<Input> {
    let result = match reply.result.ok_or_else(|| missing("media_reply.result"))? {
        media_reply::Result::Ok(ok) => Ok(MediaOk {
            codec: codec(ok.codec()),
            direction: direction(ok.direction()),
            sessions: sessions(call, ok.sessions),
            sdp: ok.sdp,
            no_recogniser: ok.no_recogniser,
        }),
        media_reply::Result::Failure(failure) => {
            Err(MediaFailure { kind: failure_kind(failure.kind()), message: failure.message })
        }
    };
    Ok(Input::MediaReply(Box::new(MediaReply { command: reply.command_id, result })))
}

const fn failure_kind(kind: media_failure::Kind) -> MediaFailureKind {
    use media_failure::Kind;
    match kind {
        Kind::StaleEpoch => MediaFailureKind::StaleEpoch,
        Kind::MalformedSdp => MediaFailureKind::MalformedSdp,
        Kind::NoCommonCodec => MediaFailureKind::NoCommonCodec,
        Kind::UnsupportedTransport => MediaFailureKind::UnsupportedTransport,
        Kind::Overload => MediaFailureKind::Overload,
        Kind::UnknownSession => MediaFailureKind::UnknownSession,
        Kind::UnknownEndpoint => MediaFailureKind::UnknownEndpoint,
        Kind::UnknownPrompt => MediaFailureKind::UnknownPrompt,
        Kind::Invalid => MediaFailureKind::Invalid,
        Kind::Conflict => MediaFailureKind::Conflict,
        Kind::NoTelephoneEvent => MediaFailureKind::NoTelephoneEvent,
        Kind::ShuttingDown => MediaFailureKind::ShuttingDown,
        Kind::Internal | Kind::Unspecified => MediaFailureKind::Internal,
    }
}

fn sessions(call: CallId, sessions: Vec<pb::SessionInfo>) -> Vec<SessionInfo> {
    let name = call.to_string();
    let own = sessions.into_iter().filter(|session| session.call_id == name);
    own.map(|session| SessionInfo {
        call,
        recording: session.recording_id.parse().ok(),
        transcribing: !session.transcription_id.is_empty(),
        endpoints: session.endpoints.into_iter().filter_map(endpoint).collect(),
    })
    .collect()
}

fn endpoint(info: pb::EndpointInfo) -> Option<EndpointInfo> {
    Some(EndpointInfo {
        leg: info.endpoint.parse().ok()?,
        connected: info.connected,
        codec: codec(info.codec()),
        direction: direction(info.direction()),
        local_sdp: info.local_sdp,
    })
}

/// Something that happened on a media node. `None`: nothing that a call needs to know.
pub(crate) fn from_event(node: Option<NodeId>, event: pb::MediaEvent) -> Parsed<Option<Input>> {
    let (id, acknowledge) = (event.event_id, event.acknowledge);
    let event = match happened(event.event.ok_or_else(|| missing("media_event.event"))?)? {
        MediaEvent::Other if !acknowledge => return Ok(None),
        event => Box::new(event),
    };
    Ok(Some(Input::MediaEvent { node, id, acknowledge, event }))
}

fn happened(event: media_event::Event) -> Parsed<MediaEvent> {
    use media_event::Event;
    Ok(match event {
        Event::Digit(e) => MediaEvent::Digit {
            leg: leg("digit.endpoint", &e.endpoint)?,
            digit: e.digit.chars().next().ok_or_else(|| missing("digit.digit"))?,
        },
        Event::PlaybackFinished(e) => MediaEvent::PlaybackFinished {
            leg: leg("playback_finished.endpoint", &e.endpoint)?,
            token: e.token,
        },
        Event::Connected(e) => MediaEvent::Connected { leg: leg("connected.endpoint", &e.endpoint)? },
        Event::Disconnected(e) => {
            let reason = match e.reason() {
                disconnected::Reason::NoRtp => Disconnect::NoRtp,
                disconnected::Reason::Ice => Disconnect::Ice,
                disconnected::Reason::Closed => Disconnect::Closed,
                disconnected::Reason::Paused => Disconnect::Paused,
                disconnected::Reason::Failed | disconnected::Reason::Unspecified => Disconnect::Failed,
            };
            MediaEvent::Disconnected { leg: leg("disconnected.endpoint", &e.endpoint)?, reason }
        }
        Event::Quality(e) => MediaEvent::Quality {
            leg: leg("quality.endpoint", &e.endpoint)?,
            last: e.r#final,
            quality: quality(&e),
        },
        Event::RecordingFinished(e) => MediaEvent::RecordingFinished(Box::new(recorded(e)?)),
        Event::RecordingFailed(e) => {
            let kept = if e.kept_at.is_empty() { String::new() } else { format!(" (kept as {})", e.kept_at) };
            MediaEvent::RecordingFailed {
                recording: recording("recording_failed.recording_id", &e.recording_id)?,
                reason: e.message + &kept,
            }
        }
        Event::TranscriptSegment(_) | Event::TranscriptGap(_) | Event::TranscriptStatus(_) => {
            transcript(event)?
        }
        Event::SessionEnded(e) => {
            MediaEvent::SessionEnded { shutdown: e.reason() == pb::session_ended::Reason::Shutdown }
        }
        Event::SessionUnattended(_) => MediaEvent::Unattended,
        Event::RecordingTrouble(e) => {
            let over = e.over;
            tracing::warn!(
                recording = e.recording_id,
                problem = e.message,
                over,
                "a recording cannot be written"
            );
            MediaEvent::RecordingTrouble {
                recording: recording("recording_trouble.recording_id", &e.recording_id)?,
                reason: e.message,
                over,
            }
        }
        Event::RecordingStarted(_) | Event::DigitsSent(_) => MediaEvent::Other,
    })
}

fn transcript(event: media_event::Event) -> Parsed<MediaEvent> {
    use media_event::Event;
    Ok(match event {
        Event::TranscriptSegment(e) => MediaEvent::TranscriptSegment {
            recording: recording("transcript_segment.transcription_id", &e.transcription_id)?,
            speaker: if e.channel() == pb::Channel::Right { Speaker::Agent } else { Speaker::Caller },
            start_ms: e.start_ms,
            end_ms: e.end_ms,
            text: e.text,
            confidence: e.confidence as f32,
            is_final: e.r#final,
        },
        Event::TranscriptGap(e) => MediaEvent::TranscriptGap {
            recording: recording("transcript_gap.transcription_id", &e.transcription_id)?,
            start_ms: e.start_ms,
            end_ms: e.end_ms,
            reason: e.reason,
        },
        Event::TranscriptStatus(e) => {
            let state = match e.state() {
                transcript_status::State::NoRecogniser => TranscriptState::None,
                transcript_status::State::Connected => TranscriptState::Started,
                transcript_status::State::Finished => TranscriptState::Finished,
                transcript_status::State::Failed => TranscriptState::Failed,
                // Tries go on: what is missing in the end is told by gaps.
                transcript_status::State::Unreachable | transcript_status::State::Unspecified => {
                    return Ok(MediaEvent::Other);
                }
            };
            let recording = recording("transcript_status.transcription_id", &e.transcription_id)?;
            let detail = if e.message.is_empty() { e.recogniser } else { e.message };
            MediaEvent::TranscriptStatus { recording, state, detail }
        }
        _ => unreachable!("sorted by `happened`"),
    })
}

fn leg(field: &'static str, text: &str) -> Parsed<LegId> {
    parse(field, text)
}

fn recording(field: &'static str, text: &str) -> Parsed<RecordingId> {
    parse(field, text)
}

fn quality(e: &pb::Quality) -> Quality {
    Quality {
        packets_received: e.received_packets,
        packets_lost: e.lost_packets,
        jitter_ms: e.jitter_ms as f32,
        round_trip_ms: e.rtt_ms as f32,
        mos: e.mos as f32,
        packets_sent: e.sent_packets,
        missing: match e.missing() {
            pb::Missing::Received => Some(Missing::Received),
            pb::Missing::Sent => Some(Missing::Sent),
            pb::Missing::Unspecified => None,
        },
    }
}

fn recorded(e: pb::RecordingFinished) -> Parsed<RecordedObject> {
    let (mut holds, mut gaps) = (Vec::new(), Vec::new());
    for span in e.spans {
        let to =
            |reason: &str| Span { start_ms: span.start_ms, end_ms: span.end_ms, reason: reason.to_owned() };
        match span.kind() {
            span::Kind::Hold => holds.push(to("hold")),
            span::Kind::Paused => gaps.push(to("paused")),
            span::Kind::Gap | span::Kind::Unspecified => gaps.push(to("lost")),
        }
    }
    Ok(RecordedObject {
        recording: recording("recording_finished.recording_id", &e.recording_id)?,
        key: e.key,
        duration_ms: e.duration_ms,
        size_bytes: e.bytes,
        sha256: e.sha256.iter().map(|byte| format!("{byte:02x}")).collect(),
        holds,
        gaps,
        salvaged: e.salvaged,
    })
}
