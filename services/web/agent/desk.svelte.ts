/**
 * The agent desktop's state: the last snapshot and what follows from it. Commands go out through
 * here; views only read and call methods. Nothing is assumed done before the server says so.
 */
import { i18n, t } from '../shared/i18n/index.svelte';
import { toSignIn } from '../shared/api';
import { AgentClient, type LinkStatus } from '../shared/protocol/client';
import type { CommandResult, Commands, Snapshot, Welcome } from '../shared/protocol/types';
import { serverClock } from '../shared/ticker.svelte';
import { unlockOnGesture } from './audio/context';
import { RingTone } from './audio/ring';
import { CallAudio } from './audio.svelte';
import { Lines } from './lines.svelte';
import { keepMemory, takeMemory } from './memory';
import { Notes } from './notes.svelte';

export interface Notice {
  id: number;
  text: string;
}

const NOTICE_MS = 12_000;

export class Desk {
  snapshot = $state.raw<Snapshot | null>(null);
  welcome = $state.raw<Welcome | null>(null);
  link = $state.raw<LinkStatus>({ kind: 'connecting', attempt: 0 });
  /** Local instant since which there is no connection, or null. */
  down_since = $state<number | null>(null);
  notices = $state.raw<Notice[]>([]);
  accepting = $state(false);
  /** The contact to show beside the desk: the call that has just ended. */
  last_call_id = $state<string | null>(null);
  digits = $state('');

  readonly lines = new Lines();
  readonly notes = new Notes((call_id, notes) => this.client.send('notes', { call_id, notes }));
  readonly client: AgentClient;
  readonly audio: CallAudio;
  readonly #ring = new RingTone();
  #notification: Notification | null = null;
  #notice = 0;
  #announcedOffer: string | null = null;

  constructor() {
    const memory = takeMemory();
    if (memory?.call_id) this.lines.restore(memory.call_id, memory.lines);
    this.last_call_id = memory?.last_call_id ?? null;
    this.client = new AgentClient({
      url: `${location.protocol === 'https:' ? 'wss' : 'ws'}://${location.host}/api/v1/agent/ws`,
      client: 'trunkline-web/0.1',
      clock: serverClock,
      events: {
        status: (status) => this.#onStatus(status),
        welcome: (welcome) => {
          this.welcome = welcome;
          this.audio.joined(welcome.session);
        },
        snapshot: (snapshot) => this.#onSnapshot(snapshot),
        ring: () => undefined, // the snapshot that comes with it says more
        microphoneLost: () => this.audio.lost(),
        mediaMoved: (offer_id, generation) => this.audio.moved(offer_id, generation),
        transcript: (event) => this.#onTranscript(event),
      },
    });
    this.audio = new CallAudio(this.client, memory?.session ?? null);
    // A reload in mid call: the microphone opens while the socket does.
    if (memory?.in_call) void this.audio.openMicrophone();
  }

  start(): () => void {
    unlockOnGesture();
    const hide = (): void => this.#remember();
    const show = (event: PageTransitionEvent): void => {
      if (event.persisted) location.reload(); // sockets do not survive the back-forward cache
    };
    const online = (): void => this.client.connect();
    addEventListener('pagehide', hide);
    addEventListener('pageshow', show);
    addEventListener('online', online);
    this.client.connect();
    return () => {
      removeEventListener('pagehide', hide);
      removeEventListener('pageshow', show);
      removeEventListener('online', online);
      this.client.stop();
      this.audio.close();
      this.#ring.stop();
    };
  }

  get state(): Snapshot['state'] {
    return this.snapshot?.state ?? 'signed_out';
  }

  get inCall(): boolean {
    return this.state === 'talking' || this.state === 'connecting';
  }

  get reasons(): string[] {
    return this.welcome?.not_ready_reasons ?? [];
  }

  /** Sends a command and shows a refusal in words. */
  async do<K extends keyof Commands>(type: K, data: Commands[K]): Promise<boolean> {
    return this.#tell(await this.client.send(type, data));
  }

  async ready(): Promise<void> {
    // Ask for the microphone on the click itself: a person is looking, and the answer matters now.
    if (await this.audio.openMicrophone()) await this.do('ready', {});
  }

  async accept(): Promise<void> {
    const offer_id = this.snapshot?.call?.offer_id;
    if (!offer_id || this.accepting) return;
    this.accepting = true;
    this.#quiet();
    const result = await this.audio.accept(offer_id);
    this.accepting = false;
    this.#tell(result);
    if (!result.ok && this.state === 'ringing') this.#startRinging(this.snapshot);
  }

  async decline(): Promise<void> {
    const offer_id = this.snapshot?.call?.offer_id;
    if (offer_id) await this.do('decline', { offer_id });
  }

  /** `paused` when it can be resumed. */
  get recording(): 'on' | 'paused' | 'off' {
    return this.snapshot?.call?.recording ?? 'off';
  }

  async pauseRecording(on: boolean): Promise<void> {
    await this.do('pause_recording', { on });
  }

  async digit(digit: string): Promise<void> {
    this.digits = (this.digits + digit).slice(-32);
    await this.do('digits', { digits: digit });
  }

  async finish(disposition: string, tags: string[]): Promise<boolean> {
    await this.notes.flush();
    return this.do('wrap_up_finish', {
      ...(disposition ? { disposition } : {}),
      tags,
      notes: this.notes.text,
    });
  }

  /** False when the server keeps the agent signed in, for instance in mid call. */
  async signOut(): Promise<boolean> {
    if (this.link.kind === 'open' && !(await this.do('sign_out', {}))) return false;
    this.client.stop();
    this.audio.close();
    return true;
  }

  dismiss(id: number): void {
    this.notices = this.notices.filter((notice) => notice.id !== id);
  }

  #tell(result: CommandResult): boolean {
    if (!result.ok && result.error !== 'microphone') this.#warn(result.error ?? '', result.message ?? '');
    return result.ok;
  }

  #warn(code: string, detail: string): void {
    // What the call refuses it tells in a word.
    const key = code === 'call' ? `error.${detail}` : `error.${code}`;
    const text = i18n.has(key) ? t(key) : t('error.any', { detail: detail || code || '?' });
    const id = ++this.#notice;
    this.notices = [...this.notices.filter((notice) => notice.text !== text), { id, text }].slice(-4);
    setTimeout(() => this.dismiss(id), NOTICE_MS);
  }

  #onStatus(status: LinkStatus): void {
    this.link = status;
    if (status.kind === 'open') this.down_since = null;
    else this.down_since ??= Date.now();
    if (status.kind === 'closed' && status.reason === 'signed_out') toSignIn();
    if (status.kind === 'waiting' && status.attempt % 4 === 3) void this.#checkSession();
  }

  /** A refused upgrade looks like any failure to a page; the session tells whether to sign in again. */
  async #checkSession(): Promise<void> {
    const response = await fetch('/api/v1/session', { cache: 'no-store' }).catch(() => null);
    if (response?.status === 401) {
      this.client.stop('signed_out');
    }
  }

  #onSnapshot(next: Snapshot): void {
    const before = this.snapshot;
    this.snapshot = next;
    serverClock.sample(next.server_ms);
    if (before?.call && (next.state === 'wrap_up' || next.call === null)) {
      const talked = before.state === 'talking' || before.state === 'wrap_up';
      if (talked) this.last_call_id = before.call.call_id;
    }
    if (next.state === 'wrap_up' && next.call) this.last_call_id = next.call.call_id;
    if (next.call && (this.inCall || next.state === 'wrap_up')) {
      this.lines.follow(next.call.call_id);
      this.notes.follow(next.call.call_id, next.call.notes);
    }
    if (before?.call?.call_id !== next.call?.call_id) this.digits = '';
    if (next.state === 'ringing' && !this.accepting) this.#startRinging(next);
    else this.#quiet();
    this.audio.follow(next);
  }

  #startRinging(snapshot: Snapshot | null): void {
    const call = snapshot?.call;
    if (!call) return;
    if (this.audio.prefs.ring) this.#ring.start(this.audio.prefs.ring_volume);
    if (this.#announcedOffer === call.offer_id) return;
    this.#announcedOffer = call.offer_id;
    if (document.hidden && 'Notification' in window && Notification.permission === 'granted') {
      this.#notification = new Notification(t('ring.title'), {
        body: `${call.queue_name} · ${call.caller_name || call.caller_number || t('ring.anonymous')}`,
        tag: call.offer_id,
        requireInteraction: true,
      });
      this.#notification.onclick = () => window.focus();
    }
  }

  #quiet(): void {
    this.#ring.stop();
    this.#notification?.close();
    this.#notification = null;
  }

  #onTranscript(event: Parameters<Lines['take']>[0]): void {
    this.lines.take(event, this.snapshot?.call?.connected_ms ?? null, serverClock.now());
  }

  #remember(): void {
    const call = this.snapshot?.call ?? null;
    const mine = this.snapshot?.microphone === this.client.session;
    keepMemory({
      session: mine ? this.client.session : null,
      in_call: this.inCall && mine,
      call_id: call?.call_id ?? null,
      lines: call ? this.lines.done.slice(-500) : [],
      last_call_id: this.last_call_id,
    });
  }
}
