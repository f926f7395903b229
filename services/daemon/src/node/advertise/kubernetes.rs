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
}
