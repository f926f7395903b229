/**
 * The agent protocol over one WebSocket: session, sequence, acknowledgement, resume, commands.
 * Owns the wire and nothing else: no audio, no view. Everything it hands out comes through `Events`.
 *
 * Order and loss: frames are numbered from 1 in a session; a repeated one is dropped, a missing one
 * ends the connection and is fetched by resuming. Commands keep their id until answered and are sent
 * again after a resume; the server does each id once. Any console takes the session: another one than
 * before goes on with it under its name, from a new snapshot. When none knows the session any more, the
 * commands that are safe to repeat go out again, and the others fail with `session_lost`.
 */
import { Addresses } from './addresses';
import { backoffDelay } from './backoff';
import { ServerClock } from './clock';
import { mergePatch } from './merge';
import { readSnapshot } from './snapshot';
import type { ClosedReason, Options, SocketLike } from './socket';
import {
  SUBPROTOCOL,
  type CommandResult,
  type Commands,
  type ServerFrame,
  type TranscriptEvent,
  type Welcome,
} from './types';

export type { ClosedReason, Events, LinkStatus, Options, SocketLike } from './socket';

/** Bounds: no wait without end, no list without limit. */
export const LIMITS = {
  welcome_ms: 8_000,
  command_ms: 20_000,
  ack_ms: 1_000,
  /** The server refuses more than 32. */
  pending: 24,
  protocol_errors: 3,
  silence_factor: 2.5,
} as const;

/** Not repeated in a new session: doing them twice, or late, would be heard by the caller. */
const NOT_REPEATABLE = new Set<string>(['digits', 'accept', 'decline', 'media_resume', 'hang_up', 'transfer', 'consult', 'transfer_complete', 'consult_cancel']);

interface Pending {
  frame: string;
  type: string;
  settle(result: CommandResult): void;
  timer: ReturnType<typeof setTimeout>;
}

export class AgentClient {
  readonly clock: ServerClock;
  readonly #options: Options;
  readonly #now: () => number;
  readonly #prefix: string;
  #socket: SocketLike | null = null;
  #welcomed = false;
  #session: string | null = null;
  /** Counts connections, so that consoles and agent know which one of a session is the newest. */
  #connections = 0;
  readonly #addresses: Addresses;
  #lastSeq = 0;
  #early = new Set<number>();
  #acked = 0;
  #state: unknown = null;
  #counter = 0;
  #pending = new Map<string, Pending>();
  #attempt = 0;
  #protocolErrors = 0;
  #stopped = false;
  #helloAt = 0;
  #heardAt = 0;
  #pings = new Map<string, number>();
  #timers: Record<'retry' | 'welcome' | 'ack' | 'ping', ReturnType<typeof setTimeout> | undefined> = {
    retry: undefined,
    welcome: undefined,
    ack: undefined,
    ping: undefined,
  };

  constructor(options: Options) {
    this.#options = options;
    this.#addresses = new Addresses(options.url);
    this.clock = options.clock ?? new ServerClock();
    this.#now = options.now ?? (() => performance.timeOrigin + performance.now());
    this.#prefix = options.idPrefix ?? Math.random().toString(36).slice(2, 8);
  }

  get session(): string | null {
    return this.#session;
  }

  get pending(): number {
    return this.#pending.size;
  }

  /** Connects now; also cuts a back-off short (the network came back, a person pressed retry). */
  connect(): void {
    if (this.#stopped || this.#socket) return;
    this.#clear('retry');
    this.#options.events.status({ kind: 'connecting', attempt: this.#attempt });
    const open = this.#options.open ?? ((url, protocol) => new WebSocket(url, protocol) as SocketLike);
    let socket: SocketLike;
    try {
      socket = open(this.#addresses.current, SUBPROTOCOL);
    } catch (error) {
      this.#retry(error instanceof Error ? error.message : 'cannot open');
      return;
    }
    this.#socket = socket;
    this.#welcomed = false;
    this.#timers.welcome = setTimeout(() => this.#drop('no welcome'), LIMITS.welcome_ms);
    socket.onopen = () => this.#hello();
    socket.onmessage = (event: { data: unknown }) => {
      if (socket === this.#socket) this.#receive(event.data);
    };
    socket.onclose = (event: { code?: number; reason?: string }) => {
      if (socket === this.#socket) this.#closed(event.code ?? 1006, event.reason ?? '');
    };
    socket.onerror = () => undefined; // a close always follows
  }

  /** Ends the connection for good and fails what is still unanswered. */
  stop(reason: ClosedReason = 'stopped', detail = ''): void {
    if (this.#stopped) return;
    this.#stopped = true;
    const socket = this.#socket;
    this.#detach();
    this.#clear('retry');
    socket?.close(1000, 'bye');
    for (const id of [...this.#pending.keys()]) this.#fail(id, 'stopped', 'The connection was ended.');
    this.#options.events.status({ kind: 'closed', reason, detail });
  }

  /** Sends a command; always resolves, with `ok: false` and a code when it could not be done. */
  send<K extends keyof Commands>(type: K, data: Commands[K]): Promise<CommandResult> {
    if (this.#stopped) return Promise.resolve({ ok: false, error: 'stopped', message: 'Not connected.' });
    if (this.#pending.size >= LIMITS.pending) {
      return Promise.resolve({ ok: false, error: 'busy', message: 'Too many unanswered commands.' });
    }
    const id = `${this.#prefix}-${++this.#counter}`;
    const frame = JSON.stringify({ id, type, data });
    return new Promise((settle) => {
      const timer = setTimeout(
        () => this.#fail(id, 'timeout', 'The server did not answer in time.'),
        LIMITS.command_ms,
      );
      this.#pending.set(id, { frame, type, settle, timer });
      if (this.#welcomed) this.#socket?.send(frame);
    });
  }

  #hello(): void {
    this.#helloAt = this.#now();
    this.#heardAt = this.#helloAt;
    this.#connections += 1;
    this.#raw('hello', {
      ...(this.#session === null ? {} : { resume: { session: this.#session, last_seq: this.#lastSeq } }),
      ...this.#addresses.proof,
      client: this.#options.client,
      connection: this.#connections,
    });
  }

  #raw(type: string, data: unknown): string {
    const id = `${this.#prefix}-${++this.#counter}`;
    this.#socket?.send(JSON.stringify({ id, type, data }));
    return id;
  }

  #receive(text: unknown): void {
    this.#heardAt = this.#now();
    let frame: ServerFrame;
    try {
      frame = JSON.parse(String(text)) as ServerFrame;
    } catch {
      this.#forget('a frame was not JSON');
      return;
    }
    if (frame === null || typeof frame !== 'object' || typeof frame.type !== 'string') {
      this.#forget('a frame without type');
      return;
    }
    if (frame.type === 'welcome') {
      this.#onWelcome(frame);
      return;
    }
    if (!this.#welcomed || !this.#inOrder(frame.seq)) return;
    this.#dispatch(frame);
  }

  /** True when the frame is the next one; repeated frames are dropped, a gap leads to a resume. */
  #inOrder(seq: unknown): boolean {
    if (typeof seq !== 'number' || seq === 0) return true;
    if (seq <= this.#lastSeq || this.#early.has(seq)) return false;
    if (seq !== this.#lastSeq + 1) {
      this.#drop(`frame ${this.#lastSeq + 1} is missing`);
      return false;
    }
    this.#advance(seq);
    this.#timers.ack ??= setTimeout(() => this.#ack(), LIMITS.ack_ms);
    return true;
  }

  #advance(seq: number): void {
    this.#lastSeq = seq;
    while (this.#early.delete(this.#lastSeq + 1)) this.#lastSeq += 1;
  }

  #ack(): void {
    this.#clear('ack');
    if (!this.#welcomed || this.#acked === this.#lastSeq) return;
    this.#acked = this.#lastSeq;
    this.#raw('ack', { seq: this.#lastSeq });
  }

  #onWelcome(frame: ServerFrame): void {
    const welcome = frame.data as Welcome;
    const seq = typeof frame.seq === 'number' ? frame.seq : 0;
    this.#clear('welcome');
    this.clock.sample(welcome.server_ms, this.#helloAt);
    if (welcome.resumed) {
      // The welcome of a resume may come before the frames that it repeats.
      if (seq === this.#lastSeq + 1) this.#advance(seq);
      else if (seq > this.#lastSeq) this.#early.add(seq);
    } else {
      this.#early.clear();
      this.#lastSeq = seq;
      this.#state = null;
      // Under its old name the session went on at another console: the agent knows which ids were done.
      if (welcome.session !== this.#session) this.#failNotRepeatable();
    }
    this.#addresses.learn(welcome);
    this.#acked = -1;
    this.#session = welcome.session;
    this.#welcomed = true;
    this.#timers.ack ??= setTimeout(() => this.#ack(), LIMITS.ack_ms);
    this.#options.events.welcome(welcome);
    this.#options.events.status({ kind: 'open' });
    for (const pending of this.#pending.values()) this.#socket?.send(pending.frame);
    this.#schedulePing(Math.max(1, welcome.keepalive_s || 10) * 1_000);
  }

  #failNotRepeatable(): void {
    if (this.#session === null) return;
    for (const [id, pending] of this.#pending) {
      if (NOT_REPEATABLE.has(pending.type)) {
        this.#fail(id, 'session_lost', 'The session was lost before the server answered.');
      }
    }
  }

  #dispatch(frame: ServerFrame): void {
    const { events } = this.#options;
    switch (frame.type) {
      case 'snapshot':
        this.#state = frame.data;
        this.#publish();
        break;
      case 'delta':
        if (this.#state === null) break;
        this.#state = mergePatch(this.#state, frame.data);
        this.#publish();
        break;
      case 'result':
        this.#settle(frame.re, frame.data as CommandResult);
        break;
      case 'ring':
        events.ring((frame.data as { offer_id: string }).offer_id);
        break;
      case 'microphone_lost':
        events.microphoneLost((frame.data as { to_session?: string }).to_session ?? null);
        break;
      case 'media_moved': {
        const { offer_id, generation } = frame.data as { offer_id: string; generation: number };
        events.mediaMoved(offer_id, generation);
        break;
      }
      case 'transcript':
        events.transcript(frame.data as TranscriptEvent);
        break;
      case 'pong':
        this.#onPong(frame);
        break;
      default:
        break; // additive protocol: unknown kinds are for newer clients
    }
  }

  #publish(): void {
    this.#options.events.snapshot(readSnapshot(this.#state));
  }

  #settle(id: string | undefined, result: CommandResult): void {
    const pending = id === undefined ? undefined : this.#pending.get(id);
    if (!pending || id === undefined) return;
    clearTimeout(pending.timer);
    this.#pending.delete(id);
    pending.settle(result);
  }

  #fail(id: string, error: string, message: string): void {
    this.#settle(id, { ok: false, error, message });
  }

  #schedulePing(every_ms: number): void {
    this.#clear('ping');
    this.#timers.ping = setTimeout(() => {
      if (this.#now() - this.#heardAt > every_ms * LIMITS.silence_factor) {
        this.#drop('the server is silent');
        return;
      }
      if (this.#pings.size > 8) this.#pings.clear();
      this.#pings.set(this.#raw('ping', {}), this.#now());
      this.#schedulePing(every_ms);
    }, every_ms);
  }

  /** A connection that lived until its first pong counts as good; one that is cut at once does not. */
  #onPong(frame: ServerFrame): void {
    this.#attempt = 0;
    this.#protocolErrors = 0;
    const sent = frame.re === undefined ? undefined : this.#pings.get(frame.re);
    if (frame.re !== undefined) this.#pings.delete(frame.re);
    this.clock.sample((frame.data as { server_ms: number }).server_ms, sent);
  }

  /** Ends this connection and resumes the session on another one. */
  #drop(detail: string): void {
    const socket = this.#socket;
    this.#detach();
    socket?.close(4000, detail);
    this.#retry(detail);
  }

  /** Ends this connection and starts a new session: what the server said cannot be trusted. */
  #forget(detail: string): void {
    this.#session = null;
    this.#protocolErrors += 1;
    if (this.#protocolErrors >= LIMITS.protocol_errors) this.stop('protocol', detail);
    else this.#drop(detail);
  }

  #closed(code: number, reason: string): void {
    this.#detach();
    if (code === 4401 && !this.#addresses.away) this.stop('signed_out', reason);
    else if (code === 4409) this.stop('superseded', reason);
    else if (code === 4400) {
      // Too many frames without an ack: the session goes on from a new snapshot. A second time in a
      // row it is the session itself that does not work.
      if (this.#protocolErrors > 0) this.#session = null;
      this.#protocolErrors += 1;
      if (this.#protocolErrors >= LIMITS.protocol_errors) this.stop('protocol', reason);
      else this.#retry(reason);
    } else this.#retry(reason || `closed (${code})`);
  }

  #detach(): void {
    const socket = this.#socket;
    if (socket) socket.onopen = socket.onmessage = socket.onclose = null;
    this.#socket = null;
    this.#welcomed = false;
    this.#pings.clear();
    this.#clear('welcome');
    this.#clear('ack');
    this.#clear('ping');
  }

  #retry(detail: string): void {
    if (this.#stopped) return;
    const retry_in_ms = backoffDelay(this.#attempt, this.#options.random);
    this.#attempt += 1;
    this.#addresses.next(this.#attempt);
    this.#options.events.status({ kind: 'waiting', attempt: this.#attempt, retry_in_ms, detail });
    this.#clear('retry');
    this.#timers.retry = setTimeout(() => this.connect(), retry_in_ms);
  }

  #clear(name: 'retry' | 'welcome' | 'ack' | 'ping'): void {
    clearTimeout(this.#timers[name]);
    this.#timers[name] = undefined;
  }
}
