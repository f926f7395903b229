//! The HTTP API as an integrator uses it.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::{http, until};

/// Signed in at the API.
#[derive(Debug, Clone)]
pub struct Api {
    /// Where.
    pub address: SocketAddr,
    /// The bearer token.
    pub token: String,
}

impl Api {
    /// Signs in with a sample account, whose password is the name and `-dev`.
    pub async fn sign_in(address: SocketAddr, name: &str) -> Result<Self> {
        let body = json!({ "name": name, "password": format!("{name}-dev") });
        let answer = http::request(address, "POST", "/api/v1/session", &[], Some(&body)).await?;
        let answer = answer.expect(200).with_context(|| format!("sign-in as {name}"))?.json()?;
        let token = answer["token"].as_str().context("no token")?.to_owned();
        Ok(Self { address, token })
    }

    /// GET with the token; any status.
    pub async fn get(&self, path: &str, headers: &[(&str, &str)]) -> Result<http::Response> {
        let bearer = format!("Bearer {}", self.token);
        let mut all = vec![("Authorization", bearer.as_str())];
        all.extend_from_slice(headers);
        http::request(self.address, "GET", path, &all, None).await
    }

    /// GET of JSON under `/api/v1`.
    pub async fn json(&self, path: &str) -> Result<Value> {
        self.get(&format!("/api/v1{path}"), &[]).await?.expect(200).with_context(|| path.to_owned())?.json()
    }

    /// All contacts that match the query (`caller=…`), every page, newest first.
    pub async fn contacts(&self, query: &str) -> Result<Vec<Value>> {
        let mut all = Vec::new();
        let mut cursor = String::new();
        loop {
            let page = self.json(&format!("/contacts?page_size=50{cursor}&{query}")).await?;
            let contacts = page["contacts"].as_array().context("no list of contacts")?;
            all.extend(contacts.iter().cloned());
            match page["next_cursor"].as_str() {
                Some(next) if !next.is_empty() => cursor = format!("&cursor={}", escape(next)),
                _ => return Ok(all),
            }
            ensure!(all.len() <= 100_000, "the pages never end");
        }
    }

    /// One contact, whole.
    pub async fn contact(&self, call_id: &str) -> Result<Value> {
        self.json(&format!("/contacts/{call_id}")).await
    }

    /// The live numbers.
    pub async fn live(&self) -> Result<Value> {
        self.json("/live").await
    }

    /// The live numbers of one queue.
    pub async fn live_queue(&self, queue: &str) -> Result<Value> {
        let live = self.live().await?;
        let queues = live["queues"].as_array().context("no queues")?;
        queues
            .iter()
            .find(|q| q["queue_id"] == queue)
            .cloned()
            .with_context(|| format!("no queue {queue}: {live}"))
    }

    /// Waits until the live numbers of a queue satisfy a condition.
    pub async fn until_queue(
        &self,
        queue: &str,
        what: &str,
        limit: Duration,
        condition: impl Fn(&Value) -> bool,
    ) -> Result<Value> {
        let mut last = Value::Null;
        let found = until(what, limit, || {
            let api = self.clone();
            let condition = &condition;
            async move {
                let now = api.live_queue(queue).await?;
                Ok(Some(now).filter(condition))
            }
        })
        .await;
        if found.is_err() {
            last = self.live_queue(queue).await.unwrap_or_default();
        }
        found.with_context(|| format!("queue {queue}: {last}"))
    }

    /// Waits for the one record of a caller that satisfies a condition; more than one is an error.
    pub async fn until_contact(
        &self,
        caller: &str,
        what: &str,
        limit: Duration,
        condition: impl Fn(&Value) -> bool,
    ) -> Result<Value> {
        let query = format!("caller={}", escape(caller));
        let found = until(what, limit, || {
            let (api, query, condition) = (self.clone(), query.clone(), &condition);
            async move {
                let found = api.contacts(&query).await?;
                ensure!(found.len() <= 1, "{} records of one call of {caller}: {found:?}", found.len());
                let Some(call_id) = found.first().and_then(|c| c["call_id"].as_str()) else {
                    return Ok(None);
                };
                Ok(Some(api.contact(call_id).await?).filter(condition))
            }
        })
        .await;
        match found {
            Ok(contact) => Ok(contact),
            Err(error) => {
                let seen = self.contacts(&query).await.unwrap_or_default();
                Err(error.context(format!("records of {caller}: {seen:?}")))
            }
        }
    }

    /// The audio of a recording (WAV).
    pub async fn recording(&self, recording_id: &str) -> Result<Vec<u8>> {
        let path = format!("/api/v1/recordings/{recording_id}/audio");
        Ok(self.get(&path, &[]).await?.expect(200)?.body)
    }
}

/// Escapes a value for a query.
pub fn escape(value: &str) -> String {
    value
        .bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' => char::from(byte).to_string(),
            other => format!("%{other:02X}"),
        })
        .collect()
}

/// A time of the API, in milliseconds; null is None.
pub fn ms(value: &Value) -> Option<i64> {
    value.as_i64()
}
