// An agent's browser for the system tests: one command a line on standard input, one answer a line on standard output.
//
//   node driver.mjs TONE.wav      the WAV file is what the microphone hears, again and again
//   {"id": 1, "do": "click", "testid": "go-ready"}  →  {"id": 1, "ok": true}
//
// The end of standard input closes the browser.
import { createInterface } from 'node:readline';
import { openBrowser } from '../../../services/web/e2e/browser.mjs';

const microphone = process.argv[2];
// %noloop is not given: the file begins anew at its end.
const browser = await openBrowser({ args: [`--use-file-for-fake-audio-capture=${microphone}`] });
const page = browser.context.pages()[0] ?? (await browser.context.newPage());

// A steady tone is what noise suppression takes away: the agent has switched the processing off.
await page.addInitScript(() => localStorage.setItem('trunkline.audio', JSON.stringify({ processing: false, ring: false })));

// From the first moment of every page: listens to what the page's audio element plays, notes when a tone was first
// heard, and keeps the last seconds.
await page.addInitScript(() => {
  const KEEP_S = 10;
  const heard = (window.trunklineHeard = { rate: 0, total: 0, chunks: [], first: {} });
  const amplitude = (samples, rate, hz) => {
    const omega = (2 * Math.PI * hz) / rate;
    let one = 0;
    let two = 0;
    for (const sample of samples) [one, two] = [sample + 2 * Math.cos(omega) * one - two, one];
    return (2 * Math.hypot(one - two * Math.cos(omega), two * Math.sin(omega))) / samples.length;
  };
  let source = null;
  let stream = null;
  let audio = null;
  let tap = null;
  const attach = () => {
    const now = document.querySelector('[data-testid="remote-audio"]')?.srcObject ?? null;
    if (now === stream) return;
    source?.disconnect();
    source = null;
    stream = now;
    if (!stream) return;
    audio ??= new AudioContext();
    heard.rate = audio.sampleRate;
    if (!tap) {
      tap = audio.createScriptProcessor(1024, 1, 1);
      tap.connect(audio.destination);
      tap.onaudioprocess = (event) => {
        const samples = new Float32Array(event.inputBuffer.getChannelData(0));
        heard.chunks.push(samples);
        heard.total += samples.length;
        if (heard.chunks.length * 1024 > KEEP_S * heard.rate) heard.chunks.shift();
        for (const hz of [440, 523, 1000]) {
          if (!(hz in heard.first) && amplitude(samples, heard.rate, hz) > 0.05) heard.first[hz] = Date.now();
        }
      };
    }
    source = audio.createMediaStreamSource(stream);
    source.connect(tap);
  };
  setInterval(attach, 20);
});

const find = (command) => (command.selector ? page.locator(command.selector).first() : page.getByTestId(command.testid).first());

const commands = {
  goto: (command) => page.goto(command.url).then(() => undefined),
  click: (command) => find(command).click({ timeout: command.ms ?? 10_000 }),
  fill: (command) => find(command).fill(command.value),
  select: (command) => find(command).selectOption(command.value).then(() => undefined),
  wait: (command) => find(command).waitFor({ timeout: command.ms ?? 10_000, state: command.state ?? 'visible' }),
  text: (command) => find(command).textContent({ timeout: command.ms ?? 10_000 }),
  attribute: (command) => find(command).getAttribute(command.name, { timeout: command.ms ?? 10_000 }),
  evaluate: (command) => page.evaluate(command.script),
  screenshot: (command) => page.screenshot({ path: command.path }).then(() => undefined),
  url: () => page.url(),
  problems: () => browser.problems,

  /** What was heard from now on for so long, as base64 of 16-bit samples. */
  async listen(command) {
    return page.evaluate(async (ms) => {
      const heard = window.trunklineHeard;
      const from = heard.total;
      const deadline = Date.now() + ms + 5_000;
      while (heard.total - from < (heard.rate * ms) / 1000 || heard.rate === 0) {
        if (Date.now() > deadline) break;
        await new Promise((resolve) => setTimeout(resolve, 20));
      }
      const wanted = Math.min(heard.total - from, (heard.rate * ms) / 1000) | 0;
      const all = heard.chunks.flatMap((chunk) => [...chunk]).slice(-(heard.total - from)).slice(0, wanted);
      const bytes = new Uint8Array(all.length * 2);
      const view = new DataView(bytes.buffer);
      all.forEach((sample, n) => view.setInt16(n * 2, Math.max(-1, Math.min(1, sample)) * 32767, true));
      let text = '';
      for (const byte of bytes) text += String.fromCharCode(byte);
      return { rate: heard.rate || 48_000, pcm: btoa(text) };
    }, command.ms);
  },

  /** Reloads the page and tells after how many milliseconds a tone was heard again. */
  async reload(command) {
    const begun = Date.now();
    await page.reload({ waitUntil: 'commit' });
    const first = await page.waitForFunction((hz) => window.trunklineHeard?.first[hz], command.hz, { timeout: command.ms, polling: 20 });
    return (await first.jsonValue()) - begun;
  },
};

console.log(JSON.stringify({ ready: true }));
for await (const line of createInterface({ input: process.stdin })) {
  const command = JSON.parse(line);
  let answer;
  try {
    const value = await commands[command.do](command);
    answer = { id: command.id, ok: true, value: value ?? null };
  } catch (error) {
    answer = { id: command.id, ok: false, error: `${error.message ?? error}`.slice(0, 2_000) };
  }
  console.log(JSON.stringify(answer));
}
await browser.close();
