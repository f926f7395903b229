use super::model::{Dashboard, Kind::*, Row, Unit::*, ask, panel};

/// The installation at a glance, and its nodes.
pub(super) fn dashboard() -> Dashboard {
    Dashboard {
        uid: "fleet",
        title: "fleet",
        about: "Does the installation serve, does it have room, and which node is different from the others?",
        variables: Vec::new(),
        rows: vec![now(), calls(), nodes(), ownership(), journal(), dependencies()],
    }
}

fn now() -> Row {
    Row {
        title: "Now",
        panels: vec![
            panel(
                "Nodes ready",
                "Nodes that serve, as /readyz says it.",
                Figure,
                Count,
                vec![ask("sum by (job) (trunkline_node_ready{@})", "{{job}}")],
            ),
            panel(
                "Calls",
                "Calls that are up, in whatever phase.",
                Figure,
                Count,
                vec![ask("job:trunkline_calls_active:sum{@}", "{{job}}")],
            ),
            panel(
                "Callers waiting",
                "In all queues.",
                Figure,
                Count,
                vec![ask("sum by (job) (trunkline_acd_queue_depth{@})", "{{job}}")],
            ),
            panel(
                "Agents ready",
                "Who could take a call now.",
                Figure,
                Count,
                vec![ask("sum by (job) (trunkline_acd_agents{@,state=\"ready\"})", "{{job}}")],
            ),
            panel(
                "Capacity used",
                "Beyond 100 % new calls are refused with 503.",
                Figure,
                Ratio,
                vec![ask("job_resource:trunkline_capacity_used:ratio{@}", "{{resource}}")],
            ),
            panel(
                "Set-up failures",
                "INVITEs of the last 5 minutes answered with 5xx; the objective is 0.1 %.",
                Figure,
                Ratio,
                vec![ask("job:trunkline_setup_failures:ratio_rate5m{@}", "{{job}}")],
            ),
        ],
    }
}

fn calls() -> Row {
    Row {
        title: "Calls",
        panels: vec![
            panel(
                "Calls by phase",
                "`queued` are in a queue, `talking` with an agent.",
                Stacked,
                Count,
                vec![ask("sum by (phase) (trunkline_call_active{@,phase!~\"new|ended\"})", "{{phase}}")],
            ),
            panel(
                "Calls begun and ended",
                "They part while calls pile up.",
                Lines,
                PerSecond,
                vec![
                    ask("sum(rate(trunkline_call_started_total{@}[#]))", "begun"),
                    ask("sum(rate(trunkline_call_ended_total{@}[#]))", "ended"),
                ],
            ),
            panel(
                "Calls ended, by cause",
                "Release causes, and who ended the call.",
                Stacked,
                PerSecond,
                vec![ask(
                    "sum by (cause, by) (rate(trunkline_call_ended_total{@}[#]))",
                    "{{cause}} by {{by}}",
                )],
            ),
            panel(
                "Set-up failures against the objective",
                "Burn rates are taken of these windows; 0.1 % is the objective.",
                Lines,
                Ratio,
                vec![
                    ask("job:trunkline_setup_failures:ratio_rate5m{@}", "5 min"),
                    ask("job:trunkline_setup_failures:ratio_rate1h{@}", "1 h"),
                    ask("job:trunkline_setup_failures:ratio_rate6h{@}", "6 h"),
                ],
            ),
            panel(
                "Messages refused by actors",
                "`full`: too many wait for one entity; `crowded`: too many entities. The rest is sent on.",
                Lines,
                PerSecond,
                vec![ask(
                    "sum by (kind, reason) (rate(trunkline_actors_admission_refusals_total{@}[#]))",
                    "{{kind}}: {{reason}}",
                )],
            ),
            panel(
                "Alerts",
                "What fires now.",
                Table,
                Count,
                vec![ask(
                    "count by (alertname, severity, instance) (ALERTS{alertstate=\"firing\"}) or vector(0)",
                    "",
                )],
            ),
        ],
    }
}

fn nodes() -> Row {
    Row {
        title: "Nodes",
        panels: vec![
            panel(
                "What runs where",
                "Version and roles of each node.",
                Table,
                Count,
                vec![ask("trunkline_node_about_info{@}", "")],
            ),
            panel("Ready", "", Lines, Flag, vec![ask("trunkline_node_ready{@}", "{{instance}}")]),
            panel(
                "CPU",
                "Cores that the process uses.",
                Lines,
                Count,
                vec![ask("rate(trunkline_process_cpu_seconds_total{@}[#])", "{{instance}}")],
            ),
            panel(
                "Memory",
                "In RAM.",
                Lines,
                Bytes,
                vec![ask("trunkline_process_resident_memory_bytes{@}", "{{instance}}")],
            ),
            panel(
                "Descriptors used",
                "Of what the process may open.",
                Lines,
                Ratio,
                vec![ask(
                    "trunkline_process_open_descriptors{@} / trunkline_process_descriptors_capacity{@}",
                    "{{instance}}",
                )],
            ),
            panel(
                "Timers late, p99",
                "When this rises the CPU is not enough; at the edge it sheds calls.",
                Lines,
                Seconds,
                vec![ask(
                    "histogram_quantile(0.99, sum by (instance, le) (rate(trunkline_actors_timer_lag_seconds_bucket{@}[#])))",
                    "{{instance}}",
                )],
            ),
            panel(
                "Messages waiting",
                "In mailboxes of actors, by kind.",
                Lines,
                Count,
                vec![ask(
                    "sum by (instance, kind) (trunkline_actors_mailbox_depth{@})",
                    "{{instance}} {{kind}}",
                )],
            ),
            panel(
                "Messages between rooms",
                "By destination; `linked` go to another node.",
                Lines,
                PerSecond,
                vec![ask(
                    "sum by (destination, outcome) (rate(trunkline_rpc_bus_messages_total{@}[#]))",
                    "{{destination}}: {{outcome}}",
                )],
            ),
            panel(
                "Waiting on links",
                "Sent to another node and not acknowledged.",
                Lines,
                Count,
                vec![ask("sum by (instance, lane) (trunkline_rpc_link_queued{@})", "{{instance}} {{lane}}")],
            ),
        ],
    }
}

fn ownership() -> Row {
    Row {
        title: "Who owns what",
        panels: vec![
            panel(
                "Members",
                "As each node knows them; lines that differ for long are a partition.",
                Lines,
                Count,
                vec![ask("trunkline_cluster_members{@}", "{{instance}}")],
            ),
            panel(
                "Shards held",
                "4,096 in all, each held by one node.",
                Stacked,
                Count,
                vec![ask("trunkline_cluster_shards_held{@}", "{{instance}}")],
            ),
            panel(
                "Shards being taken over",
                "Falls to 0 within seconds.",
                Lines,
                Count,
                vec![ask("trunkline_cluster_shards_opening{@}", "{{instance}}")],
            ),
            panel(
                "Moves",
                "By reason: start, loss, drain, balance.",
                Lines,
                PerSecond,
                vec![ask("sum by (reason) (rate(trunkline_cluster_moves_total{@}[#]))", "{{reason}}")],
            ),
            panel(
                "Take-over, p99",
                "From the assignment of shards to acting on them.",
                Lines,
                Seconds,
                vec![ask(
                    "histogram_quantile(0.99, sum by (le) (rate(trunkline_cluster_takeover_seconds_bucket{@}[#])))",
                    "p99",
                )],
            ),
            panel(
                "Late effects refused",
                "Of former owners, by who refused them. After a move some are normal.",
                Lines,
                PerSecond,
                vec![ask("job_instance:trunkline_epochs_refused:rate5m{@}", "{{instance}}")],
            ),
            panel(
                "Leases lost",
                "A node that runs was taken for dead.",
                Lines,
                PerSecond,
                vec![ask("rate(trunkline_cluster_leases_lost_total{@}[#])", "{{instance}}")],
            ),
            panel("Draining", "", Lines, Flag, vec![ask("trunkline_node_draining{@}", "{{instance}}")]),
        ],
    }
}

fn journal() -> Row {
    Row {
        title: "Journal",
        panels: vec![
            panel(
                "Commits",
                "Every decision waits for one.",
                Lines,
                Seconds,
                vec![
                    ask(
                        "histogram_quantile(0.5, sum by (le) (rate(trunkline_journal_commit_seconds_bucket{@}[#])))",
                        "p50",
                    ),
                    ask("job:trunkline_journal_commit_seconds:p99_5m{@}", "p99, 5 min"),
                ],
            ),
            panel(
                "Appends, p99",
                "From the call to the answer, waiting for the batch included.",
                Lines,
                Seconds,
                vec![ask(
                    "histogram_quantile(0.99, sum by (instance, le) (rate(trunkline_journal_append_seconds_bucket{@}[#])))",
                    "{{instance}}",
                )],
            ),
            panel(
                "Events committed",
                "",
                Stacked,
                PerSecond,
                vec![ask("rate(trunkline_journal_events_total{@}[#])", "{{instance}}")],
            ),
            panel(
                "Appends waiting",
                "",
                Lines,
                Count,
                vec![ask("trunkline_journal_queue_depth{@}", "{{instance}}")],
            ),
            panel(
                "Appends refused",
                "`fenced` protects against former owners; `unavailable` is the database.",
                Lines,
                PerSecond,
                vec![ask("sum by (reason) (rate(trunkline_journal_refused_total{@}[#]))", "{{reason}}")],
            ),
            panel(
                "Records behind, p90",
                "From an event until boards and contact records have it.",
                Lines,
                Seconds,
                vec![ask(
                    "histogram_quantile(0.9, sum by (instance, le) (rate(trunkline_records_lag_seconds_bucket{@}[#])))",
                    "{{instance}}",
                )],
            ),
        ],
    }
}

fn dependencies() -> Row {
    Row {
        title: "etcd, PostgreSQL, certificates",
        panels: vec![
            panel(
                "etcd answers",
                "",
                Lines,
                Flag,
                vec![ask("trunkline_cluster_etcd_connected{@}", "{{instance}}")],
            ),
            panel(
                "etcd, p99",
                "Time of a request.",
                Lines,
                Seconds,
                vec![ask(
                    "histogram_quantile(0.99, sum by (instance, le) (rate(trunkline_cluster_etcd_request_seconds_bucket{@}[#])))",
                    "{{instance}}",
                )],
            ),
            panel(
                "etcd, failures",
                "",
                Lines,
                PerSecond,
                vec![ask("rate(trunkline_cluster_etcd_failures_total{@}[#])", "{{instance}}")],
            ),
            panel(
                "The journal's database answers",
                "",
                Lines,
                Flag,
                vec![ask("trunkline_node_journal_connected{@}", "{{instance}}")],
            ),
            panel(
                "Certificates are valid for",
                "Of the nodes and their authority.",
                Lines,
                Days,
                vec![ask(
                    "min by (certificate) (trunkline_cluster_certificate_expiry_seconds{@} - time()) / 86400",
                    "{{certificate}}",
                )],
            ),
            panel(
                "Links connected",
                "",
                Lines,
                Count,
                vec![ask(
                    "sum by (instance, lane) (trunkline_rpc_link_connections{@})",
                    "{{instance}} {{lane}}",
                )],
            ),
        ],
    }
}
