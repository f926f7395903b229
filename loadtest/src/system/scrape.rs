//! Reads a Prometheus page.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context, Result, ensure};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

const LIMIT: Duration = Duration::from_secs(3);
const MOST_BYTES: u64 = 16 << 20;

/// The page at `/metrics`.
pub async fn scrape(at: SocketAddr) -> Result<String> {
    let ask = async {
        let mut stream = TcpStream::connect(at).await?;
        let request = format!("GET /metrics HTTP/1.1\r\nHost: {at}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut answer = Vec::new();
        stream.take(MOST_BYTES).read_to_end(&mut answer).await?;
        anyhow::Ok(answer)
    };
    let answer = tokio::time::timeout(LIMIT, ask).await.context("the metrics took too long")??;
    let answer = String::from_utf8_lossy(&answer);
    ensure!(answer.starts_with("HTTP/1.1 200"), "{at}: {}", answer.lines().next().unwrap_or_default());
    Ok(answer.into_owned())
}

/// The sum of a metric over all its lines; `None` = not there.
pub fn sum(page: &str, name: &str) -> Option<f64> {
    let mut found = None;
    for line in page.lines().filter(|line| !line.starts_with('#')) {
        // An exemplar follows the value after `#`.
        let line = line.split(" # ").next().unwrap_or(line);
        let Some((key, value)) = line.rsplit_once(' ') else { continue };
        if key.split('{').next() == Some(name) {
            *found.get_or_insert(0.0) += value.parse::<f64>().unwrap_or(0.0);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_metric_is_summed_over_its_labels() {
        let page = "# HELP x y\nx{a=\"1\"} 3\nx{a=\"2\"} 4 # {trace_id=\"t\"} 9 1.5\nx_total 5\n";
        assert_eq!((sum(page, "x"), sum(page, "x_total"), sum(page, "y")), (Some(7.0), Some(5.0), None));
    }
}
