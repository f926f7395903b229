//! A headless Chromium as the agent's browser, through `browser/driver.mjs`.

use std::{fs::File, path::Path, process::Stdio, time::Duration};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines},
    process::{Child, ChildStdin, ChildStdout, Command},
    sync::Mutex,
    time::timeout,
};

use crate::{
    audio::{Sound, from_pcm},
    here, s,
};

const STARTED_WITHIN: Duration = s(40);
const ANSWER_WITHIN: Duration = s(45);

/// The browser and its one page.
#[derive(Debug)]
pub struct Browser {
    // Killing the driver closes its pipe to Chromium, which then ends too.
    _driver: Child,
    talk: Mutex<Talk>,
}

#[derive(Debug)]
struct Talk {
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
    next: u64,
}

impl Browser {
    /// Starts it; `microphone` is the WAV file that its microphone hears.
    pub async fn start(folder: &Path, microphone: &Path) -> Result<Self> {
        let log = File::create(folder.join("browser.err"))?;
        let mut driver = Command::new("node")
            .arg(here().join("browser/driver.mjs"))
            .arg(microphone)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .context("node could not be started")?;
        let input = driver.stdin.take().context("no input")?;
        let output = BufReader::new(driver.stdout.take().context("no output")?).lines();
        let mut talk = Talk { input, output, next: 1 };
        let ready = talk.read(STARTED_WITHIN).await.with_context(|| {
            let text = std::fs::read_to_string(folder.join("browser.err")).unwrap_or_default();
            format!("the browser did not start: {text}")
        })?;
        ensure!(ready["ready"] == true, "{ready}");
        Ok(Self { _driver: driver, talk: Mutex::new(talk) })
    }

    /// Signs in as an agent at the sign-in page and waits for the desk.
    pub async fn sign_in(&self, url: &str, name: &str) -> Result<()> {
        self.run(json!({ "do": "goto", "url": url })).await?;
        self.fill("signin-name", name).await?;
        self.fill("signin-password", &format!("{name}-dev")).await?;
        self.click("signin-submit").await?;
        self.wait("state").await
    }

    /// Clicks.
    pub async fn click(&self, testid: &str) -> Result<()> {
        self.run(json!({ "do": "click", "testid": testid })).await.map(drop)
    }

    /// Types.
    pub async fn fill(&self, testid: &str, value: &str) -> Result<()> {
        self.run(json!({ "do": "fill", "testid": testid, "value": value })).await.map(drop)
    }

    /// Chooses.
    pub async fn select(&self, testid: &str, value: &str) -> Result<()> {
        self.run(json!({ "do": "select", "testid": testid, "value": value })).await.map(drop)
    }

    /// Waits until something is visible.
    pub async fn wait(&self, testid: &str) -> Result<()> {
        self.run(json!({ "do": "wait", "testid": testid })).await.map(drop)
    }

    /// Waits until a CSS selector matches something in the page, visible or not.
    pub async fn wait_for(&self, selector: &str, limit: Duration) -> Result<()> {
        let ms = limit.as_millis() as u64;
        self.run(json!({ "do": "wait", "selector": selector, "state": "attached", "ms": ms })).await.map(drop)
    }

    /// Waits for a state of the agent.
    pub async fn state(&self, state: &str) -> Result<()> {
        self.wait_for(&format!("[data-testid=\"state\"][data-state=\"{state}\"]"), s(15)).await
    }

    /// The text of an element.
    pub async fn text(&self, testid: &str) -> Result<String> {
        let value = self.run(json!({ "do": "text", "testid": testid })).await?;
        Ok(value.as_str().unwrap_or_default().to_owned())
    }

    /// An attribute of an element.
    pub async fn attribute(&self, testid: &str, name: &str) -> Result<Option<String>> {
        let value = self.run(json!({ "do": "attribute", "testid": testid, "name": name })).await?;
        Ok(value.as_str().map(str::to_owned))
    }

    /// Opens an address in the page.
    pub async fn goto(&self, url: &str) -> Result<()> {
        self.run(json!({ "do": "goto", "url": url })).await.map(drop)
    }

    /// Evaluates an expression in the page.
    pub async fn evaluate(&self, script: &str) -> Result<Value> {
        self.run(json!({ "do": "evaluate", "script": script })).await
    }

    /// What the agent hears, from now on for so long.
    pub async fn hear(&self, length: Duration) -> Result<Sound> {
        let value = self.run(json!({ "do": "listen", "ms": length.as_millis() as u64 })).await?;
        let rate = value["rate"].as_u64().context("no rate")?;
        let pcm = decode_base64(value["pcm"].as_str().context("no samples")?)?;
        Ok(from_pcm(&pcm, u32::try_from(rate)?))
    }

    /// Reloads the page and returns after how long a tone was heard again.
    pub async fn reload_until_heard(&self, hz: u32, limit: Duration) -> Result<Duration> {
        let value = self.run(json!({ "do": "reload", "hz": hz, "ms": limit.as_millis() as u64 })).await?;
        Ok(Duration::from_millis(value.as_u64().context("no time")?))
    }

    /// Script errors and refusals of the Content Security Policy.
    pub async fn problems(&self) -> Result<Vec<String>> {
        let value = self.run(json!({ "do": "problems" })).await?;
        let list = value.as_array().context("no list")?;
        Ok(list.iter().map(|p| p.as_str().unwrap_or_default().to_owned()).collect())
    }

    /// Keeps a picture of the page.
    pub async fn picture(&self, path: &Path) -> Result<()> {
        self.run(json!({ "do": "screenshot", "path": path })).await.map(drop)
    }

    async fn run(&self, mut command: Value) -> Result<Value> {
        let mut talk = self.talk.lock().await;
        let id = talk.next;
        talk.next += 1;
        command["id"] = json!(id);
        talk.input.write_all(format!("{command}\n").as_bytes()).await.context("the driver has ended")?;
        let answer = talk.read(ANSWER_WITHIN).await.with_context(|| command.to_string())?;
        ensure!(answer["id"] == id, "{answer} is no answer to {command}");
        if answer["ok"] == true {
            Ok(answer["value"].clone())
        } else {
            bail!("browser: {command}: {}", answer["error"].as_str().unwrap_or_default())
        }
    }
}

impl Talk {
    async fn read(&mut self, limit: Duration) -> Result<Value> {
        let line = timeout(limit, self.output.next_line()).await.context("no answer of the browser")??;
        Ok(serde_json::from_str(&line.context("the driver has ended")?)?)
    }
}

fn decode_base64(text: &str) -> Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3);
    let (mut bits, mut count) = (0_u32, 0);
    for c in text.bytes().filter(|c| *c != b'=') {
        let value = match c {
            b'A'..=b'Z' => c - b'A',
            b'a'..=b'z' => c - b'a' + 26,
            b'0'..=b'9' => c - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            other => bail!("{other} is not base64"),
        };
        bits = bits << 6 | u32::from(value);
        count += 6;
        if count >= 8 {
            count -= 8;
            bytes.push((bits >> count) as u8);
            bits &= (1 << count) - 1;
        }
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_read() {
        assert_eq!(decode_base64("TW9vbg==").unwrap(), b"Moon");
        assert_eq!(decode_base64("").unwrap(), b"");
        assert!(decode_base64("a b").is_err());
    }
}
