import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { AgentClient, LIMITS, type LinkStatus } from '../shared/protocol/client';
import { ServerClock } from '../shared/protocol/clock';
import type { Snapshot, TranscriptEvent } from '../shared/protocol/types';
import { FakeSocket } from './fake-socket';

const START = Date.UTC(2030, 0, 1);

function setUp() {
  const sockets: FakeSocket[] = [];
  const snapshots: Snapshot[] = [];
  const statuses: LinkStatus[] = [];
  const transcripts: TranscriptEvent[] = [];
  const lost: (string | null)[] = [];
  const moved: [string, number][] = [];
  const urls: string[] = [];
  const now = (): number => Date.now();
  const client = new AgentClient({
    url: 'ws://desk/api/v1/agent/ws',
    client: 'test',
    now,
    clock: new ServerClock(now),
    // Waits of 500 ms, 1 s, 2 s, …
    random: () => 7 / 27,
    idPrefix: 'p',
    open: (url) => {
      urls.push(url);
      const socket = new FakeSocket();
      sockets.push(socket);
      return socket;
    },
    events: {
      status: (status) => statuses.push(status),
      welcome: () => undefined,
      snapshot: (snapshot) => snapshots.push(snapshot),
      ring: () => undefined,
      microphoneLost: (to) => lost.push(to),
      mediaMoved: (offer_id, generation) => moved.push([offer_id, generation]),
      transcript: (event) => transcripts.push(event),
    },
  });
  const last = (): FakeSocket => {
    const socket = sockets.at(-1);
    if (!socket) throw new Error('no socket');
    return socket;
  };
  const welcome = (more: object = {}, seq = 1): void =>
    last().receive({
      seq,
      type: 'welcome',
      data: { session: 's1', resumed: false, server_ms: Date.now(), protocol: 1, user: {}, not_ready_reasons: [], keepalive_s: 10, ...more },
    });
  /** Connected, with a snapshot as seq 2. */
  const connected = (): void => {
    client.connect();
    last().open();
    welcome();
    last().receive({ seq: 2, type: 'snapshot', data: { server_ms: Date.now(), state: 'ready', since_ms: 5, call: { notes: 'a', muted: true } } });
  };
  return { client, sockets, snapshots, statuses, transcripts, lost, moved, urls, last, welcome, connected };
}

beforeEach(() => void vi.useFakeTimers({ now: START }));
afterEach(() => void vi.useRealTimers());

describe('session', () => {
  it('says hello first and without resume', () => {
    const { client, last } = setUp();
    client.connect();
    expect(last().sent).toEqual([]);
    last().open();
    expect(last().sent).toEqual([{ id: 'p-1', type: 'hello', data: { client: 'test', connection: 1 } }]);
  });

  it('gives up a connection that brings no welcome, and tries again', () => {
    const { client, sockets, last } = setUp();
    client.connect();
    last().open();
    vi.advanceTimersByTime(LIMITS.welcome_ms);
    expect(sockets[0]?.closedWith).toBe(4000);
    vi.advanceTimersByTime(500);
    expect(sockets).toHaveLength(2);
  });

  it('merges deltas into the snapshot and reads what a patch removed as null', () => {
    const { connected, last, snapshots } = setUp();
    connected();
    last().receive({ seq: 3, type: 'delta', data: { state: 'talking', call: { muted: false } } });
    expect(snapshots.at(-1)).toMatchObject({ state: 'talking', since_ms: 5, call: { notes: 'a', muted: false } });
    last().receive({ seq: 4, type: 'delta', data: { call: null, microphone: null } });
    expect(snapshots.at(-1)).toMatchObject({ call: null, microphone: null, next: null, queues: [] });
  });

  it('acknowledges within two seconds, once for many frames', () => {
    const { connected, last } = setUp();
    connected();
    for (let seq = 3; seq <= 9; seq += 1) last().receive({ seq, type: 'delta', data: {} });
    vi.advanceTimersByTime(2_000);
    expect(last().of('ack').map((frame) => frame.data['seq'])).toEqual([9]);
  });

  it('hands transcript and microphone_lost on, and ignores kinds it does not know', () => {
    const { connected, last, transcripts, lost } = setUp();
    connected();
    last().receive({ seq: 3, type: 'transcript', data: { text: 'hello' } });
    last().receive({ seq: 4, type: 'microphone_lost', data: { to_session: 's2' } });
    last().receive({ seq: 5, type: 'of_the_future', data: {} });
    expect(transcripts).toHaveLength(1);
    expect(lost).toEqual(['s2']);
  });
});

describe('resume', () => {
  it('resumes by session and last seq and drops frames that come twice', () => {
    const { connected, last, welcome, snapshots, sockets } = setUp();
    connected();
    last().drop();
    vi.advanceTimersByTime(500);
    expect(sockets).toHaveLength(2);
    last().open();
    expect(last().of('hello')[0]?.data).toEqual({ client: 'test', connection: 2, resume: { session: 's1', last_seq: 2 } });
    welcome({ resumed: true }, 0);
    const before = snapshots.length;
    last().receive({ seq: 2, type: 'snapshot', data: { state: 'signed_out' } });
    expect(snapshots).toHaveLength(before);
    last().receive({ seq: 3, type: 'delta', data: { state: 'not_ready' } });
    expect(snapshots.at(-1)?.state).toBe('not_ready');
  });

  it('accepts a counted welcome that comes before the repeated frames', () => {
    const { connected, last, welcome, snapshots, sockets } = setUp();
    connected();
    last().drop();
    vi.advanceTimersByTime(500);
    last().open();
    welcome({ resumed: true }, 5);
    last().receive({ seq: 3, type: 'delta', data: { state: 'ringing' } });
    last().receive({ seq: 4, type: 'delta', data: { reason: 'x' } });
    last().receive({ seq: 6, type: 'delta', data: { state: 'talking' } });
    expect(snapshots.at(-1)).toMatchObject({ state: 'talking', reason: 'x' });
    expect(sockets).toHaveLength(2);
  });

  it('fetches a missing frame by resuming', () => {
    const { connected, last, snapshots, sockets } = setUp();
    connected();
    last().receive({ seq: 4, type: 'delta', data: { state: 'talking' } });
    expect(snapshots.at(-1)?.state).toBe('ready');
    vi.advanceTimersByTime(500);
    last().open();
    expect(sockets).toHaveLength(2);
    expect(last().of('hello')[0]?.data['resume']).toEqual({ session: 's1', last_seq: 2 });
  });

  it('backs off longer each time, never beyond the cap, until a pong proves the connection', () => {
    const { connected, last, statuses, welcome } = setUp();
    connected();
    last().drop();
    for (let i = 0; i < 8; i += 1) {
      vi.advanceTimersByTime(10_000);
      last().drop();
    }
    const waits = statuses.flatMap((status) => (status.kind === 'waiting' ? [status.retry_in_ms] : []));
    expect(waits.slice(0, 6)).toEqual([500, 1_000, 2_000, 4_000, 4_000, 4_000]);
    expect(Math.max(...waits)).toBe(4_000);
    vi.advanceTimersByTime(10_000);
    last().open();
    welcome({ resumed: true }, 0);
    vi.advanceTimersByTime(10_000);
    const ping = last().of('ping')[0];
    last().receive({ seq: 3, type: 'pong', re: ping?.id, data: { server_ms: Date.now() } });
    last().drop();
    expect(statuses.at(-1)).toMatchObject({ kind: 'waiting', retry_in_ms: 500 });
  });

  it('treats 25 s of silence as a lost connection', () => {
    const { connected, sockets } = setUp();
    connected();
    vi.advanceTimersByTime(31_000);
    expect(sockets[0]?.closedWith).toBe(4000);
    expect(sockets.length).toBeGreaterThan(1);
  });
});

describe('other consoles', () => {
  it('are tried in turn, with the ticket, and never sign the page out', () => {
    const { client, last, sockets, urls, welcome, statuses } = setUp();
    client.connect();
    last().open();
    welcome({ alternates: ['https://two.example', 'http://desk', 'nonsense'], ticket: 'tk' });
    last().drop();
    for (let n = 0; n < 4; n += 1) {
      vi.advanceTimersByTime(5_000);
      last().open();
      // Not signed in there, and its cookie is not sent there.
      if (n === 1) last().drop(4401);
      else if (n < 3) last().drop();
    }
    const own = 'ws://desk/api/v1/agent/ws';
    expect(urls).toEqual([own, own, 'wss://two.example/api/v1/agent/ws', own, 'wss://two.example/api/v1/agent/ws']);
    expect(statuses.map((status) => status.kind)).not.toContain('closed');
    const hellos = sockets.map((socket) => socket.of('hello')[0]?.data['ticket']);
    expect(hellos).toEqual([undefined, undefined, 'tk', undefined, 'tk']);
  });
});

describe('close codes', () => {
  it.each([
    [4401, 'signed_out'],
    [4409, 'superseded'],
  ])('%i ends it as %s', (code, reason) => {
    const { connected, last, statuses, sockets } = setUp();
    connected();
    last().drop(code);
    expect(statuses.at(-1)).toMatchObject({ kind: 'closed', reason });
    vi.advanceTimersByTime(60_000);
    expect(sockets).toHaveLength(1);
  });

  it('4400 resumes once, then starts a new session, and three in a row end it', () => {
    const { connected, last, statuses } = setUp();
    connected();
    last().drop(4400, 'bad frame');
    vi.advanceTimersByTime(500);
    last().open();
    expect(last().of('hello')[0]?.data['resume']).toEqual({ session: 's1', last_seq: 2 });
    last().drop(4400);
    vi.advanceTimersByTime(1_000);
    last().open();
    expect(last().of('hello')[0]?.data['resume']).toBeUndefined();
    last().drop(4400);
    expect(statuses.at(-1)).toMatchObject({ kind: 'closed', reason: 'protocol' });
  });
});

describe('commands', () => {
  it('resolves with the result that answers the id', async () => {
    const { client, connected, last } = setUp();
    connected();
    const answer = client.send('not_ready', { reason: 'lunch' });
    const sent = last().of('not_ready')[0];
    expect(sent?.data).toEqual({ reason: 'lunch' });
    last().receive({ seq: 3, type: 'result', re: 'p-999', data: { ok: false } });
    last().receive({ seq: 4, type: 'result', re: sent?.id, data: { ok: true } });
    await expect(answer).resolves.toEqual({ ok: true });
    expect(client.pending).toBe(0);
  });

  it('sends pending commands again after a resume, with the same id', async () => {
    const { client, connected, last, welcome } = setUp();
    connected();
    const digits = client.send('digits', { digits: '5' });
    const first = last().of('digits')[0];
    last().drop();
    const notes = client.send('notes', { call_id: 'c', notes: 'typed while offline' });
    vi.advanceTimersByTime(500);
    last().open();
    welcome({ resumed: true }, 0);
    expect(last().of('digits')[0]?.id).toBe(first?.id);
    last().receive({ seq: 3, type: 'result', re: first?.id, data: { ok: true } });
    last().receive({ seq: 4, type: 'result', re: last().of('notes')[0]?.id, data: { ok: true } });
    await expect(Promise.all([digits, notes])).resolves.toEqual([{ ok: true }, { ok: true }]);
  });

  it('repeats in a new session only what is safe to do twice', async () => {
    const { client, connected, last, welcome } = setUp();
    connected();
    const digits = client.send('digits', { digits: '5' });
    void client.send('hold', { on: true });
    last().drop();
    vi.advanceTimersByTime(500);
    last().open();
    welcome({ session: 's2', resumed: false }, 1);
    await expect(digits).resolves.toMatchObject({ ok: false, error: 'session_lost' });
    expect(last().of('hold')).toHaveLength(1);
    expect(last().of('digits')).toHaveLength(0);
    expect(client.session).toBe('s2');
  });

  it('goes on at another console under the same session, with everything that has no result', () => {
    const { client, connected, last, welcome, snapshots } = setUp();
    connected();
    void client.send('accept', { offer_id: 'o', sdp: 'v=0' });
    void client.send('hold', { on: true });
    const [accept, hold] = last().sent.slice(-2);
    last().drop();
    vi.advanceTimersByTime(500);
    last().open();
    expect(last().of('hello')[0]?.data).toMatchObject({ connection: 2, resume: { session: 's1' } });
    welcome({ session: 's1', resumed: false }, 1);
    expect(last().sent.slice(-2)).toEqual([accept, hold]);
    last().receive({ seq: 2, type: 'snapshot', data: { state: 'talking', microphone: 's1' } });
    expect(snapshots.at(-1)?.microphone).toBe(client.session);
    expect(client.pending).toBe(2);
  });

  it('tells that the audio has moved', () => {
    const { connected, last, moved } = setUp();
    connected();
    last().receive({ seq: 3, type: 'media_moved', data: { offer_id: 'o', generation: 2 } });
    expect(moved).toEqual([['o', 2]]);
  });

  it('keeps what was asked before the first welcome', () => {
    const { client, last, welcome } = setUp();
    client.connect();
    void client.send('hang_up', {});
    last().open();
    expect(last().of('hang_up')).toHaveLength(0);
    welcome();
    expect(last().of('hang_up')).toHaveLength(1);
  });

  it('bounds waiting and the number of unanswered commands', async () => {
    const { client, connected } = setUp();
    connected();
    const first = client.send('ready', {});
    for (let i = 1; i < LIMITS.pending; i += 1) void client.send('ready', {});
    await expect(client.send('ready', {})).resolves.toMatchObject({ ok: false, error: 'busy' });
    vi.advanceTimersByTime(LIMITS.command_ms);
    await expect(first).resolves.toMatchObject({ ok: false, error: 'timeout' });
    expect(client.pending).toBe(0);
  });

  it('fails what is unanswered when stopped', async () => {
    const { client, connected, last } = setUp();
    connected();
    const answer = client.send('ready', {});
    client.stop();
    await expect(answer).resolves.toMatchObject({ ok: false, error: 'stopped' });
    expect(last().closedWith).toBe(1000);
    await expect(client.send('ready', {})).resolves.toMatchObject({ error: 'stopped' });
  });
});

describe('clock', () => {
  it('pings every keep-alive and takes half the round trip off', () => {
    const { client, connected, last } = setUp();
    connected();
    vi.advanceTimersByTime(10_000);
    const ping = last().of('ping')[0];
    const server = Date.now() + 3_600_000;
    vi.advanceTimersByTime(80);
    last().receive({ seq: 3, type: 'pong', re: ping?.id, data: { server_ms: server + 40 } });
    expect(client.clock.now()).toBe(Date.now() + 3_600_000);
  });
});
