//! Signing in and opening the WebSocket, at whichever console answers.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context, Result};
use tokio::net::TcpStream;
use tokio_tungstenite::{
    WebSocketStream, client_async,
    tungstenite::{client::IntoClientRequest, http::HeaderValue},
};
use trunkline_system_tests::api::Api;

/// A console that is there answers within this; one that hangs is given up.
const LIMIT: Duration = Duration::from_secs(5);

/// A session's token.
pub(super) async fn token(console: SocketAddr, name: &str) -> Result<String> {
    // Passwords are hashed slowly, and many agents come at once.
    let signed = tokio::time::timeout(LIMIT * 6, Api::sign_in(console, name)).await;
    Ok(signed.context("signing in took too long")??.token)
}

/// A WebSocket.
pub(super) async fn open(console: SocketAddr, token: &str) -> Result<WebSocketStream<TcpStream>> {
    let mut request = format!("ws://{console}/api/v1/agent/ws").into_client_request()?;
    let headers = request.headers_mut();
    headers.insert("Authorization", HeaderValue::try_from(format!("Bearer {token}"))?);
    headers.insert("Sec-WebSocket-Protocol", HeaderValue::from_static("trunkline.v1"));
    let opened = tokio::time::timeout(LIMIT, async {
        let stream = TcpStream::connect(console).await?;
        stream.set_nodelay(true)?;
        anyhow::Ok(client_async(request, stream).await?)
    });
    let (socket, _) = opened.await.context("the WebSocket took too long")??;
    Ok(socket)
}
