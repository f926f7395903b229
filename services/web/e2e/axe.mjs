// axe-core on every page and state, light, dark and high contrast: no serious or critical finding.
// The script is evaluated through the debugger, so the pages keep their real policy.
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { startMock } from '../mock/server.mjs';
import { openBrowser, openMedia, signIn, state } from './browser.mjs';

const axe = readFileSync(createRequire(import.meta.url).resolve('axe-core/axe.min.js'), 'utf8');
let passed = 0;
let failed = 0;

async function check(page, name) {
  await page.evaluate(() => Promise.allSettled(document.getAnimations().map((animation) => animation.effect?.getComputedTiming().iterations === Infinity || animation.finished)));
  await page.evaluate(axe);
  const { violations } = await page.evaluate(() =>
    window.axe.run(document, { runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa', 'best-practice'] }),
  );
  const serious = violations.filter((found) => found.impact === 'serious' || found.impact === 'critical');
  for (const found of violations) {
    const grave = serious.includes(found);
    console.log(`  ${grave ? 'not ok' : 'minor'} ${name}: ${found.id} (${found.impact}): ${found.help}`);
    for (const node of found.nodes.slice(0, 4)) console.log(`    ${node.target.join(' ')} — ${(node.any[0] ?? node.all[0] ?? node.none[0])?.message ?? ''}`);
  }
  if (serious.length > 0) failed += 1;
  else {
    passed += 1;
    console.log(`ok ${passed} - ${name}`);
  }
}

async function walk(scheme, contrast) {
  const mock = await startMock();
  const browser = await openBrowser({ scheme });
  const look = contrast ? `${scheme}, high contrast` : scheme;
  try {
    const { context } = browser;
    if (contrast) await context.addInitScript(() => localStorage.setItem('trunkline.contrast', 'more'));
    await openMedia(context, mock);
    const page = await context.newPage();
    await page.goto(mock.url);
    await page.getByTestId('signin-submit').click();
    await page.locator('#signin-error p').waitFor();
    await check(page, `sign-in with an error (${look})`);
    await signIn(page, mock, 'alice');
    await state(page, 'not_ready');
    await page.getByText('Ken Okafor').waitFor();
    await check(page, `not ready (${look})`);
    await page.getByTestId('audio-check').click();
    await page.getByTestId('audio-dialog').waitFor();
    await check(page, `audio check (${look})`);
    await page.keyboard.press('Escape');
    await page.keyboard.press('Alt+/');
    await page.locator('dialog[open]').waitFor();
    await check(page, `shortcuts (${look})`);
    await page.keyboard.press('Escape');
    await page.getByTestId('go-ready').click();
    await state(page, 'ready');
    await check(page, `ready (${look})`);
    const agent = mock.world.agent('alice');
    agent.ring();
    await page.getByTestId('ring-card').waitFor();
    await check(page, `ringing (${look})`);
    await page.getByTestId('ring-accept').click();
    await state(page, 'talking');
    agent.say('agent', 600, 2800, 'Trunkline support, how can I help?');
    agent.say('caller', 3000, 3600, 'Hello', false);
    await page.locator('[data-testid="transcript"] [data-channel="caller"]').waitFor();
    await page.getByTestId('call-keypad').click();
    await check(page, `talking, keypad open (${look})`);
    await page.getByTestId('call-mute').click();
    await page.getByTestId('call-hold').click();
    await page.locator('[data-testid="call-panel"][data-hold="true"][data-muted="true"]').waitFor();
    await check(page, `hold and mute (${look})`);
    const second = await context.newPage();
    await second.goto(`${mock.url}/agent`);
    await second.getByTestId('take-over').waitFor();
    await check(second, `second tab (${look})`);
    await second.close();
    const { call_id } = agent.state.call;
    await page.getByTestId('call-hangup').click();
    await page.getByTestId('recording-audio').waitFor({ state: 'attached' });
    await page.getByTestId('wrapup-finish').click();
    await page.locator('#wrap-missing').waitFor();
    await check(page, `wrap-up with an error and the record (${look})`);
    await page.goto(`${mock.url}/contacts/${call_id}`);
    await page.getByTestId('recording-audio').waitFor({ state: 'attached' });
    await check(page, `contact record (${look})`);
    await page.goto(`${mock.url}/contacts`);
    await page.locator('[data-testid="contacts"] tbody tr').first().waitFor();
    await page.locator('[popovertarget="display-menu"]').click();
    await check(page, `contacts, display settings open (${look})`);
    await page.getByTestId('sign-out').click();
    await page.getByTestId('signin-name').waitFor();
    await signIn(page, mock, 'sue');
    await page.getByTestId('wb-queue-support-waiting').waitFor();
    await check(page, `wallboard (${look})`);
    await page.getByTestId('sign-out').click();
    await page.getByTestId('signin-name').waitFor();
    await signIn(page, mock, 'adam');
    await page.getByTestId('cl-node-n1').waitFor();
    await check(page, `cluster (${look})`);
    await page.getByTestId('cl-drain-n3').click();
    await page.getByTestId('cl-confirm').waitFor();
    await check(page, `confirmation of a drain (${look})`);
    await page.getByTestId('cl-confirm-yes').click();
    mock.world.cluster.coordination_problem = 'no quorum since 12 s';
    await page.locator('[data-testid="cl-node-n3"][data-state="draining"] progress').waitFor();
    await page.locator('[data-testid="cl-moves"] tbody tr').first().waitFor();
    await check(page, `cluster with a drain and a problem (${look})`);
    await page.goto(`${mock.url}/wallboard`);
    await page.getByTestId('wb-queue-support-waiting').waitFor();
    mock.server.close();
    mock.cutLive();
    await page.locator('[data-testid="wb-stale"]').waitFor();
    await check(page, `stale wallboard (${look})`);
  } finally {
    await browser.close();
    await mock.close().catch(() => undefined);
  }
}

try {
  await walk('light', false);
  await walk('dark', false);
  await walk('light', true);
  await walk('dark', true);
} catch (error) {
  console.error(error);
  failed += 1;
}
console.log(`${passed} passed, ${failed} failed`);
process.exitCode = failed > 0 ? 1 : 0;
