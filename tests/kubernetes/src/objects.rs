//! What a chart rendered.

use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use serde_json::Value;

/// The six roles, each with a workload.
pub const ROLES: [&str; 6] = ["edge", "call", "acd", "media", "records", "console"];

/// Rendered objects.
#[derive(Debug, Clone)]
pub struct Objects(pub Vec<Value>);

impl Objects {
    /// Reads a stream of YAML documents.
    pub fn parse(text: &str) -> Result<Self> {
        let mut objects = Vec::new();
        for document in serde_yaml_ng::Deserializer::from_str(text) {
            let value = Value::deserialize(document).context("the chart renders broken YAML")?;
            if !value.is_null() {
                objects.push(value);
            }
        }
        ensure!(!objects.is_empty(), "the chart renders nothing");
        Ok(Self(objects))
    }

    /// All of a kind.
    pub fn kind(&self, kind: &str) -> impl Iterator<Item = &Value> {
        self.0.iter().filter(move |object| object["kind"] == kind)
    }

    /// The object of a kind whose name is or ends with `-name`.
    pub fn one(&self, kind: &str, name: &str) -> Result<&Value> {
        let ending = format!("-{name}");
        let matches = |object: &&Value| {
            object["metadata"]["name"].as_str().is_some_and(|own| own == name || own.ends_with(&ending))
        };
        self.kind(kind).find(matches).with_context(|| format!("no {kind} {name} is rendered"))
    }

    /// The workload of a role.
    pub fn workload(&self, role: &str) -> Result<&Value> {
        self.one("StatefulSet", role).or_else(|_| self.one("Deployment", role))
    }

    /// The pod template of a role.
    pub fn pod(&self, role: &str) -> Result<&Value> {
        Ok(&self.workload(role)?["spec"]["template"])
    }

    /// The container of a role.
    pub fn container(&self, role: &str) -> Result<&Value> {
        Ok(&self.pod(role)?["spec"]["containers"][0])
    }

    /// A role's node.yaml.
    pub fn node_config(&self, role: &str) -> Result<Value> {
        let text = self.one("ConfigMap", role)?["data"]["node.yaml"].as_str().context("node.yaml")?;
        serde_yaml_ng::from_str(text).context("node.yaml is no YAML")
    }

    /// Everything that carries a pod: kind and name, and the pod's template or the pod itself.
    pub fn pods(&self) -> Vec<(String, &Value)> {
        let named = |object: &Value| {
            format!("{} {}", object["kind"].as_str().unwrap_or_default(), object["metadata"]["name"])
        };
        self.0
            .iter()
            .filter_map(|object| match object["kind"].as_str()? {
                "StatefulSet" | "Deployment" | "DaemonSet" => {
                    Some((named(object), &object["spec"]["template"]))
                }
                "Pod" => Some((named(object), object)),
                _ => None,
            })
            .collect()
    }

    /// The names of all objects, for messages and comparisons.
    pub fn names(&self) -> Vec<String> {
        self.0
            .iter()
            .map(|object| format!("{}/{}", object["kind"], object["metadata"]["name"]).replace('"', ""))
            .collect()
    }
}
