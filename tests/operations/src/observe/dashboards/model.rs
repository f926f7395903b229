//! What a dashboard is made of, and its form as Grafana takes it.

use serde_json::{Value, json};

/// Columns of Grafana's grid.
const COLUMNS: u32 = 24;
/// Of Grafana's dashboard JSON; newer versions of Grafana read it.
const SCHEMA: u32 = 39;

/// A dashboard.
#[derive(Debug, Clone)]
pub struct Dashboard {
    /// Also the file's name.
    pub uid: &'static str,
    /// Below `Trunkline / `.
    pub title: &'static str,
    /// What it is for.
    pub about: &'static str,
    /// Chosen at its top, besides data source and installation.
    pub variables: Vec<Variable>,
    /// From top to bottom.
    pub rows: Vec<Row>,
}

/// Something that is chosen at the top.
#[derive(Debug, Clone)]
pub enum Variable {
    /// Values of a label; several at once.
    Label {
        /// Its name in queries.
        name: &'static str,
        /// The metric that has the label.
        metric: &'static str,
    },
    /// Typed in.
    Text {
        /// Its name in queries.
        name: &'static str,
        /// What to type.
        label: &'static str,
    },
    /// A data source of this type.
    Source(Source),
}

/// Where a query goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// Metrics.
    Prometheus,
    /// Log lines.
    Loki,
    /// Traces.
    Tempo,
}

impl Source {
    /// Grafana's name for its type, and the variable that holds the one that is used.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Prometheus => "prometheus",
            Self::Loki => "loki",
            Self::Tempo => "tempo",
        }
    }

    fn reference(self) -> Value {
        json!({ "type": self.name(), "uid": format!("${{{}}}", self.name()) })
    }
}

/// Panels under a heading.
#[derive(Debug, Clone)]
pub struct Row {
    /// The heading.
    pub title: &'static str,
    /// From left to right.
    pub panels: Vec<Panel>,
}

/// A panel.
#[derive(Debug, Clone)]
pub struct Panel {
    /// Above it.
    pub title: &'static str,
    /// What it shows and what to make of it.
    pub about: &'static str,
    /// Its look.
    pub kind: Kind,
    /// Of its values.
    pub unit: Unit,
    /// What it asks.
    pub queries: Vec<Query>,
    /// Its Markdown, for [`Kind::Text`].
    pub text: &'static str,
}

/// A panel's look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Lines over time.
    Lines,
    /// Areas on top of each other.
    Stacked,
    /// One figure.
    Figure,
    /// A row for each series.
    Table,
    /// How a histogram is spread over time.
    Heatmap,
    /// Log lines.
    Logs,
    /// Traces that fit.
    Traces,
    /// Words.
    Text,
}

/// A unit, as Grafana names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// A number.
    Count,
    /// 0 to 1.
    Ratio,
    /// Seconds.
    Seconds,
    /// Bytes.
    Bytes,
    /// So many a second.
    PerSecond,
    /// Days.
    Days,
    /// Mean opinion score.
    Mos,
    /// Yes or no.
    Flag,
}

impl Unit {
    const fn name(self) -> &'static str {
        match self {
            Self::Count | Self::Mos => "short",
            Self::Ratio => "percentunit",
            Self::Seconds => "s",
            Self::Bytes => "bytes",
            Self::PerSecond => "cps",
            Self::Days => "d",
            Self::Flag => "bool_yes_no",
        }
    }
}

/// A query and what its series are called.
#[derive(Debug, Clone)]
pub struct Query {
    /// Where it goes.
    pub source: Source,
    /// PromQL, LogQL or TraceQL.
    pub text: String,
    /// With `{{label}}`.
    pub legend: &'static str,
    /// Whether its histogram has exemplars.
    pub exemplars: bool,
}

/// A PromQL query. `$job` and `[$__rate_interval]` are written `{}`-free: `@` stands for the selector of the
/// installation, `#` for the rate window.
pub fn ask(text: &str, legend: &'static str) -> Query {
    let text = text.replace('@', "job=~\"$job\"").replace('#', "$__rate_interval");
    Query { source: Source::Prometheus, text, legend, exemplars: false }
}

/// The same, of a histogram whose buckets lead to traces.
pub fn traced(text: &str, legend: &'static str) -> Query {
    Query { exemplars: true, ..ask(text, legend) }
}

/// A panel of one or more queries.
pub fn panel(title: &'static str, about: &'static str, kind: Kind, unit: Unit, queries: Vec<Query>) -> Panel {
    Panel { title, about, kind, unit, queries, text: "" }
}

impl Dashboard {
    /// All queries with the titles of their panels.
    pub fn queries(&self) -> impl Iterator<Item = (&'static str, &Query)> {
        let panels = self.rows.iter().flat_map(|row| &row.panels);
        panels.flat_map(|panel| panel.queries.iter().map(|query| (panel.title, query)))
    }

    /// As Grafana takes it.
    pub fn json(&self) -> Value {
        let (mut panels, mut id, mut top) = (Vec::new(), 0, 0);
        for row in &self.rows {
            id += 1;
            panels.push(json!({
                "id": id, "type": "row", "title": row.title, "collapsed": false, "panels": [],
                "gridPos": { "x": 0, "y": top, "w": COLUMNS, "h": 1 },
            }));
            top += 1;
            let (mut left, mut tallest) = (0, 0);
            for panel in &row.panels {
                let (width, height) = panel.kind.size();
                if left + width > COLUMNS {
                    (top, left, tallest) = (top + tallest, 0, 0);
                }
                id += 1;
                panels.push(panel.json(id, [left, top, width, height]));
                left += width;
                tallest = tallest.max(height);
            }
            top += tallest;
        }
        json!({
            "uid": format!("trunkline-{}", self.uid),
            "title": format!("Trunkline / {}", self.title),
            "description": self.about,
            "tags": ["trunkline"],
            "schemaVersion": SCHEMA,
            "version": 1,
            "editable": false,
            "graphTooltip": 1,
            "refresh": "30s",
            "time": { "from": "now-1h", "to": "now" },
            "timezone": "browser",
            "links": [{
                "type": "dashboards", "title": "Trunkline", "tags": ["trunkline"], "asDropdown": true,
                "includeVars": false, "keepTime": true, "targetBlank": false, "icon": "external link",
            }],
            "annotations": { "list": [self.restarts()] },
            "templating": { "list": self.templating() },
            "panels": panels,
        })
    }

    /// Starts of nodes are drawn into every panel.
    fn restarts(&self) -> Value {
        json!({
            "name": "Starts of nodes", "enable": true, "iconColor": "orange",
            "datasource": Source::Prometheus.reference(),
            "expr": "changes(trunkline_node_started_timestamp_seconds{job=~\"$job\"}[1m]) > 0",
            "titleFormat": "{{instance}} started", "step": "60s",
        })
    }

    fn templating(&self) -> Vec<Value> {
        let mut list = vec![source(Source::Prometheus), label("job", "trunkline_node_ready", "Installation")];
        list.extend(self.variables.iter().map(|variable| match variable {
            Variable::Label { name, metric } => label(name, &format!("{metric}{{job=~\"$job\"}}"), name),
            Variable::Text { name, label } => {
                json!({ "name": name, "label": label, "type": "textbox", "query": "", "hide": 0 })
            }
            Variable::Source(which) => source(*which),
        }));
        list
    }
}

fn source(which: Source) -> Value {
    json!({
        "name": which.name(), "label": which.name(), "type": "datasource", "query": which.name(),
        "hide": 0, "refresh": 1, "regex": "",
    })
}

fn label(name: &str, of: &str, title: &str) -> Value {
    // Loki refuses a query in which every label may be empty; series of Prometheus without a trunk or a queue are shown.
    let all = if name == "job" { ".+" } else { ".*" };
    json!({
        "name": name, "label": title, "type": "query", "datasource": Source::Prometheus.reference(),
        "query": { "query": format!("label_values({of}, {name})"), "refId": name },
        "includeAll": true, "multi": true, "allValue": all, "refresh": 2, "sort": 1, "hide": 0,
        "current": { "selected": true, "text": ["All"], "value": ["$__all"] },
    })
}

impl Kind {
    const fn size(self) -> (u32, u32) {
        match self {
            Self::Figure => (4, 4),
            Self::Lines | Self::Stacked | Self::Heatmap => (8, 8),
            Self::Table => (16, 8),
            Self::Logs | Self::Traces => (24, 12),
            Self::Text => (24, 4),
        }
    }

    const fn grafana(self) -> &'static str {
        match self {
            Self::Lines | Self::Stacked => "timeseries",
            Self::Figure => "stat",
            Self::Table | Self::Traces => "table",
            Self::Heatmap => "heatmap",
            Self::Logs => "logs",
            Self::Text => "text",
        }
    }
}

impl Panel {
    fn json(&self, id: u32, [x, y, w, h]: [u32; 4]) -> Value {
        let source = self.queries.first().map_or(Source::Prometheus, |query| query.source);
        let targets: Vec<Value> = self.queries.iter().zip('A'..).map(|(q, r)| q.json(r, self.kind)).collect();
        json!({
            "id": id,
            "type": self.kind.grafana(),
            "title": self.title,
            "description": self.about,
            "gridPos": { "x": x, "y": y, "w": w, "h": h },
            "datasource": source.reference(),
            "targets": targets,
            "fieldConfig": { "defaults": self.field(), "overrides": [] },
            "options": self.options(),
        })
    }

    fn field(&self) -> Value {
        let mut field = json!({ "unit": self.unit.name(), "min": 0 });
        match self.unit {
            Unit::Ratio => field["max"] = json!(1),
            Unit::Mos => {
                field["min"] = json!(1);
                field["max"] = json!(4.5);
                field["decimals"] = json!(2);
            }
            _ => {}
        }
        match self.kind {
            Kind::Lines => {
                field["custom"] = json!({ "lineWidth": 1, "fillOpacity": 5, "showPoints": "never" })
            }
            Kind::Stacked => {
                field["custom"] = json!({
                    "lineWidth": 1, "fillOpacity": 40, "showPoints": "never", "stacking": { "mode": "normal" },
                });
            }
            _ => {}
        }
        field
    }

    fn options(&self) -> Value {
        match self.kind {
            Kind::Lines | Kind::Stacked => json!({
                "legend": { "displayMode": "table", "placement": "bottom", "calcs": ["lastNotNull", "max"] },
                "tooltip": { "mode": "multi", "sort": "desc" },
            }),
            Kind::Figure => json!({
                "colorMode": "value", "graphMode": "area", "textMode": "value_and_name",
                "reduceOptions": { "calcs": ["lastNotNull"], "fields": "", "values": false },
            }),
            Kind::Heatmap => json!({
                "calculate": false, "cellGap": 1, "color": { "mode": "scheme", "scheme": "Blues" },
                "yAxis": { "unit": self.unit.name() }, "tooltip": { "mode": "single", "yHistogram": true },
            }),
            Kind::Logs => json!({
                "showTime": true, "wrapLogMessage": true, "enableLogDetails": true, "sortOrder": "Ascending",
            }),
            Kind::Text => json!({ "mode": "markdown", "content": self.text }),
            Kind::Table | Kind::Traces => json!({ "showHeader": true }),
        }
    }
}

impl Query {
    fn json(&self, reference: char, kind: Kind) -> Value {
        let mut target = json!({ "refId": reference.to_string(), "datasource": self.source.reference() });
        match self.source {
            Source::Prometheus => {
                target["expr"] = json!(self.text);
                target["legendFormat"] = json!(self.legend);
                target["range"] = json!(kind != Kind::Table);
                target["instant"] = json!(kind == Kind::Table);
                target["format"] = json!(match kind {
                    Kind::Table => "table",
                    Kind::Heatmap => "heatmap",
                    _ => "time_series",
                });
                target["exemplar"] = json!(self.exemplars);
            }
            Source::Loki => {
                target["expr"] = json!(self.text);
                target["queryType"] = json!("range");
                target["maxLines"] = json!(2_000);
            }
            Source::Tempo => {
                target["query"] = json!(self.text);
                target["queryType"] = json!("traceql");
                target["limit"] = json!(20);
            }
        }
        target
    }
}
