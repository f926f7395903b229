use super::model::{Dashboard, Kind::*, Panel, Query, Row, Source, Unit::*, Variable, ask, panel, traced};

const WORDS: &str = "Type a **call id** above (the record of a call names it, log lines have it as `call_id`), or come here by the \
button *Dashboard* of the record. The record itself, with timeline, recording, transcript and routing decisions, is at \
`/contacts/`**$call_id** of the console. Choose the time of the call at the top right.";

/// One call: its trace, its log lines, and what the installation did at that time.
pub(super) fn dashboard() -> Dashboard {
    Dashboard {
        uid: "call",
        title: "one call",
        about: "What happened to a call, by its id.",
        variables: vec![
            Variable::Source(Source::Tempo),
            Variable::Source(Source::Loki),
            Variable::Text { name: "call_id", label: "Call id" },
        ],
        rows: vec![
            Row { title: "Call", panels: vec![words(), traces(), logs()] },
            Row { title: "What else was then", panels: surroundings() },
        ],
    }
}

fn words() -> Panel {
    Panel { title: "Which call", about: "", kind: Text, unit: Count, queries: Vec::new(), text: WORDS }
}

fn traces() -> Panel {
    let query = Query {
        source: Source::Tempo,
        text: "{ span.trunkline.call_id = \"$call_id\" }".to_owned(),
        legend: "",
        exemplars: false,
    };
    panel(
        "Trace",
        "One trace a call: the edge, the call, its queue, agents, media and record.",
        Traces,
        Count,
        vec![query],
    )
}

fn logs() -> Panel {
    let query = Query {
        source: Source::Loki,
        text: "{job=~\"$job\"} |= \"$call_id\" | json | call_id=\"$call_id\" or span_call_id=\"$call_id\""
            .to_owned(),
        legend: "",
        exemplars: false,
    };
    panel(
        "Log lines",
        "Of all nodes, in order. JSON lines (node.log_format: json).",
        Logs,
        Count,
        vec![query],
    )
}

fn surroundings() -> Vec<Panel> {
    vec![
        panel(
            "INVITE to 18x, p95",
            "Was this call slower than others? Dots lead to traces.",
            Lines,
            Seconds,
            vec![traced(
                "histogram_quantile(0.95, sum by (le) (rate(trunkline_sip_setup_seconds_bucket{@,answer=\"ringing\"}[#])))",
                "p95",
            )],
        ),
        panel(
            "Commits, p99",
            "",
            Lines,
            Seconds,
            vec![ask("job:trunkline_journal_commit_seconds:p99_5m{@}", "p99, 5 min")],
        ),
        panel(
            "Moves of shards",
            "A call whose shard moved has a new owner from then on.",
            Lines,
            PerSecond,
            vec![ask("sum by (reason) (rate(trunkline_cluster_moves_total{@}[#]))", "{{reason}}")],
        ),
        panel(
            "Calls that changed their media node",
            "",
            Lines,
            PerSecond,
            vec![ask("sum by (reason) (rate(trunkline_call_media_moves_total{@}[#]))", "{{reason}}")],
        ),
        panel(
            "Mean opinion score of legs, p10",
            "Dots lead to traces.",
            Lines,
            Mos,
            vec![traced(
                "histogram_quantile(0.1, sum by (party, le) (rate(trunkline_call_leg_mos_bucket{@}[#])))",
                "{{party}}",
            )],
        ),
        panel("Nodes ready", "", Lines, Count, vec![ask("sum(trunkline_node_ready{@})", "ready")]),
    ]
}
