// An agent's day against the mock, through the built pages under the real policy: sign-in, ready, ring,
// accept with real WebRTC audio, mute, hold, keypad, cut connection, reload in mid call, second tab,
// wrap-up, record, wallboard. `--shots DIR` keeps pictures of every state, light and dark.
import assert from 'node:assert/strict';
import { mkdir } from 'node:fs/promises';
import { startMock } from '../mock/server.mjs';
import { heard, openBrowser, openMedia, signIn, state, until } from './browser.mjs';

const at = process.argv.indexOf('--shots');
const shots = at > 0 ? process.argv[at + 1] : null;
if (shots) await mkdir(shots, { recursive: true });

let passed = 0;
const step = (name) => {
  passed += 1;
  console.log(`ok ${passed} - ${name}`);
};

async function journey(scheme) {
  const mock = await startMock();
  const browser = await openBrowser({ scheme, locale: scheme === 'dark' ? 'de-DE' : 'en-GB' });
  const { context } = browser;
  const shot = async (page, name) => shots && page.screenshot({ path: `${shots}/${name}-${scheme}.png` });
  try {
    await openMedia(context, mock);
    const page = await context.newPage();
    await page.goto(mock.url);
    await page.getByTestId('signin-name').fill('alice');
    await page.getByTestId('signin-password').fill('wrong');
    await page.getByTestId('signin-submit').click();
    await page.locator('#signin-error p').waitFor();
    await shot(page, 'signin');
    await signIn(page, mock, 'alice');
    await state(page, 'not_ready');
    await shot(page, 'not-ready');
    step(`${scheme}: wrong password is explained, right one leads to the desk`);

    await page.getByTestId('audio-check').click();
    await page.getByTestId('audio-dialog').waitFor();
    await until('microphone level moves', () => page.getByTestId('mic-meter').evaluate((meter) => meter.value > 0.2));
    await shot(page, 'audio-check');
    await page.keyboard.press('Escape');
    step(`${scheme}: the audio check hears the microphone`);

    await page.getByTestId('go-ready').click();
    await state(page, 'ready');
    await page.locator('[data-testid="microphone"][data-open="true"]').waitFor();
    await shot(page, 'ready');
    const agent = mock.world.agent('alice');
    const call = agent.ring();
    await page.getByTestId('ring-card').waitFor();
    assert.equal(await page.getByTestId('ring-caller').textContent(), 'Jana <i>Richter</i>');
    assert.match(await page.title(), /Support/);
    await shot(page, 'ringing');
    const clicked = Date.now();
    await page.getByTestId('ring-accept').click();
    await state(page, 'talking');
    await until('caller is heard', async () => (await heard(page)) > 0.01);
    step(`${scheme}: rings, is accepted, the caller is heard (${Date.now() - clicked} ms with 500 ms of listening)`);

    agent.say('agent', 600, 2800, 'Trunkline support, my name is Alice, how can I help?');
    agent.say('caller', 3100, 7000, 'Hello, my name is Jana Richter, I have a question about my router.');
    agent.say('caller', 7200, 8100, 'the light is', false);
    await page.locator('[data-testid="transcript"] [data-channel="caller"]').first().waitFor();
    await page.getByTestId('call-notes').fill('Router light is red.');
    await until('notes reach the server', () => agent.state.call.notes === 'Router light is red.');
    await page.getByTestId('call-keypad').click();
    await page.getByTestId('key-1').click();
    await page.keyboard.press('#');
    await until('digits reach the server', () => agent.digits === '1#');
    await page.locator('[data-testid="connection"]:not([data-quality="none"]):not([data-quality="measuring"])').waitFor();
    await shot(page, 'talking');
    await page.getByTestId('call-keypad').click();
    await page.getByTestId('call-mute').click();
    await page.locator('[data-testid="call-panel"][data-muted="true"]').waitFor();
    await page.keyboard.press('Alt+h');
    await page.locator('[data-testid="call-panel"][data-hold="true"]').waitFor();
    await shot(page, 'hold');
    await page.getByTestId('call-pause-recording').click();
    await page.locator('[data-testid="recording-state"][data-recording="paused"]').waitFor();
    await page.getByTestId('call-pause-recording').click();
    await page.locator('[data-testid="recording-state"][data-recording="on"]').waitFor();
    await page.getByTestId('call-hold').click();
    await page.getByTestId('call-mute').click();
    await page.locator('[data-testid="call-panel"][data-hold="false"][data-muted="false"]').waitFor();
    await page.getByTestId('call-transfer').click();
    await page.getByTestId('transfer-queue').selectOption('support');
    await page.getByTestId('transfer-consult').click();
    await page.getByText(scheme === 'dark' ? 'Diese Warteschlange ist voll' : 'That queue is full').waitFor();
    await page.getByTestId('transfer-queue').selectOption('sales');
    await shot(page, 'transfer');
    await page.getByTestId('transfer-consult').click();
    await page.locator('[data-testid="consultation"][data-state="waiting"]').waitFor();
    assert.ok(await page.getByTestId('call-transfer').isDisabled(), 'one consultation at a time');
    await page.locator('[data-testid="consultation"][data-state="with"]').waitFor();
    await shot(page, 'consultation');
    await page.getByTestId('consult-cancel').click();
    await page.locator('[data-testid="call-panel"][data-hold="false"]').waitFor();
    assert.equal(await page.getByTestId('consultation').count(), 0);
    step(`${scheme}: notes, keypad, mute, hold, transcript, quality (${await page.getByTestId('connection').getAttribute('data-quality')})`);

    const before = agent.sessions.size;
    mock.cutAgents();
    await page.locator('[data-testid="connection"][data-link="waiting"], [data-testid="connection"][data-link="connecting"]').waitFor();
    await page.locator('[data-testid="connection"][data-link="open"]').waitFor();
    assert.equal(agent.sessions.size, before, 'the session is resumed, not made anew');
    assert.ok((await heard(page)) > 0.01, 'audio does not stop with the socket');
    step(`${scheme}: a cut connection is resumed, audio goes on`);

    const offers = agent.offers;
    agent.elsewhere = true;
    mock.cutAgents();
    await page.locator('[data-testid="connection"][data-link="waiting"], [data-testid="connection"][data-link="connecting"]').waitFor();
    await page.locator('[data-testid="connection"][data-link="open"]').waitFor();
    await until('the snapshot of the other console', () => !agent.elsewhere && agent.sessions.size === before);
    assert.ok(agent.sessions.has(agent.state.microphone), 'the microphone stays with the session');
    assert.ok((await heard(page)) > 0.01, 'audio does not stop with the console');
    assert.equal(agent.offers, offers, 'no new offer for another console');
    step(`${scheme}: the session goes on at another console, audio too`);

    const moved = Date.now();
    agent.moveMedia();
    await until('a new offer', () => agent.offers === offers + 1);
    await until('the caller is heard at the other media node', async () => (await heard(page)) > 0.01);
    const took = Date.now() - moved;
    assert.ok(took < 4_000, `two-way audio again within 4 s (${took} ms, 500 of them listening)`);
    await page.locator('[data-testid="connection"]:not([data-quality="none"]):not([data-quality="measuring"])').waitFor();
    assert.equal(agent.offers, offers + 1, 'told three times, done once');
    step(`${scheme}: the media moves, one new offer, audio again in ${took} ms (500 ms of them listening)`);

    agent.sessions.clear();
    mock.cutAgents();
    await until('the call moves to the new session', () => agent.sessions.size === 1 && agent.sessions.has(agent.state.microphone));
    await until('caller is heard in the new session', async () => (await heard(page)) > 0.01);
    assert.equal(await page.getByTestId('take-over').count(), 0);
    step(`${scheme}: a session that the server forgot is made anew, with the audio`);

    await page.getByTestId('call-pause-recording').click();
    await page.locator('[data-testid="recording-state"][data-recording="paused"]').waitFor();
    const reloaded = Date.now();
    await page.reload();
    await state(page, 'talking');
    await until('audio after the reload', () => page.getByTestId('remote-audio').evaluate((audio) => audio.srcObject !== null && !audio.paused));
    await until('caller is heard after the reload', async () => (await heard(page)) > 0.01);
    const back = Date.now() - reloaded;
    assert.ok(back < 3_500, `audio back within 3 s (${back} ms, 500 of them listening)`);
    assert.equal(await page.locator('[data-testid="transcript"] [data-channel]').count(), 2);
    await page.locator('[data-testid="recording-state"][data-recording="paused"]').waitFor();
    await page.getByTestId('call-pause-recording').click();
    await page.locator('[data-testid="recording-state"][data-recording="on"]').waitFor();
    step(`${scheme}: reload in mid call, audio back in ${back} ms (500 ms of them listening)`);

    const second = await context.newPage();
    await second.goto(`${mock.url}/agent`);
    await second.getByTestId('take-over').waitFor();
    await shot(second, 'take-over');
    assert.equal(await second.getByTestId('remote-audio').evaluate((audio) => audio.srcObject), null);
    await second.getByTestId('take-over').click();
    await until('the second tab hears the caller', async () => (await heard(second)) > 0.01);
    await page.getByTestId('take-over').waitFor();
    await page.getByTestId('take-over').click();
    await until('the first tab hears the caller again', async () => (await heard(page)) > 0.01);
    await second.close();
    step(`${scheme}: two tabs, the microphone is taken over and back`);

    await page.getByTestId('call-hangup').click();
    await page.getByTestId('wrapup-panel').waitFor();
    await page.getByTestId('record-link').waitFor();
    await page.getByTestId('recording-audio').waitFor({ state: 'attached' });
    await page.getByTestId('wrapup-finish').click();
    await page.locator('#wrap-missing').waitFor();
    await page.getByTestId('wrapup-disposition').selectOption('resolved');
    await page.getByTestId('wrapup-tags').fill('router, follow-up');
    await page.getByTestId('wrapup-notes').fill('Router replaced.');
    await until('the waveform is drawn', () => page.locator('[data-testid="player"] canvas').evaluate((canvas) => canvas.width > 0));
    await shot(page, 'wrap-up');
    await page.getByTestId('wrapup-finish').click();
    await state(page, 'ready');
    const record = mock.world.contacts.get(call.call_id);
    assert.deepEqual([record.disposition, record.tags, record.notes], ['resolved', ['router', 'follow-up'], 'Router replaced.']);
    step(`${scheme}: wrap-up requires the disposition, saves tags and notes, ready again`);

    const audio = page.getByTestId('recording-audio');
    await until('metadata', () => audio.evaluate((element) => element.readyState >= 1));
    await page.locator('[data-testid="record-panel"] [data-testid="transcript"] button').nth(1).click();
    await until('plays from the line', () => audio.evaluate((element) => !element.paused && element.currentTime > 3.3 && element.currentTime < 8));
    await page.getByTestId('recording-play').click();
    await shot(page, 'after-call');
    const other = await context.newPage();
    await other.goto(`${mock.url}/contacts/${call.call_id}`);
    await other.locator('[data-testid="timeline"] li').nth(3).waitFor();
    const links = await other.locator('[data-testid="links"] a').evaluateAll((all) => all.map((a) => a.href));
    assert.deepEqual(links, [record.links.trace, record.links.logs], 'the record leads to its trace and its log lines');
    await other.locator('[data-testid="timeline"] button').nth(1).click();
    await until('jumps to the hold', () => other.getByTestId('recording-audio').evaluate((element) => element.currentTime >= 29.9));
    await other.getByTestId('recording-play').click();
    await other.setViewportSize({ width: 1440, height: 1300 });
    await shot(other, 'record');
    await other.goto(`${mock.url}/contacts`);
    await other.locator('[data-testid="contacts"] tbody tr').first().waitFor();
    await shot(other, 'contacts');
    await other.close();
    step(`${scheme}: record with player, jumps from transcript and timeline`);

    await page.addInitScript(() => {
      navigator.mediaDevices.getUserMedia = () => Promise.reject(new DOMException('Permission denied', 'NotAllowedError'));
    });
    await page.getByTestId('go-not-ready').click();
    await state(page, 'not_ready');
    await page.reload();
    await state(page, 'not_ready');
    await page.getByTestId('go-ready').click();
    await page.getByTestId('mic-error').waitFor();
    assert.equal(agent.state.state, 'not_ready', 'no calls for an agent who cannot speak');
    await shot(page, 'microphone-denied');
    step(`${scheme}: a denied microphone is explained, and the agent does not go ready`);

    await page.getByTestId('sign-out').click();
    await page.getByTestId('signin-name').waitFor();
    await signIn(page, mock, 'sue');
    await page.getByTestId('wb-queue-support-waiting').waitFor();
    assert.match((await page.getByTestId('wb-queue-billing').getAttribute('data-level')) ?? '', /crit/);
    await shot(page, 'wallboard');
    await page.getByTestId('wb-tv').click();
    await until('TV mode', () => page.locator('main.tv').count());
    await page.setViewportSize({ width: 1920, height: 1080 });
    await shot(page, 'wallboard-tv');
    await page.setViewportSize({ width: 1440, height: 900 });
    const answered = async () => Number(await page.getByTestId('wb-queue-support-answered').textContent());
    const first = await answered();
    await until('numbers move', async () => (await answered()) > first);
    mock.server.close();
    mock.cutLive();
    await page.locator('[data-testid="wb-stale"]').waitFor();
    await shot(page, 'wallboard-stale');
    step(`${scheme}: wallboard moves, TV mode, stale numbers are told`);
    assert.deepEqual(browser.problems, [], 'no script errors, nothing refused by the policy');
    step(`${scheme}: no errors in any console`);
  } finally {
    await browser.close();
    await mock.close().catch(() => undefined);
  }
}

try {
  await journey('light');
  await journey('dark');
  console.log(`${passed} passed, 0 failed`);
} catch (error) {
  console.error(error);
  console.log(`${passed} passed, 1 failed`);
  process.exitCode = 1;
}
