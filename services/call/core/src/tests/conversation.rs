//! The agent's part.

use std::time::Duration;

use trunkline_sip::Method;
use trunkline_types::ReleaseCause;

use super::bed::*;
use crate::{
    AgentNotice, AgentRequest, Control, Disconnect, EndedBy, EventBody, LegKind, MediaBody, MediaEvent,
    MediaFailureKind, Phase, Program, QueueRequest, QueueSignal, RETURN_PRIORITY, RecordedObject, Speaker,
    TranscriptState,
};

fn object() -> Box<RecordedObject> {
    Box::new(RecordedObject {
        recording: trunkline_types::RecordingId { call: call_id(), index: 0 },
        key: "default/x.wav".into(),
        duration_ms: 5_000,
        size_bytes: 160_044,
        sha256: "00".into(),
        holds: Vec::new(),
        gaps: Vec::new(),
        salvaged: false,
    })
}

fn results(bed: &Bed) -> Vec<String> {
    let result = |notice| match notice {
        AgentNotice::Result { error, .. } => Some(error),
        _ => None,
    };
    bed.notices().into_iter().filter_map(result).collect()
}

#[test]
fn an_agent_who_picks_up_is_bridged_recorded_and_told() {
    let mut bed = Bed::waiting();
    bed.connect(1);
    assert_eq!(bed.call.phase(), Phase::Connecting);
    assert!(matches!(bed.command().body, MediaBody::CreateWebRtc { prefer: Some(crate::Codec::Pcmu), .. }));
    assert!(bed.has(|e| matches!(e, EventBody::LegAdded { kind: LegKind::WebRtc, .. })));
    // Asked again meanwhile: nothing is done twice.
    bed.connect(1);
    let done = bed.settle_media();
    assert_eq!(done.iter().filter(|body| body.creates()).count(), 1);
    assert!(matches!(
        &done[1..],
        [MediaBody::Bridge { .. }, MediaBody::StartRecording { .. }, MediaBody::StartTranscription { .. }]
    ));
    let kinds = bed.kinds();
    let bridged = ["AgentConnecting", "LegAnswered", "QueueExited", "AgentBridged", "RecordingStarted"];
    assert_eq!(kinds[kinds.len() - 5..], bridged);
    let notices = bed.notices();
    assert!(
        matches!(&notices[0], AgentNotice::Connected { sdp_answer, .. } if sdp_answer == ANSWER),
        "{notices:?}"
    );
    assert!(matches!(&notices[1], AgentNotice::State(state) if state.recording));
    assert!(matches!(bed.queue_requests()[..], [QueueRequest::Answered { entry: 0, .. }]));
    // Repeated until the queue has heard it; a repeated Connect is answered again.
    bed.drain();
    bed.pass(Duration::from_secs(2));
    assert!(matches!(
        bed.queue_requests()[..],
        [QueueRequest::Answered { .. }, QueueRequest::Answered { .. }]
    ));
    bed.queue(0, QueueSignal::Acknowledged(offer(1)));
    bed.drain();
    bed.pass(Duration::from_secs(20));
    assert!(bed.queue_requests().is_empty());
    bed.connect(1);
    assert!(
        matches!(&bed.notices()[..], [AgentNotice::Connected { sdp_answer, .. }] if sdp_answer == ANSWER)
    );
}

#[test]
fn an_agent_whose_audio_cannot_be_made_leaves_the_caller_at_the_place() {
    for (reply, reason) in [(Some(MediaFailureKind::NoCommonCodec), "no_common_codec"), (None, "media_lost")]
    {
        let mut bed = Bed::waiting();
        bed.connect(1);
        match reply {
            Some(kind) => bed.reply(Err(kind)),
            None => bed.pass(Duration::from_secs(8)),
        }
        assert!(
            matches!(&bed.notices()[..], [AgentNotice::ConnectFailed { reason: r, .. }] if r == reason),
            "{:?}",
            bed.notices()
        );
        assert!(matches!(bed.queue_requests()[..], [QueueRequest::ConnectFailed { .. }]));
        assert!(matches!(bed.command().body, MediaBody::CloseEndpoint { .. }), "nothing is left behind");
        assert_eq!(bed.call.phase(), Phase::Queued);
        bed.settle_media();
        // Decided for ever; another offer may succeed.
        bed.drain();
        bed.connect(1);
        assert!(matches!(bed.notices()[..], [AgentNotice::ConnectFailed { .. }]));
        bed.connect(2);
        bed.settle_media();
        assert_eq!(bed.call.phase(), Phase::Talking);
    }
}

#[test]
fn an_agent_comes_too_late_or_to_a_taken_call() {
    let mut bed = Bed::waiting();
    bed.send("BYE", "", "");
    bed.connect(1);
    let over = |notice: &AgentNotice| matches!(notice, AgentNotice::Ended { connected: None, .. });
    assert!(over(&bed.notices()[0]));
    let mut bed = Bed::talking();
    bed.connect(2);
    assert!(matches!(bed.notices()[..], [AgentNotice::ConnectFailed { .. }]));
    assert_eq!(bed.call.phase(), Phase::Talking);
    // The caller hangs up while the agent is being connected.
    let mut bed = Bed::waiting();
    bed.connect(1);
    bed.send("BYE", "", "");
    assert!(over(bed.notices().last().unwrap()));
    bed.settle_media();
    bed.drain();
    bed.connect(1);
    assert!(over(&bed.notices()[0]), "{:?}", bed.notices());
    bed.agent(1, AgentRequest::EndedAck);
    bed.queue(0, QueueSignal::Left);
    bed.queue(0, QueueSignal::Acknowledged(offer(1)));
    bed.pass(Duration::from_secs(5));
    assert!(bed.call.finished());
}

#[test]
fn what_is_given_up_is_never_connected() {
    let mut bed = Bed::waiting();
    bed.agent(1, AgentRequest::GiveUp);
    bed.connect(1);
    assert!(matches!(
        bed.notices()[..],
        [AgentNotice::ConnectFailed { .. }, AgentNotice::ConnectFailed { .. }]
    ));
    assert_eq!(bed.call.phase(), Phase::Queued);
    let mut bed = Bed::talking();
    bed.agent(1, AgentRequest::GiveUp);
    assert!(matches!(bed.notices()[..], [AgentNotice::Connected { .. }]), "too late");
}

#[test]
fn the_agent_hangs_up_and_the_call_ends_when_all_is_settled() {
    let mut bed = Bed::talking();
    bed.control("1", Control::HangUp);
    assert_eq!(results(&bed), [""]);
    assert!(
        bed.has(|e| matches!(e, EventBody::Ended { cause: ReleaseCause::AgentHangup, by: EndedBy::Agent }))
    );
    assert_eq!(bed.requests()[0].1.method, Method::Bye);
    assert!(matches!(bed.notices().last(), Some(AgentNotice::Ended { connected: Some(_), .. })));
    bed.answer_bye();
    bed.settle_media();
    // Said again until heard.
    bed.drain();
    bed.pass(Duration::from_secs(1));
    assert!(matches!(bed.notices()[..], [AgentNotice::Ended { .. }]));
    bed.agent(1, AgentRequest::EndedAck);
    // Controls and questions after the end are answered.
    bed.drain();
    bed.control("9", Control::Mute(true));
    bed.agent(1, AgentRequest::AskAlive);
    assert!(matches!(bed.notices()[..], [AgentNotice::Ended { .. }, AgentNotice::Ended { .. }]));
    let recording = object().recording;
    bed.media_event(MediaEvent::RecordingFinished(object()));
    let segment = MediaEvent::TranscriptSegment {
        recording,
        speaker: Speaker::Caller,
        start_ms: 0,
        end_ms: 900,
        text: "hello".into(),
        confidence: 0.9,
        is_final: true,
    };
    bed.media_event(segment);
    let finished = TranscriptState::Finished;
    bed.media_event(MediaEvent::TranscriptStatus { recording, state: finished, detail: String::new() });
    measured(&mut bed);
    assert!(bed.call.finished());
    assert_eq!(bed.kinds().last().unwrap(), "LegReleased");
}

#[test]
fn a_recording_that_never_comes_is_told_as_failed() {
    let mut bed = Bed::talking();
    bed.send("BYE", "", "");
    bed.settle_media();
    bed.agent(1, AgentRequest::EndedAck);
    bed.pass(Duration::from_secs(61));
    assert!(bed.has(|e| matches!(e, EventBody::RecordingFailed { .. })));
    assert!(bed.has(|e| matches!(e, EventBody::TranscriptStatus { status: TranscriptState::Failed, .. })));
    assert!(bed.call.finished());
}

/// An agent has picked up; the recording is asked for and nothing has been said of it.
fn about_to_record() -> Bed {
    let mut bed = Bed::waiting();
    bed.connect(1);
    for _ in 0..10 {
        if matches!(bed.command().body, MediaBody::StartRecording { .. }) {
            return bed;
        }
        bed.media_ok();
    }
    panic!("no recording is asked for: {:?}", bed.command().body)
}

/// The last words of both legs, until which a call that has ended is kept.
fn measured(bed: &mut Bed) {
    for n in [0, 1] {
        assert!(!bed.call.finished());
        let quality = crate::Quality { mos: 4.3, ..crate::Quality::default() };
        bed.media_event(MediaEvent::Quality { leg: leg(n), last: true, quality });
    }
}

#[test]
fn nobody_is_asked_to_transcribe_where_nobody_can() {
    let mut bed = about_to_record();
    bed.reply(Ok(crate::MediaOk { no_recogniser: true, ..crate::MediaOk::default() }));
    assert!(bed.settle_media().iter().all(|body| !matches!(body, MediaBody::StartTranscription { .. })));
    let why = |e: &EventBody| match e {
        EventBody::TranscriptStatus { status: TranscriptState::None, detail, .. } => Some(detail.clone()),
        _ => None,
    };
    let told: Vec<_> = bed.events.iter().filter_map(|event| why(&event.body)).collect();
    assert_eq!(told, ["no recogniser is configured (media.transcription)"]);
    // Nothing is waited for but the recording.
    bed.queue(0, QueueSignal::Acknowledged(offer(1)));
    bed.send("BYE", "", "");
    bed.settle_media();
    bed.agent(1, AgentRequest::EndedAck);
    bed.media_event(MediaEvent::RecordingFinished(object()));
    measured(&mut bed);
    assert!(bed.call.finished());
}

#[test]
fn a_conversation_that_ends_before_its_recording_runs_has_no_transcript() {
    let mut bed = about_to_record();
    bed.send("BYE", "", "");
    let done = bed.settle_media();
    assert!(done.iter().all(|body| !matches!(body, MediaBody::StartTranscription { .. })), "{done:?}");
    assert!(bed.has(|e| matches!(e, EventBody::TranscriptStatus { status: TranscriptState::None, .. })));
}

#[test]
fn a_recording_that_is_over_when_it_is_said_to_run_is_not_transcribed_for_the_next_agent() {
    let mut bed = about_to_record();
    // As a transfer does, whose next agent is there before the node has answered.
    bed.call.recordings_end(bed.now);
    bed.media_ok();
    let done = bed.settle_media();
    assert!(done.iter().all(|body| !matches!(body, MediaBody::StartTranscription { .. })), "{done:?}");
    let told = |e: &EventBody| {
        matches!(e, EventBody::TranscriptStatus { status: TranscriptState::None, detail, .. }
            if detail == "the conversation ended before it began")
    };
    assert!(bed.has(told));
}

#[test]
fn hold_plays_music_to_the_caller_and_is_marked() {
    let mut bed = Bed::talking();
    bed.control("1", Control::Hold(true));
    let done = bed.settle_media();
    assert!(matches!(
        &done[..],
        [
            MediaBody::SetProgram { leg: caller, program: Program::Music(_) },
            MediaBody::SetProgram { leg: agent, program: Program::Silence },
            MediaBody::MarkHold { on: true, .. }
        ] if caller.index == 0 && agent.index == 1
    ));
    assert_eq!(results(&bed), [""]);
    // The same command again: answered, not done.
    bed.drain();
    bed.control("1", Control::Hold(true));
    assert_eq!(results(&bed), [""]);
    assert!(bed.fresh().iter().filter_map(media_of).next().is_none());
    bed.control("2", Control::Hold(false));
    let done = bed.settle_media();
    assert!(
        matches!(&done[..], [MediaBody::Bridge { .. }, MediaBody::MarkHold { on: false, .. }]),
        "{done:?}"
    );
}

#[test]
fn mute_pause_and_digits() {
    let mut bed = Bed::talking();
    bed.control("1", Control::Mute(true));
    assert!(matches!(bed.command().body, MediaBody::SetMuted { muted: true, .. }));
    bed.settle_media();
    bed.control("2", Control::PauseRecording(true));
    assert!(matches!(bed.command().body, MediaBody::PauseRecording { paused: true, .. }));
    assert!(
        matches!(bed.notices().last(), Some(AgentNotice::State(state)) if state.muted && !state.recording)
    );
    bed.settle_media();
    // The recording goes on by itself, and the agent sees it.
    bed.drain();
    bed.pass(Duration::from_secs(301));
    assert!(bed.has(|e| matches!(e, EventBody::RecordingPaused { paused: false, .. })));
    assert!(matches!(bed.notices().last(), Some(AgentNotice::State(state)) if state.recording));
    bed.settle_media();
    bed.drain();
    bed.control("3", Control::Digits("12x".into()));
    assert_eq!(results(&bed), ["invalid_digits"]);
    bed.control("4", Control::Digits("12#".into()));
    bed.control("4", Control::Digits("12#".into()));
    assert_eq!(bed.fresh().iter().filter_map(media_of).count(), 1, "sent once");
    bed.media_ok();
    assert_eq!(results(&bed), ["invalid_digits", ""]);
}

#[test]
fn digits_go_by_info_where_rtp_takes_none() {
    let mut bed = Bed::talking();
    bed.control("1", Control::Digits("5#".into()));
    bed.reply(Err(MediaFailureKind::NoTelephoneEvent));
    assert_eq!(results(&bed), [""]);
    let (transaction, info) = bed.requests().remove(0);
    assert_eq!((info.method.clone(), &info.body[..9]), (Method::Info, &b"Signal=5\r"[..]));
    bed.drain();
    bed.ok_to(&transaction, &info, 200);
    let (transaction, info) = bed.requests().remove(0);
    assert_eq!(&info.body[..9], b"Signal=#\r");
    bed.ok_to(&transaction, &info, 200);
    assert_eq!(bed.requests().len(), 1);
    assert_eq!(bed.call.phase(), Phase::Talking);
}

#[test]
fn a_reloaded_page_gets_its_audio_back_and_the_caller_hears_music_meanwhile() {
    let mut bed = Bed::talking();
    bed.media_event(MediaEvent::Disconnected { leg: leg(1), reason: Disconnect::Closed });
    assert!(matches!(bed.settle_media()[0], MediaBody::SetProgram { program: Program::Music(_), .. }));
    bed.pass(Duration::from_secs(50));
    let remake = || AgentRequest::RemakeMedia {
        session: "s2".into(),
        request: "7".into(),
        sdp_offer: "v=0\r\n2".into(),
    };
    bed.drain();
    bed.agent(1, remake());
    bed.agent(1, remake());
    assert!(matches!(bed.settle_media()[..], [MediaBody::ReplaceWebRtc { .. }]));
    bed.agent(1, remake());
    let answered =
        |notice: &AgentNotice| matches!(notice, AgentNotice::MediaRemade { error, .. } if error.is_empty());
    assert_eq!(bed.notices().iter().filter(|notice| answered(notice)).count(), 2, "{:?}", bed.notices());
    bed.media_event(MediaEvent::Connected { leg: leg(1) });
    assert!(matches!(bed.settle_media()[..], [MediaBody::Bridge { .. }]));
    bed.pass(Duration::from_secs(100));
    assert_eq!(bed.call.phase(), Phase::Talking);
}

#[test]
fn an_agent_who_does_not_come_back_is_released_and_the_caller_waits_in_front() {
    let mut bed = Bed::talking();
    let entered = bed.events.iter().find_map(|event| match &event.body {
        EventBody::QueueEntered { entered, .. } => Some(*entered),
        _ => None,
    });
    bed.media_event(MediaEvent::Disconnected { leg: leg(1), reason: Disconnect::Ice });
    bed.settle_media();
    bed.drain();
    bed.pass(Duration::from_secs(59));
    assert_eq!(bed.call.phase(), Phase::Talking);
    bed.pass(Duration::from_secs(2));
    assert_eq!(bed.call.phase(), Phase::Queued);
    assert!(matches!(bed.notices()[0], AgentNotice::Ended { connected: Some(_), .. }));
    let requests = bed.queue_requests();
    assert!(
        requests.iter().any(|request| matches!(request, QueueRequest::Enqueue(e)
            if e.entry == 1 && e.priority == RETURN_PRIORITY && e.entered == entered)),
        "{requests:?}"
    );
    let done = bed.settle_media();
    assert!(done.iter().any(|body| matches!(body, MediaBody::StopRecording { .. })), "{done:?}");
    bed.queue(1, QueueSignal::Queued { position: 0 });
    // The next conversation has its own leg and recording.
    bed.connect(2);
    bed.settle_media();
    assert!(bed.has(|e| matches!(e, EventBody::RecordingStarted { recording, .. } if recording.index == 1)));
    assert!(bed.has(|e| matches!(e, EventBody::AgentBridged { leg, .. } if leg.index == 2)));
}

#[test]
fn audio_that_never_comes_up_counts_as_lost() {
    let mut bed = Bed::waiting();
    bed.connect(1);
    bed.settle_media();
    bed.queue(0, QueueSignal::Acknowledged(offer(1)));
    bed.pass(Duration::from_secs(61));
    assert_eq!(bed.call.phase(), Phase::Queued);
    // A silent microphone does not.
    let mut bed = Bed::talking();
    bed.media_event(MediaEvent::Disconnected { leg: leg(1), reason: Disconnect::Paused });
    bed.pass(Duration::from_secs(100));
    assert_eq!(bed.call.phase(), Phase::Talking);
}

#[test]
fn a_recording_that_is_refused_is_told_and_the_talk_goes_on() {
    let mut bed = Bed::waiting();
    bed.connect(1);
    bed.media_ok();
    bed.media_ok();
    bed.reply(Err(MediaFailureKind::Internal));
    assert!(bed.has(|e| matches!(e, EventBody::RecordingFailed { .. })));
    assert!(matches!(bed.notices().last(), Some(AgentNotice::State(state)) if !state.recording));
    assert_eq!(bed.call.phase(), Phase::Talking);
}

#[test]
fn a_media_session_that_is_gone_ends_the_call_when_no_node_takes_it() {
    let mut bed = Bed::talking();
    bed.only(&[]);
    bed.control("1", Control::Hold(true));
    bed.reply(Err(MediaFailureKind::UnknownSession));
    bed.pass(Duration::from_secs(9));
    assert_eq!(bed.call.cause(), None);
    bed.pass(Duration::from_secs(2));
    assert_eq!(bed.call.cause(), Some(ReleaseCause::MediaLost));
    let mut bed = Bed::talking();
    bed.only(&[]);
    bed.media_event(MediaEvent::SessionEnded { shutdown: true });
    bed.pass(Duration::from_secs(11));
    assert_eq!(bed.call.cause(), Some(ReleaseCause::MediaLost));
    // An overloaded node is asked again under another id.
    let mut bed = Bed::talking();
    bed.control("1", Control::Hold(true));
    let first = bed.command().id;
    bed.reply(Err(MediaFailureKind::Overload));
    bed.pass(Duration::from_millis(600));
    assert!(bed.command().id > first);
    bed.media_ok();
    assert_eq!(bed.call.phase(), Phase::Talking);
}
