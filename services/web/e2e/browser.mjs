// The system's Chromium with fake audio, and a desk that is signed in at the mock.
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { chromium } from 'playwright-core';

const FLAGS = [
  '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking',
  '--disable-component-update', '--disable-sync', '--use-fake-ui-for-media-stream', '--use-fake-device-for-media-stream',
  '--autoplay-policy=no-user-gesture-required', '--allow-loopback-in-peer-connection',
];

/** A fresh profile; `close` ends the browser and removes it. Errors of pages are collected. */
export async function openBrowser({ scheme = 'light', locale = 'en-GB', args = [], width = 1440, height = 900 } = {}) {
  const profile = await mkdtemp(join(tmpdir(), 'trunkline-web-'));
  const context = await chromium.launchPersistentContext(profile, {
    executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium',
    headless: true, args: [...FLAGS, ...args], colorScheme: scheme, locale,
    viewport: { width, height }, ignoreDefaultArgs: ['--mute-audio'],
  });
  context.setDefaultTimeout(10_000);
  const problems = [];
  const watch = (page) => {
    page.on('pageerror', (error) => problems.push(`${page.url()}: ${error.message}`));
    page.on('console', (message) => {
      const noise = /status of (401|403|404)|WebSocket connection|ERR_|net::/;
      if (message.type() === 'error' && !noise.test(message.text())) problems.push(`${page.url()}: ${message.text()}`);
    });
  };
  context.on('page', watch);
  context.pages().forEach(watch);
  return {
    context, problems,
    close: async () => {
      await context.close();
      await rm(profile, { recursive: true, force: true });
    },
  };
}

export async function signIn(page, mock, name) {
  await page.goto(mock.url);
  await page.getByTestId('signin-name').fill(name);
  await page.getByTestId('signin-password').fill(`${name}-dev`);
  await page.getByTestId('signin-submit').click();
}

/** Opens the page that stands for the media node and waits until it can answer. */
export async function openMedia(context, mock) {
  const page = await context.newPage();
  await page.goto(`${mock.url}/mock/media`);
  await page.getByText('ready').waitFor();
  return page;
}

export const state = (page, name) => page.locator(`[data-testid="state"][data-state="${name}"]`).waitFor();

/** Loudness of what the page's audio element plays, seen from outside: RMS over half a second. */
export async function heard(page) {
  return page.evaluate(async () => {
    const stream = document.querySelector('[data-testid="remote-audio"]').srcObject;
    if (!stream) return 0;
    const audio = new AudioContext();
    const analyser = new AnalyserNode(audio, { fftSize: 8192 });
    audio.createMediaStreamSource(stream).connect(analyser);
    await new Promise((resolve) => setTimeout(resolve, 500));
    const samples = new Float32Array(analyser.fftSize);
    analyser.getFloatTimeDomainData(samples);
    await audio.close();
    return Math.sqrt(samples.reduce((sum, sample) => sum + sample * sample, 0) / samples.length);
  });
}

/** Waits on a condition with a deadline. */
export async function until(what, condition, ms = 10_000) {
  const end = Date.now() + ms;
  for (;;) {
    const value = await condition();
    if (value) return value;
    if (Date.now() > end) throw new Error(`not within ${ms} ms: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}
