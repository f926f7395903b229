//! etcd behind TLS and passwords.

use std::{collections::BTreeMap, path::Path, time::Duration};

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use tokio::time::timeout;
use trunkline_cluster::{
    ClusterConfig, ClusterError, ClusterMetrics, EtcdConfig, EtcdPlacement, EtcdTls, NodeSpec, Role,
    testing::Etcd,
};
use trunkline_config::Secret;

use crate::nodes::{World, config, id};

async fn start(config: &ClusterConfig) -> Result<(), ClusterError> {
    let world = World::new().await;
    let spec = NodeSpec {
        id: id(1),
        roles: Role::ALL.into(),
        zone: None,
        version: "1".to_owned(),
        address: "127.0.0.1:1".to_owned(),
        public: BTreeMap::new(),
    };
    let started = EtcdPlacement::start(config, spec, world.journal.clone(), ClusterMetrics::new());
    // One that is refused goes on trying for longer than a test has.
    match timeout(Duration::from_secs(4), started).await {
        Ok(started) => started.map(drop),
        Err(_) => Err(ClusterError::Etcd("not in time".to_owned())),
    }
}

/// An authority and a certificate of it for `127.0.0.1`, as files.
fn certificates(dir: &Path, name: &str) -> EtcdTls {
    let mut ca = CertificateParams::new(Vec::new()).unwrap();
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca_key = KeyPair::generate().unwrap();
    let ca_pem = ca.self_signed(&ca_key).unwrap().pem();
    let key = KeyPair::generate().unwrap();
    let leaf = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
    let cert = leaf.signed_by(&key, &Issuer::new(ca, ca_key)).unwrap();
    let file = |what: &str, text: &str| {
        let path = dir.join(format!("{name}-{what}.pem"));
        std::fs::write(&path, text).unwrap();
        path
    };
    EtcdTls {
        ca: file("ca", &ca_pem),
        cert: Some(file("cert", &cert.pem())),
        key: Some(file("key", &key.serialize_pem())),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn etcd_behind_tls_wants_our_certificate_and_we_want_its() {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let dir = tempfile::tempdir().unwrap();
    let (good, other) = (certificates(dir.path(), "good"), certificates(dir.path(), "other"));
    let path = |path: &Option<std::path::PathBuf>| path.as_ref().unwrap().display().to_string();
    let etcd = Etcd::start_tls(&[
        format!("--cert-file={}", path(&good.cert)),
        format!("--key-file={}", path(&good.key)),
        format!("--trusted-ca-file={}", good.ca.display()),
        "--client-cert-auth".to_owned(),
    ]);
    let with = |tls: EtcdTls| {
        let mut config = config(&etcd);
        config.etcd.tls = Some(tls);
        config
    };
    start(&with(good.clone())).await.unwrap();
    // An authority that did not sign etcd's certificate; a certificate that etcd's authority did not sign; none at all.
    assert!(start(&with(EtcdTls { ca: other.ca.clone(), ..good.clone() })).await.is_err());
    assert!(start(&with(EtcdTls { ca: good.ca.clone(), ..other })).await.is_err());
    assert!(start(&with(EtcdTls { cert: None, key: None, ..good.clone() })).await.is_err());
    let missing = start(&with(EtcdTls { ca: dir.path().join("nowhere.pem"), ..good })).await;
    let told = missing.unwrap_err().to_string();
    assert!(told.contains("cluster.etcd.tls.ca") && told.contains("nowhere.pem"), "{told}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn etcd_with_authentication_wants_the_password() {
    let etcd = Etcd::start(1).await;
    let mut root = etcd_client::Client::connect(etcd.endpoints(), None).await.unwrap();
    root.user_add("root", "secret", None).await.unwrap();
    root.role_add("root").await.unwrap();
    root.user_grant_role("root", "root").await.unwrap();
    root.auth_enable().await.unwrap();
    let with = |user: Option<&str>, password: Option<&str>| ClusterConfig {
        etcd: EtcdConfig {
            endpoints: etcd.endpoints(),
            user: user.map(str::to_owned),
            password: password.map(|password| Secret::new(password.to_owned())),
            tls: None,
        },
        ..config(&etcd)
    };
    start(&with(Some("root"), Some("secret"))).await.unwrap();
    assert!(start(&with(Some("root"), Some("guess"))).await.is_err());
    assert!(start(&with(None, None)).await.is_err());
}
