//! Layers, and errors that lead to the mistake.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

use std::{fs, path::PathBuf, time::Duration};

use serde::Deserialize;
use trunkline_config::{ConfigError, Listen, Loader, Origin, PortRange, Secret, Span};

#[derive(Debug, Deserialize, PartialEq)]
#[serde(default, deny_unknown_fields)]
struct Media {
    rtp_ports: PortRange,
    silence: Span,
    sessions: u32,
    name: String,
    token: Secret,
}

impl Default for Media {
    fn default() -> Self {
        Self {
            rtp_ports: PortRange::new(40_000, 40_999).unwrap(),
            silence: Duration::from_secs(20).into(),
            sessions: 100,
            name: "media".to_owned(),
            token: Secret::default(),
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(dead_code)]
struct Trunk {
    name: String,
    listen: Listen,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Root {
    #[serde(default)]
    media: Media,
    #[serde(default)]
    trunks: Vec<Trunk>,
}

struct Files(tempfile::TempDir);

impl Files {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }
    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.path().join(name);
        fs::write(&path, text).unwrap();
        path
    }
}

fn vars<const N: usize>(pairs: [(&str, &str); N]) -> Vec<(String, String)> {
    pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec()
}

#[test]
fn later_layers_win_and_the_rest_stays() {
    let files = Files::new();
    let base = files.write("base.yaml", "media:\n  sessions: 10\n  silence: 5s\n  name: base\n");
    let site = files.write("site.yaml", "media:\n  sessions: 20\n");
    let loader = Loader::new()
        .file(base)
        .unwrap()
        .file(site)
        .unwrap()
        .env(
            "TRUNKLINE_",
            vars([
                ("TRUNKLINE_MEDIA__RTP_PORTS", "50000-50009"),
                ("TRUNKLINE_MEDIA__NAME", "7"),
                ("PATH", "/x"),
            ]),
        )
        .set("media.sessions", "30", "--sessions");
    let media: Media = loader.section("media").unwrap();
    assert_eq!((media.sessions, *media.silence), (30, Duration::from_secs(5)));
    assert_eq!(
        (media.rtp_ports.to_string().as_str(), media.name.as_str()),
        ("50000-50009", "7"),
        "a text that looks like a number"
    );
    assert_eq!(loader.load::<Root>().unwrap().media, media);
    assert_eq!(Loader::new().section::<Media>("media").unwrap(), Media::default());
}

#[test]
fn kubernetes_service_variables_are_not_ours() {
    let injected = vars([
        ("TRUNKLINE_EDGE_SERVICE_HOST", "10.0.0.1"),
        ("TRUNKLINE_EDGE_PORT_5060_TCP", "tcp://10.0.0.1:5060"),
    ]);
    assert!(Loader::new().env("TRUNKLINE_", injected).only(&["media"]).is_ok());
    let ours = vars([("TRUNKLINE__MDEIA", "1")]);
    let error = Loader::new().env("TRUNKLINE_", ours).only(&["media"]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "environment variable TRUNKLINE__MDEIA: unknown key mdeia; did you mean media?"
    );
}

#[test]
fn an_unknown_key_is_shown_with_its_line_and_the_nearest_known_one() {
    let files = Files::new();
    let path = files.write("c.yaml", "# site\nmedia:\n  sessions: 1\n  rtp_port: 1-2\n");
    let loader = Loader::new().file(&path).unwrap();
    for error in [loader.load::<Root>().unwrap_err(), loader.section::<Media>("media").unwrap_err()] {
        let expected = format!("{}:4: unknown key media.rtp_port; did you mean rtp_ports?", path.display());
        assert_eq!(error.to_string(), expected);
    }
    let error = Loader::new().set("media.zzz", "1", "--zzz").section::<Media>("media").unwrap_err();
    let text = error.to_string();
    assert!(text.starts_with("flag --zzz: unknown key media.zzz; known here: rtp_ports, silence"), "{text}");
}

#[test]
fn a_wrong_value_is_shown_with_its_line_and_what_would_be_right() {
    let files = Files::new();
    let path = files.write("c.yaml", "media:\n  silence: 20\ntrunks:\n  - name: a\n    listen: 127.0.0.1:5060\n  - name: b\n    listen: nowhere\n");
    let loader = Loader::new().file(&path).unwrap();
    let text = loader.section::<Media>("media").unwrap_err().to_string();
    assert!(
        text.starts_with(&format!("{}:2: media.silence: ", path.display())) && text.contains("such as 20s"),
        "{text}"
    );
    let text = loader.set("media.silence", "20s", "--silence").load::<Root>().unwrap_err().to_string();
    assert!(
        text.starts_with(&format!("{}:7: trunks[1].listen: ", path.display()))
            && text.contains("127.0.0.1:5060"),
        "{text}"
    );
}

#[test]
fn a_missing_key_is_named() {
    let files = Files::new();
    let path = files.write("c.yaml", "trunks:\n  - listen: 127.0.0.1:5060\n");
    let error = Loader::new().file(&path).unwrap().load::<Root>().unwrap_err();
    assert_eq!(
        error.to_string(),
        format!("{}:2: trunks[0].name: it is required, but missing", path.display())
    );
}

#[test]
fn what_is_not_yaml_is_shown_with_its_line() {
    let files = Files::new();
    let path = files.write("c.yaml", "media:\n  sessions: 1\n  sessions: 2\n");
    assert!(matches!(Loader::new().file(&path), Err(ConfigError::Syntax { .. })), "a key given twice");
    let path = files.write("d.yaml", "media:\n  a: [1\n");
    let error = Loader::new().file(&path).unwrap_err();
    assert!(
        matches!(&error, ConfigError::Syntax { origin: Origin::File { line: Some(_), .. }, .. }),
        "{error:?}"
    );
    let list = files.write("e.yaml", "- a\n");
    assert!(Loader::new().file(&list).unwrap_err().to_string().contains("mapping of sections"));
    assert!(matches!(Loader::new().file(files.0.path().join("absent")), Err(ConfigError::Read { .. })));
    assert!(
        Loader::new()
            .file(files.write("empty.yaml", "# nothing\n"))
            .unwrap()
            .load::<Root>()
            .unwrap()
            .trunks
            .is_empty()
    );
}

#[test]
fn secrets_come_from_files_and_stay_out_of_errors() {
    let files = Files::new();
    let secret = files.write("token", "s3cret\n");
    let path = files.write("c.yaml", &format!("media:\n  token: {{file: {}}}\n", secret.display()));
    let media: Media = Loader::new().file(path).unwrap().section("media").unwrap();
    assert_eq!(media.token.expose(), "s3cret");
    assert!(!format!("{media:?}").contains("s3cret"));
    let text = Loader::new()
        .env("TRUNKLINE_", vars([("TRUNKLINE_MEDIA__TOKEN", "[s3cret")]))
        .section::<Media>("media")
        .map(|media| media.token.expose().clone());
    assert_eq!(text.unwrap(), "[s3cret", "a text that is not YAML is taken as it is");
    let text = Loader::new().set("media.token", "12345", "--token").section::<Media>("media").unwrap();
    assert_eq!(text.token.expose(), "12345");
    let digits = files.write("digits.yaml", "media:\n  token: 998877\n");
    let error = Loader::new().file(digits).unwrap().section::<Media>("media").unwrap_err().to_string();
    assert!(
        error.contains("media.token: write the secret in quotes") && !error.contains("998877"),
        "{error}"
    );
    let absent = Loader::new()
        .set("media.token", "{file: /nowhere/token}", "--token")
        .section::<Media>("media")
        .unwrap_err();
    assert!(absent.to_string().contains("/nowhere/token"), "{absent}");
}
