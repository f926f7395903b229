//! A real kube-apiserver on a real etcd, for one test: everything that the chart renders is judged by it.

use std::{
    fs,
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use reqwest::{Client, StatusCode};
use serde_json::{Value, json};
use tempfile::TempDir;
use trunkline_system_tests::{process::Program, s, until};

use crate::tools;

/// On a busy machine with two cores.
const READY_WITHIN: Duration = s(90);
const TOKEN: &str = "kubernetes-tests";
/// Who applies, as helm calls itself.
const MANAGER: &str = "helm";
/// Projects whose custom resources the chart uses.
const PROJECTS: [&str; 4] = ["prometheus-operator", "cert-manager", "gateway-api", "keda"];

/// The API server. Dropped, it and its etcd end.
#[derive(Debug)]
pub struct ApiServer {
    _server: Program,
    _etcd: Program,
    client: Client,
    base: String,
    folder: TempDir,
}

/// What the server said to one object.
#[derive(Debug)]
pub struct Refusal {
    /// Kind and name.
    pub object: String,
    /// Its words.
    pub message: String,
}

impl ApiServer {
    /// Starts both and installs the custom resources. What they write goes to `logs`.
    pub async fn start(logs: &Path) -> Result<Self> {
        ensure!(
            Command::new("etcd").arg("--version").output().is_ok(),
            "etcd is missing: install Debian's package etcd-server"
        );
        let folder = tempfile::tempdir()?;
        let (clients, peers) = (free_port()?, free_port()?);
        let etcd = Self::etcd(folder.path(), clients, peers, logs)?;
        let port = free_port()?;
        let mut server = Self::server(folder.path(), clients, port, logs)?;
        // The server makes its certificate itself: there is nothing to check it with before it has.
        let client = Client::builder().danger_accept_invalid_certs(true).no_proxy().timeout(s(30)).build()?;
        let base = format!("https://{port}");
        let deadline = Instant::now() + READY_WITHIN;
        loop {
            let asked = client.get(format!("{base}/readyz")).bearer_auth(TOKEN).send().await;
            if asked.is_ok_and(|answer| answer.status().is_success()) {
                break;
            }
            ensure!(server.poll()?.is_none(), "kube-apiserver ended:\n{}", server.stderr());
            ensure!(Instant::now() < deadline, "not ready within {READY_WITHIN:?}:\n{}", server.stderr());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let api = Self { _server: server, _etcd: etcd, client, base, folder };
        api.install_definitions().await?;
        api.write_kubeconfig()?;
        Ok(api)
    }

    fn etcd(folder: &Path, clients: SocketAddr, peers: SocketAddr, logs: &Path) -> Result<Program> {
        let (clients, peers) = (format!("http://{clients}"), format!("http://{peers}"));
        let mut command = mortal("etcd");
        command.arg("--data-dir").arg(folder.join("etcd"));
        command.args(["--listen-client-urls", &clients, "--advertise-client-urls", &clients]);
        command.args(["--listen-peer-urls", &peers, "--initial-advertise-peer-urls", &peers]);
        command.args(["--initial-cluster", &format!("default={peers}"), "--log-level", "warn"]);
        Program::start("etcd", logs, &mut command)
    }

    fn server(folder: &Path, etcd: SocketAddr, at: SocketAddr, logs: &Path) -> Result<Program> {
        let (key, public) = (folder.join("accounts.key"), folder.join("accounts.pub"));
        let pair = rcgen::KeyPair::generate()?;
        fs::write(&key, pair.serialize_pem())?;
        fs::write(&public, pair.public_key_pem())?;
        let tokens = folder.join("tokens.csv");
        fs::write(&tokens, format!("{TOKEN},admin,admin,system:masters\n"))?;
        let mut command = mortal(tools::program("kube-apiserver")?);
        command.arg(format!("--etcd-servers=http://{etcd}"));
        command.arg(format!("--secure-port={}", at.port())).arg("--bind-address=127.0.0.1");
        command.arg(format!("--cert-dir={}", folder.join("certificates").display()));
        command.arg(format!("--service-account-key-file={}", public.display()));
        command.arg(format!("--service-account-signing-key-file={}", key.display()));
        command.arg("--service-account-issuer=https://kubernetes.default.svc");
        command.arg("--service-cluster-ip-range=10.0.0.0/24,fd00:77::/112");
        command.arg(format!("--token-auth-file={}", tokens.display()));
        command.args(["--authorization-mode=RBAC", "--allow-privileged=true"]);
        // No controller makes the default accounts here, which this admission would wait for.
        command.arg("--disable-admission-plugins=ServiceAccount");
        Program::start("kube-apiserver", logs, &mut command)
    }

    async fn install_definitions(&self) -> Result<()> {
        for project in PROJECTS {
            let path = tools::definitions(project)?;
            let text = fs::read_to_string(&path).with_context(|| format!("{}", path.display()))?;
            for definition in crate::objects::Objects::parse(&text)?.0 {
                if definition["kind"] == "CustomResourceDefinition" {
                    self.apply("", &definition, false)
                        .await?
                        .map_err(|refusal| anyhow::anyhow!("{}: {}", refusal.object, refusal.message))?;
                    let name = definition["metadata"]["name"].as_str().context("a name")?.to_owned();
                    self.established(&name).await?;
                }
            }
        }
        Ok(())
    }

    async fn established(&self, name: &str) -> Result<()> {
        let path = format!("/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{name}");
        until(&format!("{name} is served"), s(30), || async {
            let definition = self.get(&path).await?;
            let conditions = definition["status"]["conditions"].as_array().cloned().unwrap_or_default();
            let there = conditions.iter().any(|c| c["type"] == "Established" && c["status"] == "True");
            Ok(there.then_some(()))
        })
        .await
    }

    fn write_kubeconfig(&self) -> Result<()> {
        let text = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "test",
            "clusters": [{"name": "test", "cluster": {"server": self.base, "insecure-skip-tls-verify": true}}],
            "users": [{"name": "test", "user": {"token": TOKEN}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
        });
        fs::write(self.kubeconfig(), text.to_string()).context("kubeconfig")
    }

    /// For helm.
    pub fn kubeconfig(&self) -> PathBuf {
        self.folder.path().join("kubeconfig")
    }

    /// Makes a namespace that enforces a Pod Security Standard.
    pub async fn namespace(&self, name: &str, standard: &str) -> Result<()> {
        let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": {
            "pod-security.kubernetes.io/enforce": standard, "pod-security.kubernetes.io/warn": standard,
        }}});
        self.must_apply(name, &namespace).await
    }

    /// Makes a Secret with these keys; their values are of no account here.
    pub async fn secret(&self, namespace: &str, name: &str, keys: &[&str]) -> Result<()> {
        let data: serde_json::Map<String, Value> =
            keys.iter().map(|key| ((*key).to_owned(), json!("x"))).collect();
        let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name, "namespace": namespace},
            "stringData": data});
        self.must_apply(namespace, &secret).await
    }

    async fn must_apply(&self, namespace: &str, object: &Value) -> Result<()> {
        let done = self.apply(namespace, object, false).await?;
        done.map(drop).map_err(|refusal| anyhow::anyhow!("{}: {}", refusal.object, refusal.message))
    }

    /// Server-side apply with strict validation of fields; with `dry`, nothing is kept.
    pub async fn apply(&self, namespace: &str, object: &Value, dry: bool) -> Result<Result<Value, Refusal>> {
        let path = path(namespace, object)?;
        let dry = if dry { "&dryRun=All" } else { "" };
        let query = format!("fieldManager={MANAGER}&fieldValidation=Strict&force=true{dry}");
        let request = self.client.patch(format!("{}{path}?{query}", self.base)).bearer_auth(TOKEN);
        let request = request.header("content-type", "application/apply-patch+yaml");
        let answer = request.body(object.to_string()).send().await?;
        let status = answer.status();
        let warnings: Vec<String> = answer
            .headers()
            .get_all("warning")
            .iter()
            .map(|warning| String::from_utf8_lossy(warning.as_bytes()).into_owned())
            .collect();
        let body: Value = answer.json().await.context("the API server's answer")?;
        let refused = |message: String| {
            let object = format!("{} {}", object["kind"], object["metadata"]["name"]).replace('"', "");
            Ok(Err(Refusal { object, message }))
        };
        match status {
            StatusCode::OK | StatusCode::CREATED if warnings.is_empty() => Ok(Ok(body)),
            // "would violate PodSecurity", deprecated versions: what only warns is refused here too.
            StatusCode::OK | StatusCode::CREATED => refused(warnings.join("; ")),
            _ => refused(body["message"].as_str().unwrap_or("no message").to_owned()),
        }
    }

    /// What an autoscaler does: another number of replicas.
    pub async fn scale(&self, namespace: &str, object: &Value) -> Result<Value> {
        let path = path(namespace, object)?;
        let patch = json!({"spec": {"replicas": object["spec"]["replicas"]}});
        let url = format!("{}{path}?fieldManager=autoscaler", self.base);
        let request = self.client.patch(url).bearer_auth(TOKEN);
        let request = request.header("content-type", "application/merge-patch+json");
        Ok(request.body(patch.to_string()).send().await?.json().await?)
    }

    /// What lies at a path; null when there is nothing.
    pub async fn get(&self, path: &str) -> Result<Value> {
        let answer = self.client.get(format!("{}{path}", self.base)).bearer_auth(TOKEN).send().await?;
        match answer.status() {
            StatusCode::NOT_FOUND => Ok(Value::Null),
            StatusCode::OK => Ok(answer.json().await?),
            status => bail!("{path}: {status}: {}", answer.text().await.unwrap_or_default()),
        }
    }

    /// An object as the server has it; null when it has none.
    pub async fn read(&self, namespace: &str, object: &Value) -> Result<Value> {
        self.get(&path(namespace, object)?).await
    }
}

/// Where an object of the chart lives: kinds with their plurals, and whether they belong to a namespace.
fn path(namespace: &str, object: &Value) -> Result<String> {
    let (kind, version) = (object["kind"].as_str().unwrap_or_default(), object["apiVersion"].as_str());
    let name = object["metadata"]["name"].as_str().context("an object without a name")?;
    let (plural, cluster_wide) = match kind {
        "Namespace" => ("namespaces", true),
        "Node" => ("nodes", true),
        "ClusterRole" => ("clusterroles", true),
        "ClusterRoleBinding" => ("clusterrolebindings", true),
        "CustomResourceDefinition" => ("customresourcedefinitions", true),
        "NetworkPolicy" => ("networkpolicies", false),
        "Ingress" => ("ingresses", false),
        "ConfigMap" => ("configmaps", false),
        "ServiceAccount" => ("serviceaccounts", false),
        "PodDisruptionBudget" => ("poddisruptionbudgets", false),
        "HorizontalPodAutoscaler" => ("horizontalpodautoscalers", false),
        "StatefulSet" => ("statefulsets", false),
        "Deployment" => ("deployments", false),
        "Service" => ("services", false),
        "Secret" => ("secrets", false),
        "Pod" => ("pods", false),
        "Certificate" => ("certificates", false),
        "Issuer" => ("issuers", false),
        "PodMonitor" => ("podmonitors", false),
        "PrometheusRule" => ("prometheusrules", false),
        "HTTPRoute" => ("httproutes", false),
        "ScaledObject" => ("scaledobjects", false),
        _ => bail!("tests/kubernetes/src/api.rs does not know where a {kind} lives"),
    };
    let group = match version.context("an object without apiVersion")? {
        "v1" => "/api/v1".to_owned(),
        version => format!("/apis/{version}"),
    };
    Ok(if cluster_wide {
        format!("{group}/{plural}/{name}")
    } else {
        format!("{group}/namespaces/{namespace}/{plural}/{name}")
    })
}

/// A command that ends with this process, however it ends.
fn mortal(program: impl AsRef<Path>) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL"]).arg(program.as_ref());
    command
}

/// A port that was free a moment ago.
fn free_port() -> Result<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}
