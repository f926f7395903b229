//! One question to the Kubernetes API: the external address of a machine.

use std::{net::IpAddr, path::Path, time::Duration};

use anyhow::{Context, Result, bail, ensure};
use reqwest::{Certificate, StatusCode};
use serde::Deserialize;

/// Where Kubernetes mounts the service account's token and the API's authority.
const ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
const PATIENCE: Duration = Duration::from_secs(5);

#[derive(Deserialize)]
struct Machine {
    status: Status,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Status {
    addresses: Vec<Address>,
}

#[derive(Deserialize)]
struct Address {
    #[serde(rename = "type")]
    kind: String,
    address: String,
}

/// The external address of a machine, of the wanted family; None when it has none.
pub(super) async fn external_ip(host: &str, ipv6: bool) -> Result<Option<IpAddr>> {
    let server = std::env::var("KUBERNETES_SERVICE_HOST")
        .context("node.advertise.kubernetes: KUBERNETES_SERVICE_HOST is not set; this works in a pod only")?;
    let port = std::env::var("KUBERNETES_SERVICE_PORT").unwrap_or_else(|_| "443".to_owned());
    let server = if server.contains(':') { format!("[{server}]") } else { server };
    ask(&format!("https://{server}:{port}"), Path::new(ACCOUNT), host, ipv6).await
}

async fn ask(api: &str, account: &Path, host: &str, ipv6: bool) -> Result<Option<IpAddr>> {
    ensure!(
        !host.is_empty() && host.bytes().all(|b| b.is_ascii_alphanumeric() || b"-.".contains(&b)),
        "node.advertise.host: {host:?} is not a name of a Kubernetes node"
    );
    let read = |name: &str| {
        let path = account.join(name);
        std::fs::read(&path)
            .with_context(|| format!("{}: cannot be read; mount the service account's token", path.display()))
    };
    let token = String::from_utf8(read("token")?).context("the service account's token is not text")?;
    let authority =
        Certificate::from_pem_bundle(&read("ca.crt")?).context("ca.crt of the service account")?;
    let client = reqwest::Client::builder().timeout(PATIENCE).tls_certs_only(authority).no_proxy().build()?;
    let answer = client
        .get(format!("{api}/api/v1/nodes/{host}"))
        .bearer_auth(token.trim())
        .send()
        .await
        .context("the Kubernetes API does not answer")?;
    match answer.status() {
        StatusCode::OK => {}
        status @ (StatusCode::FORBIDDEN | StatusCode::UNAUTHORIZED) => bail!(
            "the Kubernetes API refuses ({status}): the service account needs the right to get nodes, or set \
             node.advertise.kubernetes to false"
        ),
        status => bail!("the Kubernetes API answered {status} to the question for node {host}"),
    }
    let machine: Machine = answer.json().await.context("the Kubernetes API's answer")?;
    Ok(pick(&machine.status.addresses, ipv6))
}

fn pick(addresses: &[Address], ipv6: bool) -> Option<IpAddr> {
    let external = addresses.iter().filter(|address| address.kind == "ExternalIP");
    external.filter_map(|address| address.address.parse().ok()).find(|ip: &IpAddr| ip.is_ipv6() == ipv6)
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[test]
    fn the_external_address_of_the_family_is_taken() {
        let machine: Machine = serde_json::from_value(serde_json::json!({"status": {"addresses": [
            {"type": "Hostname", "address": "worker-1"},
            {"type": "InternalIP", "address": "10.0.0.7"},
            {"type": "ExternalIP", "address": "2001:db8::7"},
            {"type": "ExternalIP", "address": "203.0.113.7"},
        ]}}))
        .unwrap();
        assert_eq!(pick(&machine.status.addresses, false), Some("203.0.113.7".parse().unwrap()));
        assert_eq!(pick(&machine.status.addresses, true), Some("2001:db8::7".parse().unwrap()));
        assert_eq!(pick(&machine.status.addresses[..2], false), None);
    }

    #[tokio::test]
    async fn a_missing_token_is_named() {
        let error = ask("https://127.0.0.1:1", Path::new("/nowhere"), "worker-1", false).await.unwrap_err();
        assert!(format!("{error:#}").contains("/nowhere/token"), "{error:#}");
        assert!(ask("https://127.0.0.1:1", Path::new("/nowhere"), "a/../b", false).await.is_err());
    }

    /// The API as a pod meets it: TLS by the authority in its folder, its token, one machine; whoever has no right is told so.
    #[tokio::test]
    async fn the_api_is_asked_with_the_accounts_token() {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
        let account = tempfile::tempdir().unwrap();
        std::fs::write(account.path().join("ca.crt"), made.cert.pem()).unwrap();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let api = format!("https://{}", listener.local_addr().unwrap());
        let key = rustls::pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
        let config = rustls::ServerConfig::builder().with_no_client_auth();
        let config = config.with_single_cert(vec![made.cert.der().clone()], key).unwrap();
        let acceptor = tokio_rustls::TlsAcceptor::from(std::sync::Arc::new(config));
        tokio::spawn(async move {
            loop {
                let mut stream = acceptor.accept(listener.accept().await.unwrap().0).await.unwrap();
                let (mut head, mut buffer) = (String::new(), [0; 1_024]);
                while !head.contains("\r\n\r\n") {
                    let read = stream.read(&mut buffer).await.unwrap();
                    head += std::str::from_utf8(&buffer[..read]).unwrap();
                }
                let head = head.to_lowercase();
                let known = head.starts_with("get /api/v1/nodes/worker-1 ");
                let body = r#"{"status":{"addresses":[{"type":"ExternalIP","address":"203.0.113.7"}]}}"#;
                let (status, body) = match head.contains("authorization: bearer right\r\n") {
                    true if known => ("200 OK", body),
                    true => ("404 Not Found", "{}"),
                    false => ("403 Forbidden", "{}"),
                };
                let length = body.len();
                let answer = format!(
                    "HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\
                     connection: close\r\n\r\n{body}"
                );
                stream.write_all(answer.as_bytes()).await.unwrap();
                let _ = stream.shutdown().await;
            }
        });
        let asked = async |token: &str, host: &str, ipv6| {
            std::fs::write(account.path().join("token"), token).unwrap();
            ask(&api, account.path(), host, ipv6).await.map_err(|error| format!("{error:#}"))
        };
        assert_eq!(asked("right\n", "worker-1", false).await, Ok(Some("203.0.113.7".parse().unwrap())));
        assert_eq!(asked("right", "worker-1", true).await, Ok(None));
        assert!(asked("right", "worker-2", false).await.unwrap_err().contains("404"));
        assert!(asked("wrong", "worker-1", false).await.unwrap_err().contains("the right to get nodes"));
    }
}
