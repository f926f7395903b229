//! Proves that what operators are told to type can be typed: every command line of the program in runbooks and in the
//! pages on installation, backup and Kubernetes is one that the program takes, and every unit of systemd is one of ours.

use std::{fs, process::Command};

use anyhow::{Context, Result, ensure};
use trunkline_operations_tests::observe::runbooks;
use trunkline_system_tests::{root, system::binary};

/// Pages besides the runbooks, and how many command lines of the program each has at least.
const PAGES: [(&str, usize); 6] = [
    ("helm/trunkline/README.md", 10),
    ("helm/trunkline/templates/NOTES.txt", 2),
    ("deploy/systemd/README.md", 2),
    ("deploy/backup/README.md", 4),
    ("deploy/image/README.md", 0),
    ("deploy/runbooks/README.md", 3),
];

/// Who follows a page at night must not find that a command has another name.
#[test]
fn the_commands_of_the_pages_exist() -> Result<()> {
    for name in runbooks::names()? {
        for line in runbooks::page(&name)?.commands {
            takes(&line).with_context(|| name.clone())?;
        }
    }
    for (page, least) in PAGES {
        let text = fs::read_to_string(root().join(page)).with_context(|| page.to_owned())?;
        let mut ours = 0;
        for line in
            if page.ends_with(".md") { code(&text) } else { text.lines().map(str::to_owned).collect() }
        {
            ours += takes(&line).with_context(|| page.to_owned())?;
        }
        ensure!(ours >= least, "{page}: only {ours} command lines were found");
    }
    Ok(())
}

/// A check that takes everything would find nothing.
#[test]
fn a_command_that_does_not_exist_is_found() -> Result<()> {
    for wrong in [
        "trunkline dreain n2 --wait --config node.yaml",
        "trunkline doctor --clust --config node.yaml",
        "kubectl exec deploy/phones-trunkline-call -- /trunkline cluster --move --config /etc/trunkline/node.yaml",
        "sudo systemctl daemon-reload && trunkline config chek --config /etc/trunkline/n1.yaml",
        "kubectl logs POD | kubectl exec -i POD -- /trunkline support-bundle --logfile - --out - > bundle.tar.gz",
        "journalctl -u trunkline -n 100",
        "journalctl --unit=trunkline@n1.timer",
        "systemctl enable --now trunkline",
    ] {
        ensure!(takes(wrong).is_err(), "{wrong} was taken");
    }
    for (right, ours) in [
        ("trunkline drain n2 --wait 600 --config node.yaml    # n2 --empties itself", 1),
        ("pg_restore --dbname=trunkline journal.dump && createdb trunkline", 0),
        ("install target/release/trunkline /usr/bin/trunkline; /usr/bin/trunkline --version", 1),
        ("journalctl -u trunkline@n1.service -n 100", 0),
        ("systemctl enable --now trunkline@NODE etcd", 0),
    ] {
        ensure!(takes(right)? == ours, "{right}: another number of commands");
    }
    let page = "Say `trunkline\n  cluster`.\n\n   ```sh\n   a \\\n     b\n   c\n   ```\n`d`";
    ensure!(code(page) == ["trunkline cluster", "a b", "c", "d"], "{:?}", code(page));
    Ok(())
}

/// What a page has as code: lines of fenced blocks, those that end in `\` with the next, and what stands between backticks.
fn code(page: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (n, part) in page.split("```").enumerate() {
        if n % 2 == 1 {
            let block = part.split_once('\n').map_or("", |(_, lines)| lines).replace("\\\n", " ");
            found.extend(block.lines().map(str::to_owned));
        } else {
            found.extend(part.split('`').skip(1).step_by(2).map(str::to_owned));
        }
    }
    let spaced = found.iter().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "));
    spaced.filter(|line| !line.is_empty()).collect()
}

/// Fails when a command in this line is one that our program or our units do not know; tells how many are our program's.
fn takes(line: &str) -> Result<usize> {
    let line = line.split(" #").next().unwrap_or(line);
    let mut ours = 0;
    for command in line.split(['|', ';', '>']).flat_map(|part| part.split("&&")) {
        // What `kubectl exec POD --` and the like start is a command too.
        let words: Vec<&str> = command.split_whitespace().collect();
        let words = match words.iter().position(|word| *word == "--") {
            Some(at) => &words[at + 1..],
            None => words.strip_prefix(&["sudo"]).unwrap_or(&words),
        };
        match words.first().map(|program| program.rsplit('/').next().unwrap_or(program)) {
            Some("trunkline") if words.len() > 1 => {
                the_program_takes(&words[1..]).with_context(|| line.to_owned())?;
                ours += 1;
            }
            Some("journalctl" | "systemctl") => there_are_units(words).with_context(|| line.to_owned())?,
            _ => {}
        }
    }
    Ok(ours)
}

/// The program has the command, and the command the options. Names in capitals stand for the reader's own.
fn the_program_takes(words: &[&str]) -> Result<()> {
    let command = words.iter().take_while(|word| !word.starts_with('-'));
    let command: Vec<&&str> =
        command.filter(|word| !word.bytes().all(|b| b.is_ascii_uppercase() || b == b'_')).collect();
    let help = Command::new(binary()?).args(&command).arg("--help").output()?;
    let text = String::from_utf8_lossy(&help.stdout).into_owned();
    ensure!(help.status.success(), "there is no such command");
    for flag in words.iter().filter(|word| word.starts_with("--")) {
        let flag = flag.split('=').next().unwrap_or(flag);
        let known =
            text.split(|c: char| c.is_whitespace() || [',', '['].contains(&c)).any(|word| word == flag);
        ensure!(known, "the command has no {flag}");
    }
    Ok(())
}

/// Units of ours are called as they are installed: `trunkline@n1` is an instance of `trunkline@.service`.
fn there_are_units(words: &[&str]) -> Result<()> {
    for (before, word) in words.iter().zip(&words[1..]) {
        let named = word.strip_prefix("--unit=");
        let unit = named.unwrap_or(word);
        let wanted = words[0] == "systemctl" || named.is_some() || ["-u", "--unit"].contains(before);
        if !wanted || !unit.starts_with("trunkline") {
            continue;
        }
        let (name, kind) = unit.rsplit_once('.').unwrap_or((unit, "service"));
        let template = name.split_once('@').map_or(name.to_owned(), |(name, _)| format!("{name}@"));
        let file = format!("deploy/systemd/{template}.{kind}");
        ensure!(root().join(&file).is_file() && !name.ends_with('@'), "{unit}: there is no {file}");
    }
    Ok(())
}
