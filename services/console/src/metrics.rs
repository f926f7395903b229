use std::sync::atomic::AtomicU64;

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};

/// Label of a route: method, path template and status class.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub(crate) struct RouteLabels {
    pub(crate) method: &'static str,
    pub(crate) route: &'static str,
    pub(crate) class: &'static str,
}

/// One bounded label.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub(crate) struct OutcomeLabel {
    pub(crate) outcome: &'static str,
}

/// Type of a command and how it ended.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub(crate) struct CommandLabels {
    pub(crate) command: &'static str,
    pub(crate) outcome: &'static str,
}

/// WebSocket close code.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub(crate) struct CodeLabel {
    pub(crate) code: u16,
}

/// Direction of frames.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub(crate) struct DirectionLabel {
    pub(crate) direction: &'static str,
}

/// Metrics of the console role. Names below get the prefix `trunkline_console_` from the registry that is passed in.
#[derive(Clone, Debug)]
pub struct ConsoleMetrics {
    pub(crate) requests: Family<RouteLabels, Counter>,
    pub(crate) request_seconds: Histogram,
    pub(crate) connections: Gauge,
    pub(crate) connections_refused: Counter,
    pub(crate) sessions: Gauge,
    pub(crate) sessions_connected: Gauge,
    pub(crate) frames: Family<DirectionLabel, Counter>,
    pub(crate) closes: Family<CodeLabel, Counter>,
    pub(crate) commands: Family<CommandLabels, Counter>,
    pub(crate) command_seconds: Histogram,
    pub(crate) deliveries: Family<OutcomeLabel, Counter>,
    pub(crate) sign_ins: Family<OutcomeLabel, Counter>,
    pub(crate) live_streams: Gauge,
    pub(crate) live_upstreams: Gauge,
    pub(crate) recording_bytes: Counter<u64, AtomicU64>,
}

impl ConsoleMetrics {
    /// Makes them and adds them to `registry`, which prefixes them with `trunkline_console`.
    pub fn register(registry: &mut Registry) -> Self {
        let seconds =
            || Histogram::new([0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0]);
        let m = Self {
            requests: Family::default(),
            request_seconds: seconds(),
            connections: Gauge::default(),
            connections_refused: Counter::default(),
            sessions: Gauge::default(),
            sessions_connected: Gauge::default(),
            frames: Family::default(),
            closes: Family::default(),
            commands: Family::default(),
            command_seconds: seconds(),
            deliveries: Family::default(),
            sign_ins: Family::default(),
            live_streams: Gauge::default(),
            live_upstreams: Gauge::default(),
            recording_bytes: Counter::default(),
        };
        let r = registry;
        r.register("http_requests", "HTTP requests by route and status class", m.requests.clone());
        r.register("http_request_seconds", "Time to the head of the answer", m.request_seconds.clone());
        r.register("connections", "Open TCP connections", m.connections.clone());
        r.register("connections_refused", "Connections closed at the limit", m.connections_refused.clone());
        r.register("sessions", "Agent sessions, with those waiting for their client", m.sessions.clone());
        r.register("sessions_connected", "Agent sessions with a WebSocket", m.sessions_connected.clone());
        r.register("frames", "WebSocket frames by direction", m.frames.clone());
        r.register("socket_closes", "WebSockets closed by this server by code", m.closes.clone());
        r.register("commands", "Agents' commands by type and outcome", m.commands.clone());
        r.register("command_seconds", "Time from a command to its result", m.command_seconds.clone());
        r.register("deliveries", "Messages to sessions by outcome", m.deliveries.clone());
        r.register("sign_ins", "Sign-ins by outcome", m.sign_ins.clone());
        r.register("live_streams", "Open streams of live numbers", m.live_streams.clone());
        r.register("live_upstreams", "Open streams from the records role", m.live_upstreams.clone());
        r.register("recording_bytes", "Bytes of recordings sent", m.recording_bytes.clone());
        m
    }

    pub(crate) fn sign_in(&self, outcome: &'static str) {
        self.sign_ins.get_or_create(&OutcomeLabel { outcome }).inc();
    }

    pub(crate) fn delivery(&self, outcome: &'static str) {
        self.deliveries.get_or_create(&OutcomeLabel { outcome }).inc();
    }

    pub(crate) fn frame(&self, direction: &'static str) {
        self.frames.get_or_create(&DirectionLabel { direction }).inc();
    }

    pub(crate) fn close(&self, code: u16) {
        self.closes.get_or_create(&CodeLabel { code }).inc();
    }

    pub(crate) fn command(&self, command: &'static str, outcome: &'static str, seconds: f64) {
        self.commands.get_or_create(&CommandLabels { command, outcome }).inc();
        self.command_seconds.observe(seconds);
    }
}
