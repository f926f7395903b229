use super::model::{Dashboard, Kind::*, Row, Unit::*, ask, panel, traced};

/// What is heard, and what becomes of it.
pub(super) fn dashboard() -> Dashboard {
    Dashboard {
        uid: "media",
        title: "media quality",
        about: "Is everybody heard, how does it sound, and are recordings kept.",
        variables: Vec::new(),
        rows: vec![load(), quality(), transport(), recordings(), transcription()],
    }
}

fn load() -> Row {
    Row {
        title: "Load",
        panels: vec![
            panel(
                "Calls with audio",
                "By node.",
                Stacked,
                Count,
                vec![ask("trunkline_media_sessions{@}", "{{instance}}")],
            ),
            panel(
                "Room",
                "Part of each node's capacity that is in use.",
                Lines,
                Ratio,
                vec![ask(
                    "trunkline_media_sessions{@} / trunkline_media_sessions_capacity{@}",
                    "{{instance}}",
                )],
            ),
            panel(
                "Parties",
                "Telephones (rtp) and browsers (webrtc).",
                Stacked,
                Count,
                vec![ask("sum by (kind) (trunkline_media_endpoints{@})", "{{kind}}")],
            ),
            panel(
                "Packets",
                "",
                Lines,
                PerSecond,
                vec![
                    ask(
                        "sum by (instance) (rate(trunkline_media_packets_received_total{@}[#]))",
                        "{{instance}} received",
                    ),
                    ask(
                        "sum by (instance) (rate(trunkline_media_packets_sent_total{@}[#]))",
                        "{{instance}} sent",
                    ),
                ],
            ),
            panel(
                "Calls that changed their media node",
                "`lost`: the node died; `drained`: it was emptied.",
                Lines,
                PerSecond,
                vec![ask("sum by (reason) (rate(trunkline_call_media_moves_total{@}[#]))", "{{reason}}")],
            ),
            panel(
                "Takes no new calls",
                "The node drains.",
                Lines,
                Flag,
                vec![ask("trunkline_media_draining{@}", "{{instance}}")],
            ),
        ],
    }
}

fn quality() -> Row {
    Row {
        title: "Quality",
        panels: vec![
            panel(
                "Mean opinion score now",
                "Of what parties send, every 10 s; E-model (ITU-T G.107), G.711 with concealment.",
                Lines,
                Mos,
                vec![ask("job_instance:trunkline_media_mos:mean5m{@}", "{{instance}}")],
            ),
            panel(
                "How the scores are spread",
                "Of all parties, every 10 s.",
                Heatmap,
                Mos,
                vec![ask("sum by (le) (increase(trunkline_media_mos_bucket{@}[#]))", "{{le}}")],
            ),
            panel(
                "Score of whole legs",
                "When they have ended; who is worse, callers or agents. Dots lead to traces.",
                Lines,
                Mos,
                vec![
                    ask(
                        "sum by (party) (rate(trunkline_call_leg_mos_sum{@}[#])) / (sum by (party) (rate(trunkline_call_leg_mos_count{@}[#])) > 0)",
                        "{{party}}",
                    ),
                    traced(
                        "histogram_quantile(0.1, sum by (party, le) (rate(trunkline_call_leg_mos_bucket{@}[#])))",
                        "{{party}} p10",
                    ),
                ],
            ),
        ],
    }
}

fn transport() -> Row {
    Row {
        title: "Transport",
        panels: vec![
            panel(
                "Jitter, p95",
                "RFC 3550, by node.",
                Lines,
                Seconds,
                vec![ask("job_instance:trunkline_media_jitter_seconds:p95_5m{@}", "{{instance}}")],
            ),
            panel(
                "Packets lost",
                "Missing at the end of endpoints (RFC 3550 A.3), out of those sent.",
                Lines,
                Ratio,
                vec![ask(
                    "sum by (instance) (rate(trunkline_media_packets_lost_total{@}[#])) / (sum by (instance) (rate(trunkline_media_packets_lost_total{@}[#]) + rate(trunkline_media_packets_received_total{@}[#])) > 0)",
                    "{{instance}}",
                )],
            ),
            panel(
                "Not heard",
                "`no_rtp`: a telephone that sends nothing; `paused`: a browser that sends nothing; `ice`: a browser that is gone.",
                Lines,
                PerSecond,
                vec![ask("sum by (reason) (rate(trunkline_media_one_way_audio_total{@}[#]))", "{{reason}}")],
            ),
            panel(
                "Packets refused and not sent",
                "From sources that are not believed; not taken by the system.",
                Lines,
                PerSecond,
                vec![
                    ask(
                        "sum by (instance) (rate(trunkline_media_packets_refused_total{@}[#]))",
                        "{{instance}} refused",
                    ),
                    ask(
                        "sum by (instance) (rate(trunkline_media_send_errors_total{@}[#]))",
                        "{{instance}} not sent",
                    ),
                ],
            ),
            panel(
                "Frames late",
                "Seconds of lateness in a second: music and mixing stutter when it nears 1.",
                Lines,
                Seconds,
                vec![ask("rate(trunkline_media_tick_late_seconds_total{@}[#])", "{{instance}}")],
            ),
        ],
    }
}

fn recordings() -> Row {
    Row {
        title: "Recordings",
        panels: vec![
            panel(
                "Recordings by outcome",
                "`salvaged`: found after a crash.",
                Stacked,
                PerSecond,
                vec![ask("sum by (outcome) (rate(trunkline_media_recordings_total{@}[#]))", "{{outcome}}")],
            ),
            panel(
                "Failing",
                "spool: the node's disk; store: the object store.",
                Lines,
                Count,
                vec![ask("trunkline_media_recording_failing{@}", "{{instance}} {{stage}}")],
            ),
            panel(
                "Open and waiting",
                "Being written; finished and not stored yet.",
                Lines,
                Count,
                vec![
                    ask("trunkline_media_recordings_open{@}", "{{instance}} open"),
                    ask("trunkline_media_uploads_waiting{@}", "{{instance}} waiting"),
                ],
            ),
            panel(
                "End to stored, p90",
                "",
                Lines,
                Seconds,
                vec![ask("job:trunkline_upload_lag_seconds:p90_15m{@}", "p90, 15 min")],
            ),
            panel(
                "Free space of the spool",
                "",
                Lines,
                Bytes,
                vec![ask("trunkline_media_spool_free_bytes{@}", "{{instance}}")],
            ),
            panel(
                "As calls see it",
                "Recordings begun, finished and failed.",
                Lines,
                PerSecond,
                vec![ask("sum by (outcome) (rate(trunkline_call_recordings_total{@}[#]))", "{{outcome}}")],
            ),
        ],
    }
}

fn transcription() -> Row {
    Row {
        title: "Transcription",
        panels: vec![
            panel(
                "Transcriptions under way",
                "",
                Lines,
                Count,
                vec![ask("trunkline_media_transcriptions_open{@}", "{{instance}}")],
            ),
            panel(
                "Recogniser's failures",
                "",
                Lines,
                PerSecond,
                vec![ask("rate(trunkline_media_recogniser_failures_total{@}[#])", "{{instance}}")],
            ),
            panel(
                "Gaps",
                "Audio that did not reach a file or the recogniser in time.",
                Lines,
                PerSecond,
                vec![ask("rate(trunkline_media_tap_gaps_total{@}[#])", "{{instance}}")],
            ),
        ],
    }
}
