use super::model::{Dashboard, Kind::*, Row, Unit::*, Variable, ask, panel, traced};

/// What carriers and PBXs send, and how we answer.
pub(super) fn dashboard() -> Dashboard {
    Dashboard {
        uid: "trunk",
        title: "trunk",
        about: "Do calls come in, how fast are they answered, and how do they sound: by trunk.",
        variables: vec![Variable::Label { name: "trunk", metric: "trunkline_sip_messages_total" }],
        rows: vec![setup(), quality(), signalling()],
    }
}

fn setup() -> Row {
    Row {
        title: "Set-up",
        panels: vec![
            panel(
                "Answer-seizure ratio",
                "Calls that were answered out of calls that came (ITU-T E.411). A flow or queue answers.",
                Lines,
                Ratio,
                vec![ask("job_trunk:trunkline_asr:ratio_rate15m{@,trunk=~\"$trunk\"}", "{{trunk}}")],
            ),
            panel(
                "Final answers to INVITEs",
                "4xx are the caller's or the carrier's fault, 5xx ours.",
                Stacked,
                PerSecond,
                vec![ask(
                    "job_trunk_class:trunkline_invite_answers:rate5m{@,trunk=~\"$trunk\"}",
                    "{{trunk}} {{class}}",
                )],
            ),
            panel(
                "INVITE to 18x",
                "Post-dial delay as the edge's socket sees it. Dots lead to traces.",
                Lines,
                Seconds,
                vec![
                    ask(
                        "job_trunk:trunkline_post_dial_delay_seconds:p50_5m{@,trunk=~\"$trunk\"}",
                        "{{trunk}} p50",
                    ),
                    traced(
                        "histogram_quantile(0.95, sum by (trunk, le) (rate(trunkline_sip_setup_seconds_bucket{@,answer=\"ringing\",trunk=~\"$trunk\"}[#])))",
                        "{{trunk}} p95",
                    ),
                ],
            ),
            panel(
                "INVITE to 2xx, p95",
                "Dots lead to traces.",
                Lines,
                Seconds,
                vec![traced(
                    "histogram_quantile(0.95, sum by (trunk, le) (rate(trunkline_sip_setup_seconds_bucket{@,answer=\"answered\",trunk=~\"$trunk\"}[#])))",
                    "{{trunk}}",
                )],
            ),
            panel(
                "Within the system, p95",
                "From the socket to the call's answer, by outcome. Dots lead to traces.",
                Lines,
                Seconds,
                vec![traced(
                    "histogram_quantile(0.95, sum by (outcome, le) (rate(trunkline_call_setup_seconds_bucket{@}[#])))",
                    "{{outcome}}",
                )],
            ),
            panel(
                "Refused by the edge itself",
                "overload, capacity, no_shard are ours; unknown_number and unknown_source the sender's.",
                Lines,
                PerSecond,
                vec![ask("sum by (reason) (rate(trunkline_sip_rejected_total{@}[#]))", "{{reason}}")],
            ),
        ],
    }
}

fn quality() -> Row {
    Row {
        title: "Quality of what telephones send",
        panels: vec![
            panel(
                "Packets lost",
                "Out of those sent, of legs that ended in the last 15 minutes.",
                Lines,
                Ratio,
                vec![ask("job_trunk:trunkline_packet_loss:ratio_rate15m{@,trunk=~\"$trunk\"}", "{{trunk}}")],
            ),
            panel(
                "Audio one way only",
                "Callers who were not heard at all, or heard nothing, out of those who had audio; of calls that ended in the last 15 minutes.",
                Lines,
                Ratio,
                vec![ask("job_trunk:trunkline_one_way:ratio_rate15m{@,trunk=~\"$trunk\"}", "{{trunk}}")],
            ),
            panel(
                "Which way was missing",
                "received: nothing came from the telephone. sent: nothing went to it, or arrived there by its own report.",
                Stacked,
                PerSecond,
                vec![ask(
                    "sum by (trunk, missing) (rate(trunkline_call_legs_one_way_total{@,party=\"caller\",trunk=~\"$trunk\"}[#]))",
                    "{{trunk}} {{missing}}",
                )],
            ),
            panel(
                "Mean opinion score",
                "E-model (ITU-T G.107) for G.711 with concealment; 4.41 is the best that G.711 can be.",
                Lines,
                Mos,
                vec![ask("job_trunk:trunkline_mos:mean15m{@,trunk=~\"$trunk\"}", "{{trunk}}")],
            ),
            panel(
                "Calls at 3.5 or worse",
                "\"Many users dissatisfied\" (ITU-T G.109).",
                Lines,
                Ratio,
                vec![ask("job_trunk:trunkline_mos_low:ratio_rate15m{@,trunk=~\"$trunk\"}", "{{trunk}}")],
            ),
            panel(
                "How the scores are spread",
                "Dots lead to traces of calls.",
                Heatmap,
                Mos,
                vec![traced(
                    "sum by (le) (increase(trunkline_call_leg_mos_bucket{@,party=\"caller\",trunk=~\"$trunk\"}[#]))",
                    "{{le}}",
                )],
            ),
        ],
    }
}

fn signalling() -> Row {
    Row {
        title: "Signalling",
        panels: vec![
            panel(
                "Requests received",
                "",
                Stacked,
                PerSecond,
                vec![ask(
                    "sum by (method) (rate(trunkline_sip_messages_total{@,direction=\"in\",class=\"request\",trunk=~\"$trunk\"}[#]))",
                    "{{method}}",
                )],
            ),
            panel(
                "Responses sent",
                "",
                Stacked,
                PerSecond,
                vec![ask(
                    "sum by (class) (rate(trunkline_sip_messages_total{@,direction=\"out\",class!=\"request\",trunk=~\"$trunk\"}[#]))",
                    "{{class}}",
                )],
            ),
            panel(
                "Requests sent and their answers",
                "",
                Lines,
                PerSecond,
                vec![
                    ask(
                        "sum by (method) (rate(trunkline_sip_messages_total{@,direction=\"out\",class=\"request\",trunk=~\"$trunk\"}[#]))",
                        "{{method}}",
                    ),
                    ask(
                        "sum by (class) (rate(trunkline_sip_messages_total{@,direction=\"in\",class!=\"request\",trunk=~\"$trunk\"}[#]))",
                        "{{class}}",
                    ),
                ],
            ),
            panel(
                "Dropped without an answer",
                "Keep-alives are normal; unparsable packets in numbers are a scan.",
                Lines,
                PerSecond,
                vec![ask("sum by (reason) (rate(trunkline_sip_dropped_total{@}[#]))", "{{reason}}")],
            ),
            panel(
                "Transactions and connections",
                "",
                Lines,
                Count,
                vec![
                    ask("sum by (instance) (trunkline_sip_transactions{@})", "{{instance}} transactions"),
                    ask("sum by (instance) (trunkline_sip_connections{@})", "{{instance}} TCP connections"),
                ],
            ),
            panel(
                "Sent on and given again",
                "`again`: a call did not answer its edge at once. `relayed`: answers that came to another edge.",
                Lines,
                PerSecond,
                vec![
                    ask("rate(trunkline_sip_given_again_total{@}[#])", "{{instance}} again"),
                    ask("rate(trunkline_sip_relayed_total{@}[#])", "{{instance}} relayed"),
                ],
            ),
        ],
    }
}
