//! The chart's NetworkPolicies against what its pods listen at and reach, read from their configuration and environment:
//! what a policy forgets, Kubernetes drops without a word.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, ensure};
use reqwest::Url;
use serde_json::{Value, json};
use trunkline_kubernetes_tests::{
    SETS, chart,
    helm::{Helm, read_values},
    objects::{Objects, ROLES},
    values,
};

/// By protocol and number.
type Ports = BTreeSet<(String, u64)>;

/// Surroundings at ports of their own, by values and by a section over what the chart writes.
const ELSEWHERE: [&str; 5] = [
    r#"etcd.endpoints=["https://etcd:12379","http://[fd00::9]:12380"]"#,
    r#"recordings.s3.endpoint="http://minio.storage:9000""#,
    r#"tracing.endpoint="http://collector""#,
    r#"call.config={"node":{"otlp":"http://collector:14317"}}"#,
    "networkPolicy.egress.ports=[6432]",
];

fn rendered(set: &str, settings: &[&str]) -> Result<Objects> {
    Helm::new("helm4")?.template(&chart(), &[values(set)], settings)
}

/// The policy of a role, when its pods are governed by one: those in the host's network are not.
fn policy<'a>(objects: &'a Objects, role: &str) -> Result<Option<&'a Value>> {
    let Ok(policy) = objects.one("NetworkPolicy", role) else { return Ok(None) };
    let labels = &objects.pod(role)?["metadata"]["labels"];
    ensure!(selects(&policy["spec"]["podSelector"], labels), "{role}'s policy selects other pods");
    Ok(Some(&policy["spec"]))
}

fn selects(selector: &Value, labels: &Value) -> bool {
    let wanted = selector["matchLabels"].as_object();
    wanted.is_some_and(|wanted| wanted.iter().all(|(name, value)| labels[name] == *value))
}

/// The ports of some rules; names are those of the role's container.
fn opened<'a>(rules: impl IntoIterator<Item = &'a Value>, container: &Value) -> Result<Ports> {
    let mut ports = Ports::new();
    for port in rules.into_iter().flat_map(|rule| rule["ports"].as_array().into_iter().flatten()) {
        let protocol = port["protocol"].as_str().context("a port without a protocol")?;
        let first = match port["port"].as_str() {
            Some(name) => {
                let named = container["ports"].as_array().context("ports")?.iter();
                let mut named = named.filter(|port| port["name"] == name && port["protocol"] == protocol);
                &named.next().with_context(|| format!("no port {name} of {protocol}"))?["containerPort"]
            }
            None => &port["port"],
        };
        let first = first.as_u64().with_context(|| port.to_string())?;
        let last = port["endPort"].as_u64().unwrap_or(first);
        ports.extend((first..=last).map(|number| (protocol.to_owned(), number)));
    }
    Ok(ports)
}

fn rules<'a>(policy: &'a Value, direction: &str) -> &'a [Value] {
    policy[direction].as_array().map(Vec::as_slice).unwrap_or_default()
}

/// Where a role's process listens, by what it is told.
fn listens(objects: &Objects, role: &str) -> Result<Ports> {
    let (mut ports, config) = (Ports::new(), objects.node_config(role)?);
    let mut at = |protocols: &[&str], address: &str| -> Result<()> {
        let number = address.rsplit(':').next().and_then(|port| port.parse().ok());
        let number = number.with_context(|| format!("no port in {address}"))?;
        ports.extend(protocols.iter().map(|protocol| ((*protocol).to_owned(), number)));
        Ok(())
    };
    for variable in objects.container(role)?["env"].as_array().context("env")? {
        let name = variable["name"].as_str().context("name")?;
        if name.ends_with("__LISTEN") {
            let protocols: &[&str] = if name.contains("SIP") { &["UDP", "TCP"] } else { &["TCP"] };
            at(protocols, variable["value"].as_str().context(name.to_owned())?)?;
        }
    }
    if let Some(address) = config["console"]["listen"].as_str() {
        at(&["TCP"], address)?;
    }
    if role == "media" {
        let (first, last) = config["media"]["rtp"].as_str().and_then(|r| r.split_once('-')).context("rtp")?;
        let webrtc = config["media"]["webrtc_port"].as_u64().context("webrtc_port")?;
        let workers = config["media"]["workers"].as_u64().context("workers")?;
        let audio = (first.parse()?..=last.parse()?).chain(webrtc..webrtc + workers);
        ports.extend(audio.map(|number| ("UDP".to_owned(), number)));
    }
    Ok(ports)
}

#[test]
fn pods_are_reached_where_they_listen_and_nowhere_else() -> Result<()> {
    let mut checked = BTreeMap::new();
    for set in SETS {
        let objects = rendered(set, &[])?;
        for role in ROLES {
            let Some(policy) = policy(&objects, role)? else { continue };
            let container = objects.container(role)?;
            let listens = listens(&objects, role)?;
            let opened = opened(rules(policy, "ingress"), container)?;
            ensure!(opened == listens, "{set}: {role} listens at {listens:?}, reached are {opened:?}");
            let declared = container["ports"].as_array().context("ports")?.iter();
            let declared: Ports = declared
                .filter_map(|port| {
                    Some((port["protocol"].as_str()?.to_owned(), port["containerPort"].as_u64()?))
                })
                .collect();
            ensure!(declared == listens, "{set}: {role} listens at {listens:?}, its pod says {declared:?}");
            *checked.entry(role).or_insert(0) += 1;
        }
    }
    ensure!(ROLES.iter().all(|role| checked.contains_key(role)), "only {checked:?} have policies");
    Ok(())
}

/// From whom each port takes connections: only where a network has to be named and is not, from all.
#[test]
fn pods_are_reached_by_those_who_may() -> Result<()> {
    let from = |objects: &Objects, role: &str, port: &str| -> Result<Value> {
        let policy = policy(objects, role)?.with_context(|| format!("no policy of {role}"))?;
        let mut rules = rules(policy, "ingress").iter();
        let rule = rules.find(|rule| rule["ports"][0]["port"] == port);
        Ok(rule.with_context(|| format!("{role}: no rule for {port}"))?["from"].clone())
    };
    let full = rendered("full", &[])?;
    let given = &read_values(&values("full"))?["networkPolicy"];
    for role in ROLES {
        let peers = from(&full, role, "cluster")?;
        let [pods, nodes] = peers.as_array().context("peers")?.as_slice() else { anyhow::bail!("{peers}") };
        for other in ROLES {
            let labels = &full.pod(other)?["metadata"]["labels"];
            ensure!(selects(&pods["podSelector"], labels), "{role} does not hear {other}");
        }
        ensure!(nodes["ipBlock"]["cidr"] == given["nodeCidrs"][0], "{role}: {nodes}");
        ensure!(from(&full, role, "metrics")? == given["metricsFrom"], "{role}'s metrics");
    }
    ensure!(from(&full, "console", "http")? == given["consoleFrom"], "the console");
    let sip = from(&full, "edge", "sip-udp")?;
    let test = full.one("Pod", "test-call")?;
    ensure!(sip[0] == given["sipFrom"][0], "{sip}");
    ensure!(selects(&sip[1]["podSelector"], &test["metadata"]["labels"]), "`helm test` is not let in: {sip}");
    // Media is in the host's network: where its nodes are, nobody has said.
    ensure!(
        from(&rendered("minimal", &[])?, "call", "cluster")?.is_null(),
        "media does not reach the others"
    );
    let inside = from(&rendered("full", &["networkPolicy.nodeCidrs=[]"])?, "call", "cluster")?;
    ensure!(inside.as_array().is_some_and(|peers| peers.len() == 1), "more than the pods: {inside}");
    Ok(())
}

/// The addresses that a configuration names; links are what a browser follows.
fn addresses(value: &Value, path: &str, found: &mut Vec<String>) {
    match value {
        Value::String(text) if text.contains("://") && !path.starts_with(".console.links") => {
            found.push(text.clone());
        }
        Value::Array(all) => all.iter().for_each(|inner| addresses(inner, path, found)),
        Value::Object(all) => {
            all.iter().for_each(|(key, inner)| addresses(inner, &format!("{path}.{key}"), found));
        }
        _ => {}
    }
}

#[test]
fn pods_reach_what_their_configuration_names_and_nothing_else() -> Result<()> {
    let defaults = read_values(&chart().join("values.yaml"))?;
    let defaults = defaults["networkPolicy"]["egress"]["ports"].as_array().context("ports")?;
    let every: Vec<&str> = SETS.into_iter().filter(|set| *set != "private").collect();
    let cases = every.into_iter().map(|set| (set, &[][..], defaults.as_slice()));
    let elsewhere = [json!(6432)];
    for (set, settings, given) in cases.chain([("minimal", &ELSEWHERE[..], &elsewhere[..])]) {
        let objects = rendered(set, settings)?;
        let mut wanted_of_nodes: Ports = (7400..=7402).map(|number| ("TCP".to_owned(), number)).collect();
        for role in ROLES {
            let port = json!({"ports": [{"port": "cluster", "protocol": "TCP"}]});
            wanted_of_nodes.extend(opened([&port], objects.container(role)?)?);
        }
        for role in ["call", "acd", "records", "console"] {
            let policy = policy(&objects, role)?.with_context(|| format!("{set}: {role} has no policy"))?;
            ensure!(policy["policyTypes"] == json!(["Ingress", "Egress"]), "{set}: {role} may reach all");
            let mut wanted = wanted_of_nodes.clone();
            wanted.extend(["UDP", "TCP"].map(|protocol| (protocol.to_owned(), 53)));
            let mut named = Vec::new();
            addresses(&objects.node_config(role)?, "", &mut named);
            ensure!(!named.is_empty(), "{set}: {role} names not even an etcd");
            for address in &named {
                let port = Url::parse(address)?.port_or_known_default().context(address.clone())?;
                wanted.insert(("TCP".to_owned(), port.into()));
            }
            wanted.extend(given.iter().filter_map(|port| Some(("TCP".to_owned(), port.as_u64()?))));
            let everywhere = rules(policy, "egress").iter().filter(|rule| rule["to"].is_null());
            let opened = opened(everywhere, &Value::Null)?;
            ensure!(opened == wanted, "{set}: {role} wants {wanted:?} ({named:?}), reaches {opened:?}");
            instance(&objects, role, policy).with_context(|| format!("{set}: {role}"))?;
        }
        for role in ["edge", "media"] {
            // Telephones and browsers are everywhere.
            let policy = policy(&objects, role)?;
            ensure!(policy.is_none_or(|policy| policy["policyTypes"] == json!(["Ingress"])), "{set}: {role}");
        }
    }
    // The rows above compare what the chart makes with what the chart wrote: these are from outside.
    let objects = rendered("minimal", &ELSEWHERE)?;
    for (role, port) in [("records", 9_000), ("acd", 80), ("call", 14_317), ("console", 12_380)] {
        let policy = policy(&objects, role)?.context("a policy")?;
        let reached = opened(rules(policy, "egress"), &Value::Null)?;
        ensure!(reached.contains(&("TCP".to_owned(), port)), "{role} does not reach {port}: {reached:?}");
    }
    Ok(())
}

/// Who stores recordings in S3 without keys of its own asks for them at one address, and only at it.
fn instance(objects: &Objects, role: &str, policy: &Value) -> Result<()> {
    let store = &objects.node_config(role)?["media"]["recording"]["store"];
    let env = objects.container(role)?["env"].to_string();
    let asks = store["kind"] == "s3" && !env.contains("SECRET_ACCESS_KEY");
    let cidrs: &[&str] = if asks { &["169.254.169.254/32"] } else { &[] };
    asks_at(policy, cidrs)
}

/// The addresses that a policy opens beside the ports that it opens everywhere: for HTTP.
fn asks_at(policy: &Value, cidrs: &[&str]) -> Result<()> {
    let narrow: Vec<&Value> = rules(policy, "egress").iter().filter(|rule| !rule["to"].is_null()).collect();
    let to: Vec<Value> = cidrs.iter().map(|cidr| json!({"ipBlock": {"cidr": cidr}})).collect();
    let wanted = json!({"to": to, "ports": [{"port": 80, "protocol": "TCP"}]});
    ensure!(narrow == if cidrs.is_empty() { vec![] } else { vec![&wanted] }, "{narrow:?}");
    Ok(())
}

const ANNOTATED: &str =
    r#"serviceAccount.annotations={"eks.amazonaws.com/role-arn":"arn:aws:iam::123456789012:role/r"}"#;
const ELSEWHERE_STS: &str =
    r#"records.extraEnv=[{"name":"AWS_ENDPOINT_URL_STS","value":"https://sts.example.com:8443"}]"#;

/// Records pods reach whoever gives the bucket's credentials; no way but the Secret's puts keys into a pod.
#[test]
fn pods_reach_who_gives_the_credentials_of_the_bucket() -> Result<()> {
    let ports = "networkPolicy.egress.ports=[5432]";
    let store = r#"recordings.s3.endpoint="http://minio.storage:9000""#;
    let machine = "169.254.169.254/32";
    let agent = ["169.254.170.23/32", "fd00:ec2::23/128"];
    let pod_identity = r#"recordings.s3.credentials="podIdentity""#;
    let own_account = [
        r#"recordings.s3.credentials="webIdentity""#,
        "serviceAccount.create=false",
        r#"serviceAccount.name="mine""#,
    ];
    for (settings, cidrs, port) in [
        (&[ports, store][..], &[machine][..], None),
        (&[ports], &[machine], Some(443)),
        (&[ports, store, ANNOTATED], &[], Some(443)),
        (&[ports, store, own_account[0], own_account[1], own_account[2]], &[], Some(443)),
        (&[ports, store, ANNOTATED, ELSEWHERE_STS], &[], Some(8_443)),
        (&[ports, store, ANNOTATED, r#"recordings.s3.credentials="instance""#], &[machine], None),
        (&[ports, store, pod_identity], &agent, None),
        (&[ports, store, ANNOTATED, r#"recordings.s3.existingSecret="keys""#], &[], None),
    ] {
        let objects = rendered("minimal", settings)?;
        let policy = policy(&objects, "records")?.context("no policy")?;
        asks_at(policy, cidrs).with_context(|| format!("{settings:?}"))?;
        let everywhere = rules(policy, "egress").iter().filter(|rule| rule["to"].is_null());
        let reached = opened(everywhere, &Value::Null)?;
        for asked in [443, 8_443] {
            let reaches = reached.contains(&("TCP".to_owned(), asked));
            ensure!(reaches == (port == Some(asked)), "{settings:?}: {asked} of {reached:?}");
        }
        for role in ["media", "records"] {
            let keyed = objects.container(role)?["env"].to_string().contains("SECRET_ACCESS_KEY");
            ensure!(keyed == settings.iter().any(|s| s.contains("existingSecret")), "{role}, {settings:?}");
        }
        let acd =
            opened(rules(self::policy(&objects, "acd")?.context("no policy")?, "egress"), &Value::Null)?;
        ensure!(!acd.contains(&("TCP".to_owned(), 443)), "{settings:?}: acd reaches {acd:?}");
    }
    Ok(())
}
