//! One GET to a node's own pages, with bounds on time and size.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context, Result, ensure};
use reqwest::Client;

/// Connecting and the whole answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// The body at `path`, when the answer is 200 and not larger than `most` bytes.
pub async fn get(address: SocketAddr, path: &str, most: usize) -> Result<String> {
    let url = format!("http://{address}{path}");
    let asked = async {
        let client = Client::builder().timeout(PATIENCE).no_proxy().build()?;
        let mut answer = client.get(&url).send().await?.error_for_status()?;
        let mut body = Vec::new();
        while let Some(chunk) = answer.chunk().await? {
            ensure!(body.len() + chunk.len() <= most, "the answer is larger than {most} bytes");
            body.extend_from_slice(&chunk);
        }
        anyhow::Ok(String::from_utf8_lossy(&body).into_owned())
    };
    asked.await.with_context(|| url.clone())
}
