//! Signing in and opening the WebSocket.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_tungstenite::{
    WebSocketStream, client_async_with_config,
    tungstenite::{client::IntoClientRequest, http::HeaderValue, protocol::WebSocketConfig},
};

/// The server hashes each password on purpose slowly, and many agents come at once.
const SIGN_IN_LIMIT: Duration = Duration::from_secs(30);

/// A session's token.
pub(super) async fn token(http: SocketAddr, name: &str, password: &str) -> Result<String> {
    let signed = tokio::time::timeout(SIGN_IN_LIMIT, ask(http, name, password)).await;
    signed.context("sign-in took too long")?
}

/// By plain HTTP/1.1.
async fn ask(http: SocketAddr, name: &str, password: &str) -> Result<String> {
    let body = json!({ "name": name, "password": password }).to_string();
    let request = format!(
        "POST /api/v1/session HTTP/1.1\r\nHost: {http}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\
         Connection: close\r\n\r\n{body}",
        body.len()
    );
    let mut stream = TcpStream::connect(http).await?;
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.take(64 * 1_024).read_to_end(&mut answer).await?;
    let answer = String::from_utf8_lossy(&answer);
    let (head, body) = answer.split_once("\r\n\r\n").context("sign-in: no answer")?;
    ensure!(head.starts_with("HTTP/1.1 200"), "sign-in: {}", head.lines().next().unwrap_or_default());
    let from = body.find('{').context("sign-in: no JSON")?;
    let to = body.rfind('}').context("sign-in: no JSON")?;
    let body: Value = serde_json::from_str(body.get(from..=to).unwrap_or_default())?;
    Ok(body["token"].as_str().context("sign-in: no token")?.to_owned())
}

/// A WebSocket, open within `limit`.
pub(super) async fn open(
    http: SocketAddr,
    token: &str,
    limit: Duration,
) -> Result<WebSocketStream<TcpStream>> {
    let mut request = format!("ws://{http}/api/v1/agent/ws").into_client_request()?;
    let headers = request.headers_mut();
    headers.insert("Authorization", HeaderValue::try_from(format!("Bearer {token}"))?);
    headers.insert("Sec-WebSocket-Protocol", HeaderValue::from_static("trunkline.v1"));
    let opened = tokio::time::timeout(limit, async {
        let stream = TcpStream::connect(http).await?;
        stream.set_nodelay(true)?;
        // Held for each agent and cleared before each read; the library's default is 128 KiB.
        let config = WebSocketConfig::default().read_buffer_size(4 * 1_024);
        anyhow::Ok(client_async_with_config(request, stream, Some(config)).await?)
    });
    let (socket, _) = opened.await.context("the WebSocket took too long")??;
    Ok(socket)
}
