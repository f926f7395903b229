//! `cargo xtask kubernetes`: the chart against the real tools. Helm 3 and 4, helm-unittest, kube-apiserver, Compose's loader
//! and the custom resources come from the Go module proxy, are built once into `target/tools` and built anew when
//! `tests/kubernetes/tools/versions` asks for another version. What the operator's tests want of it is built along
//! ([`operations::tools`]).

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    thread::{self, JoinHandle},
};

use anyhow::{Context, Result, ensure};
use clap::Args;

use crate::{
    image, operations, packages,
    process::Step,
    root,
    suite::{Order, Suite},
    target, web,
};

/// What the stage can be told.
#[derive(Args, Clone, Debug, Default)]
pub struct Options {
    /// Only build the tools (helm 3 and 4, helm-unittest, kube-apiserver, compose-config, custom resources, loki-select) into
    /// target/tools.
    #[arg(long)]
    tools: bool,
}

/// Files of custom resources, by project: its module, and the files in it.
const DEFINITIONS: &[(&str, &str, &[&str])] = &[
    (
        "prometheus-operator",
        "github.com/prometheus-operator/prometheus-operator",
        &[
            "example/prometheus-operator-crd/monitoring.coreos.com_podmonitors.yaml",
            "example/prometheus-operator-crd/monitoring.coreos.com_prometheusrules.yaml",
        ],
    ),
    (
        "cert-manager",
        "github.com/cert-manager/cert-manager",
        &["deploy/crds/cert-manager.io_certificates.yaml", "deploy/crds/cert-manager.io_issuers.yaml"],
    ),
    (
        "gateway-api",
        "sigs.k8s.io/gateway-api",
        &["config/crd/standard/gateway.networking.k8s.io_httproutes.yaml"],
    ),
    ("keda", "github.com/kedacore/keda/v2", &["config/crd/bases/keda.sh_scaledobjects.yaml"]),
];

/// `cluster` waits for pods longer than all the others take.
const ORDER: Order<'_> = Order { lanes: 2, long: &["cluster", "apiserver", "advertised"], alone: &[] };

/// How a program comes about.
enum Source {
    /// `go install PACKAGE@VERSION`, whose program is called so.
    Install { package: &'static str, program: &'static str },
    /// `go build PACKAGE` in a module of ours that says which versions of its parts it takes.
    Module { folder: &'static str, package: &'static str },
}

/// `cargo xtask kubernetes`.
pub fn run(options: &Options) -> Result<()> {
    if options.tools {
        return tools();
    }
    packages::for_tests()?;
    web::build()?;
    stage(&Suite::build()?)
}

/// Builds what is missing under `target/tools`, in the background: long before the tests want it, first what the operator's
/// tests want, which come first.
pub fn begin() -> JoinHandle<Result<()>> {
    thread::spawn(tools)
}

/// The stage of `cargo xtask test`. The tools are built first when [`begin`] has not done so.
pub fn stage(suite: &Suite) -> Result<()> {
    tools()?;
    suite.run_in(
        ORDER,
        "Kubernetes: the chart, a real API server, pods as processes",
        |folder| folder == Path::new("tests/kubernetes"),
        &["--test-threads=2"],
        &[("TRUNKLINE_ROOT", root())],
    )?;
    image::stage()
}

/// Every tool, in the version that is wanted.
fn tools() -> Result<()> {
    operations::tools()?;
    let versions = Versions::read()?;
    programs(&versions)?;
    for (project, module, files) in DEFINITIONS {
        let path = versions.place("crds").join(format!("{project}.yaml"));
        versions.when_missing(project, "", &path, |version| {
            Step::new(format!("custom resources of {project} {version}"), "go")
                .args(["mod", "download", &format!("{module}@{version}")])
                .directory(std::env::temp_dir())
                .run()?;
            collect(&module_folder(module, version)?, files, &path)
        })?;
    }
    Ok(())
}

fn programs(versions: &Versions) -> Result<()> {
    let kubernetes = minor(versions.wanted("kube-apiserver")?)?;
    let install = |package, program| Source::Install { package, program };
    let module = |folder, package| Source::Module { folder, package };
    // As the makers' own builds set them: which version this is, and which Kubernetes it takes for the newest.
    let helm3 = format!(
        "-X helm.sh/helm/v3/internal/version.version={{version}} -X helm.sh/helm/v3/pkg/lint/rules.k8sVersionMajor=1 \
         -X helm.sh/helm/v3/pkg/lint/rules.k8sVersionMinor={kubernetes} -X helm.sh/helm/v3/pkg/chartutil.k8sVersionMajor=1 \
         -X helm.sh/helm/v3/pkg/chartutil.k8sVersionMinor={kubernetes}"
    );
    let helm4 = "-X helm.sh/helm/v4/internal/version.version={version}".to_owned();
    let server = format!(
        "-X k8s.io/component-base/version.gitVersion={{version}} -X k8s.io/component-base/version.gitMajor=1 \
         -X k8s.io/component-base/version.gitMinor={kubernetes}"
    );
    for (name, source, settings) in [
        ("helm3", install("helm.sh/helm/v3/cmd/helm", "helm"), helm3),
        ("helm4", install("helm.sh/helm/v4/cmd/helm", "helm"), helm4),
        (
            "helm-unittest",
            module("unittest", "github.com/helm-unittest/helm-unittest/cmd/helm-unittest"),
            String::new(),
        ),
        ("kube-apiserver", module("apiserver", "k8s.io/kubernetes/cmd/kube-apiserver"), server),
        ("compose-config", module("compose", "."), String::new()),
    ] {
        let path = versions.place("bin").join(name);
        versions.when_missing(name, &own_source(&source)?, &path, |version| {
            build(name, version, &source, &settings.replace("{version}", version), &path)
        })?;
    }
    Ok(())
}

fn build(name: &str, version: &str, source: &Source, settings: &str, path: &Path) -> Result<()> {
    let flags = format!("-s -w {settings}");
    let step = Step::new(format!("{name} {version} (built once)"), "nice").env("CGO_ENABLED", "0");
    match source {
        Source::Install { package, program } => {
            let place = path.with_extension("build");
            step.args(["-n", "19", "go", "install", "-trimpath", "-buildvcs=false", "-ldflags", &flags])
                .args([format!("{package}@{version}")])
                .env("GOBIN", &place)
                .directory(std::env::temp_dir())
                .run()?;
            fs::rename(place.join(program), path).with_context(|| format!("{}", path.display()))?;
            fs::remove_dir(&place).with_context(|| format!("{}", place.display()))
        }
        Source::Module { folder, package } => {
            let folder = root().join("tests/kubernetes/tools").join(folder);
            let manifest = folder.join("go.mod");
            let pinned = fs::read_to_string(&manifest).with_context(|| format!("{}", manifest.display()))?;
            ensure!(
                pinned.contains(version),
                "{name}: versions asks for {version}, {} does not",
                manifest.display()
            );
            go_build(step, &folder, package, &flags, path)
        }
    }
}

/// What a program that is our own is built from, for below its version.
fn own_source(source: &Source) -> Result<String> {
    let Source::Module { folder, package: "." } = source else { return Ok(String::new()) };
    let folder = root().join("tests/kubernetes/tools").join(folder);
    let mut all = "\n".to_owned();
    for name in operations::SOURCES {
        let path = folder.join(name);
        all += &fs::read_to_string(&path).with_context(|| format!("{}", path.display()))?;
    }
    Ok(all)
}

/// `go build PACKAGE` in a module's folder, by a step that is ready for it.
pub fn go_build(step: Step, folder: &Path, package: &str, flags: &str, path: &Path) -> Result<()> {
    step.args(["-n", "19", "go", "build", "-trimpath", "-buildvcs=false", "-ldflags", flags, "-o"])
        .args([path])
        .args([package])
        .directory(folder)
        .run()
}

/// Where the module proxy's client keeps a module.
fn module_folder(module: &str, version: &str) -> Result<PathBuf> {
    let output = Command::new("go").args(["env", "GOMODCACHE"]).output().context("go env")?;
    let cache = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    Ok(PathBuf::from(cache).join(format!("{module}@{version}")))
}

fn collect(folder: &Path, files: &[&str], path: &Path) -> Result<()> {
    let mut all = String::new();
    for file in files {
        let file = folder.join(file);
        let text = fs::read_to_string(&file).with_context(|| format!("{}", file.display()))?;
        all += "---\n";
        all += &text;
    }
    fs::write(path, all).with_context(|| format!("{}", path.display()))
}

/// The wanted versions, and where what is there is noted.
struct Versions {
    lines: Vec<(String, String)>,
    tools: PathBuf,
}

impl Versions {
    fn read() -> Result<Self> {
        let path = root().join("tests/kubernetes/tools/versions");
        let text = fs::read_to_string(&path).with_context(|| format!("{}", path.display()))?;
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        let lines = lines.filter_map(|line| line.split_once(char::is_whitespace));
        let lines = lines.map(|(name, version)| (name.to_owned(), version.trim().to_owned())).collect();
        let versions = Self { lines, tools: target().join("tools") };
        for folder in ["bin", "crds", "versions"] {
            let path = versions.place(folder);
            fs::create_dir_all(&path).with_context(|| format!("{}", path.display()))?;
        }
        Ok(versions)
    }

    fn place(&self, folder: &str) -> PathBuf {
        self.tools.join(folder)
    }

    fn wanted(&self, name: &str) -> Result<&str> {
        let found = self.lines.iter().find(|(tool, _)| tool == name);
        found.map(|(_, version)| version.as_str()).with_context(|| format!("tools/versions lacks {name}"))
    }

    /// Makes `path` when it is not there in the wanted version and from its own source, and notes which they are.
    fn when_missing(
        &self,
        name: &str,
        own: &str,
        path: &Path,
        make: impl FnOnce(&str) -> Result<()>,
    ) -> Result<()> {
        let (wanted, stamp) = (self.wanted(name)?, self.place("versions").join(name));
        let noted = format!("{wanted}{own}");
        let there = fs::read_to_string(&stamp).unwrap_or_default();
        if path.is_file() && there == noted {
            return Ok(());
        }
        make(wanted).with_context(|| format!("{name} {wanted}"))?;
        fs::write(&stamp, noted).with_context(|| format!("{}", stamp.display()))
    }
}

/// `36` of `v1.36.3`.
fn minor(version: &str) -> Result<&str> {
    version.split('.').nth(1).with_context(|| format!("{version:?} is no version of Kubernetes"))
}
