use super::model::{Dashboard, Kind::*, Row, Unit::*, Variable, ask, panel, traced};

/// Who waits, how long, and for whom.
pub(super) fn dashboard() -> Dashboard {
    Dashboard {
        uid: "queues",
        title: "queues",
        about: "Do callers get what they were promised. Definitions are those of the wallboard and of reports.",
        variables: vec![Variable::Label { name: "queue", metric: "trunkline_acd_queue_depth" }],
        rows: vec![waiting(), outcome(), agents(), desks()],
    }
}

fn waiting() -> Row {
    Row {
        title: "Waiting",
        panels: vec![
            panel(
                "Callers waiting",
                "",
                Lines,
                Count,
                vec![ask(
                    "sum by (tenant, queue) (trunkline_acd_queue_depth{@,queue=~\"$queue\"})",
                    "{{queue}}",
                )],
            ),
            panel(
                "Longest wait",
                "Of those who wait now.",
                Lines,
                Seconds,
                vec![ask("job_queue:trunkline_oldest_wait_seconds:max{@,queue=~\"$queue\"}", "{{queue}}")],
            ),
            panel(
                "Wait of those who were answered",
                "Dots lead to traces.",
                Lines,
                Seconds,
                vec![
                    traced(
                        "histogram_quantile(0.5, sum by (queue, le) (rate(trunkline_acd_queue_wait_seconds_bucket{@,queue=~\"$queue\"}[#])))",
                        "{{queue}} p50",
                    ),
                    traced(
                        "histogram_quantile(0.9, sum by (queue, le) (rate(trunkline_acd_queue_wait_seconds_bucket{@,queue=~\"$queue\"}[#])))",
                        "{{queue}} p90",
                    ),
                ],
            ),
        ],
    }
}

fn outcome() -> Row {
    Row {
        title: "Outcome",
        panels: vec![
            panel(
                "Service level",
                "Answered within target ÷ (answered + abandoned), short abandons left out; 30 minutes.",
                Lines,
                Ratio,
                vec![ask(
                    "job_queue:trunkline_service_level:ratio_rate30m{@,queue=~\"$queue\"}",
                    "{{queue}}",
                )],
            ),
            panel(
                "Abandoned",
                "Out of answered + abandoned; 30 minutes.",
                Lines,
                Ratio,
                vec![ask("job_queue:trunkline_abandoned:ratio_rate30m{@,queue=~\"$queue\"}", "{{queue}}")],
            ),
            panel(
                "Average speed of answer",
                "30 minutes.",
                Lines,
                Seconds,
                vec![ask(
                    "job_queue:trunkline_speed_of_answer_seconds:mean30m{@,queue=~\"$queue\"}",
                    "{{queue}}",
                )],
            ),
            panel(
                "Offered",
                "Calls that entered.",
                Lines,
                PerSecond,
                vec![ask(
                    "sum by (queue) (rate(trunkline_acd_queue_offered_total{@,queue=~\"$queue\"}[#]))",
                    "{{queue}}",
                )],
            ),
            panel(
                "How calls left",
                "`lost` is ours and has to be 0.",
                Stacked,
                PerSecond,
                vec![ask(
                    "sum by (outcome) (rate(trunkline_acd_queue_outcomes_total{@,queue=~\"$queue\"}[#]))",
                    "{{outcome}}",
                )],
            ),
            panel(
                "Calls counted",
                "In the ratios of this row: a ratio of three calls says little.",
                Lines,
                Count,
                vec![ask("job_queue:trunkline_queue_counted:increase30m{@,queue=~\"$queue\"}", "{{queue}}")],
            ),
        ],
    }
}

fn agents() -> Row {
    Row {
        title: "Agents",
        panels: vec![
            panel(
                "Agents by state",
                "",
                Stacked,
                Count,
                vec![ask("sum by (state) (trunkline_acd_agents{@})", "{{state}}")],
            ),
            panel(
                "Changes of state",
                "By new state. `ringing` without as many `talking` are missed offers.",
                Lines,
                PerSecond,
                vec![ask("sum by (state) (rate(trunkline_acd_agent_transitions_total{@}[#]))", "{{state}}")],
            ),
            panel(
                "Late messages refused",
                "Of former owners of queues and agents, by receiver.",
                Lines,
                PerSecond,
                vec![ask(
                    "sum by (receiver) (rate(trunkline_acd_epochs_refused_total{@}[#]))",
                    "{{receiver}}",
                )],
            ),
        ],
    }
}

fn desks() -> Row {
    Row {
        title: "Agents' pages",
        panels: vec![
            panel(
                "Sessions",
                "Signed in, and with an open WebSocket; the difference are pages that come back or are gone.",
                Lines,
                Count,
                vec![
                    ask("sum(trunkline_console_sessions{@})", "sessions"),
                    ask("sum(trunkline_console_sessions_connected{@})", "connected"),
                ],
            ),
            panel(
                "Commands",
                "What agents do, by outcome.",
                Stacked,
                PerSecond,
                vec![ask(
                    "sum by (command, outcome) (rate(trunkline_console_commands_total{@}[#]))",
                    "{{command}}: {{outcome}}",
                )],
            ),
            panel(
                "Command to result, p95",
                "",
                Lines,
                Seconds,
                vec![ask(
                    "histogram_quantile(0.95, sum by (instance, le) (rate(trunkline_console_command_seconds_bucket{@}[#])))",
                    "{{instance}}",
                )],
            ),
            panel(
                "HTTP requests",
                "By status class.",
                Stacked,
                PerSecond,
                vec![ask("sum by (class) (rate(trunkline_console_http_requests_total{@}[#]))", "{{class}}")],
            ),
            panel(
                "HTTP requests, p95",
                "To the head of the answer.",
                Lines,
                Seconds,
                vec![ask(
                    "histogram_quantile(0.95, sum by (instance, le) (rate(trunkline_console_http_request_seconds_bucket{@}[#])))",
                    "{{instance}}",
                )],
            ),
            panel(
                "Frames",
                "On WebSockets.",
                Lines,
                PerSecond,
                vec![ask("sum by (direction) (rate(trunkline_console_frames_total{@}[#]))", "{{direction}}")],
            ),
        ],
    }
}
