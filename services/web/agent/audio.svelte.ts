/**
 * The call's audio on this page: microphone, connection, speaker, and the rule which page holds it.
 * `follow` is fed with every snapshot and brings the audio to what the snapshot says; it never takes
 * the microphone from another page by itself.
 *
 * When the call's media moves to another node, a new connection is made beside the old one, which stays
 * until the new one carries audio: a node that is emptied on purpose is not heard to go.
 */
import type { AgentClient } from '../shared/protocol/client';
import type { CommandResult, Snapshot } from '../shared/protocol/types';
import { audioContext, LevelMeter } from './audio/context';
import { MediaLink, type LinkState } from './audio/link';
import { Microphone, MicrophoneFailure, type MicrophoneError } from './audio/microphone';
import { loadPrefs, savePrefs, type AudioPrefs } from './audio/prefs';
import type { Quality } from './audio/quality';
import { useSpeaker } from './audio/ring';

/** A page that saw the call begin elsewhere waits this long before it helps an orphaned call. */
const ORPHAN_MS = 5_000;
const RETRIES_MS = [0, 500, 1_000, 2_000, 4_000, 8_000];
/** The old connection is kept for so long beside the new one. */
const FORMER_MS = 5_000;

export class CallAudio {
  prefs = $state.raw<AudioPrefs>(loadPrefs());
  link = $state<LinkState>('idle');
  quality = $state.raw<Quality | null>(null);
  remote = $state.raw<MediaStream | null>(null);
  microphone = $state<'off' | 'open'>('off');
  failure = $state.raw<{ code: MicrophoneError; detail: string } | null>(null);
  /** The call's microphone is on another page; a person may take it over. */
  elsewhere = $state(false);
  /** All attempts to set the audio up have failed. */
  failed = $state(false);
  blocked = $state(false);

  readonly #client: AgentClient;
  readonly #mic = new Microphone();
  #media: MediaLink;
  /** The connection to the node that the call's media is leaving. */
  #former: MediaLink | null = null;
  #formerTimer: ReturnType<typeof setTimeout> | undefined;
  /** Moves of the call's media that this page's connection is made for. */
  #generation = 0;
  #meter: LevelMeter | null = null;
  #meterStream: MediaStream | null = null;
  /** Sessions of this very page, now and before: what they hold is ours. */
  readonly #own = new Set<string>();
  /** The session for which this page's connection was made. */
  #connectedAs: string | null = null;
  #snapshot: Snapshot | null = null;
  #sawOther = false;
  #busy = false;
  #attempt = 0;
  #timer: ReturnType<typeof setTimeout> | undefined;

  constructor(client: AgentClient, previous: string | null) {
    this.#client = client;
    if (previous) this.#own.add(previous);
    this.#media = this.#make();
    this.#mic.onEnded = () => {
      this.microphone = 'off';
      void this.openMicrophone();
    };
  }

  /** The socket has (another) session now. */
  joined(session: string): void {
    this.#own.add(session);
  }

  /** A connection whose events count while it is the present one. */
  #make(): MediaLink {
    let stream: MediaStream | null = null;
    const link: MediaLink = new MediaLink({
      state: (state) => {
        if (link !== this.#media) return;
        // Until now the old node was heard.
        if (state === 'connected') this.remote = stream;
        this.#onLink(state);
      },
      remote: (next) => {
        stream = next;
        if (link === this.#media && this.#former === null) this.remote = next;
      },
      quality: (quality) => {
        if (link === this.#media) this.quality = quality;
      },
    });
    return link;
  }

  /** The call's media is at another node since this move. */
  moved(offer_id: string, generation: number): void {
    if (offer_id !== this.#snapshot?.call?.offer_id || generation <= this.#generation) return;
    if (!this.#inCall() || this.elsewhere) return;
    // One that is under way was made for the node before: it is followed by another one.
    if (this.#busy) return;
    this.#generation = generation;
    this.#attempt = 0;
    this.failed = false;
    this.#later(0, false, true);
  }

  /** Brings microphone and connection to what the snapshot asks for. */
  follow(snapshot: Snapshot): void {
    this.#snapshot = snapshot;
    const inCall = snapshot.state === 'talking' || snapshot.state === 'connecting';
    this.#mute(snapshot);
    if (!inCall) {
      this.#settleIdle(snapshot);
      return;
    }
    if (this.#busy) return;
    const holder = snapshot.microphone;
    const own = this.#client.session;
    if (holder !== null && !this.#own.has(holder)) {
      this.#sawOther = true;
      this.elsewhere = true;
      clearTimeout(this.#timer);
      this.#hangUp();
      return;
    }
    this.elsewhere = false;
    const { offer_id, media_generation } = snapshot.call ?? { offer_id: '', media_generation: 0 };
    if (this.#media.active && holder === own && media_generation > this.#generation) {
      return this.moved(offer_id, media_generation);
    }
    if (this.failed) return;
    // A connection that was made for an earlier session of this page has to move to the present one.
    const moved = holder !== null && holder !== own;
    const renewed = this.#connectedAs !== null && this.#connectedAs !== own;
    if (this.#media.active && !renewed) return;
    const orphan = holder === null && this.#sawOther;
    this.#later(orphan ? ORPHAN_MS : (RETRIES_MS[this.#attempt] ?? 0), moved);
  }

  /** Answers the offer: microphone, offer, answer. The result says why not. */
  async accept(offer_id: string): Promise<CommandResult> {
    return this.#establish((sdp) => this.#client.send('accept', { offer_id, sdp }));
  }

  /** Takes the call's audio to this page. */
  async takeOver(): Promise<CommandResult> {
    this.failed = false;
    this.#attempt = 0;
    return this.#establish((sdp) => this.#client.send('media_resume', { sdp, take_over: true }));
  }

  /** Another page has the microphone now. */
  lost(): void {
    this.#sawOther = true;
    this.#hangUp();
    if (this.#snapshot) this.follow(this.#snapshot);
  }

  async openMicrophone(): Promise<boolean> {
    try {
      const stream = await this.#mic.open(this.prefs);
      this.failure = null;
      this.microphone = 'open';
      if (stream !== this.#meterStream) {
        this.#meter?.close();
        this.#meter = new LevelMeter(stream);
        this.#meterStream = stream;
        await this.#media.useMicrophone(stream);
      }
      return true;
    } catch (error) {
      const failure = error instanceof MicrophoneFailure ? error : new MicrophoneFailure('failed', String(error));
      this.microphone = 'off';
      this.failure = { code: failure.code, detail: failure.message };
      return false;
    }
  }

  level(): number {
    return this.microphone === 'open' ? (this.#meter?.read() ?? 0) : 0;
  }

  async change(change: Partial<AudioPrefs>): Promise<void> {
    this.prefs = { ...this.prefs, ...change };
    savePrefs(this.prefs);
    if ('speaker' in change) await useSpeaker(this.prefs.speaker);
    if ('microphone' in change || 'processing' in change) await this.openMicrophone();
  }

  /** A person pressed "try again" after all attempts had failed. */
  again(): void {
    this.failed = false;
    this.#attempt = 0;
    if (this.#snapshot) this.follow(this.#snapshot);
  }

  close(): void {
    clearTimeout(this.#timer);
    this.#hangUp();
    this.#mic.close();
  }

  /** Ends the connections, the old one too. */
  #hangUp(): void {
    this.#leaveFormer();
    this.#media.close();
  }

  /** The new connection carries the audio, or nothing does. */
  #leaveFormer(): void {
    clearTimeout(this.#formerTimer);
    const former = this.#former;
    this.#former = null;
    former?.close();
    if (former && !this.#media.active) {
      this.remote = null;
      this.quality = null;
    }
  }

  /** What came while a connection was being made. */
  #catchUp(): void {
    this.#mute(this.#snapshot);
    const call = this.#snapshot?.call;
    if (call && this.#media.active && this.#snapshot?.microphone === this.#client.session) {
      this.moved(call.offer_id, call.media_generation);
    }
  }

  #mute(snapshot: Snapshot | null): void {
    const muted = snapshot?.call?.muted ?? false;
    this.#media.setMuted(muted);
    this.#former?.setMuted(muted);
  }

  #settleIdle(snapshot: Snapshot): void {
    clearTimeout(this.#timer);
    this.elsewhere = false;
    this.failed = false;
    this.#attempt = 0;
    this.#sawOther = false;
    if (snapshot.state !== 'ringing') this.#generation = 0;
    if (snapshot.state !== 'ringing' && !this.#busy) this.#hangUp();
    if (snapshot.state === 'ready' || snapshot.state === 'ringing') {
      // An early open makes the pick-up fast; a refusal is told now and not when a caller waits.
      if (!this.#mic.live && this.failure === null) void this.openMicrophone();
    } else if (snapshot.state === 'not_ready' && !this.checking) this.#release();
  }

  /** The audio check is open: keep the microphone though not ready. */
  checking = false;

  #release(): void {
    if (!this.#mic.stream) return;
    this.#meter?.close();
    this.#meter = null;
    this.#meterStream = null;
    this.#mic.close();
    this.microphone = 'off';
  }

  endCheck(): void {
    this.checking = false;
    if (this.#snapshot?.state === 'not_ready') this.#release();
  }

  #later(ms: number, take_over: boolean, beside = false): void {
    clearTimeout(this.#timer);
    const run = async (): Promise<void> => {
      const resume = (sdp: string): Promise<CommandResult> => this.#client.send('media_resume', { sdp, take_over });
      const result = await this.#establish(resume, beside);
      if (result.ok || !this.#inCall()) return;
      this.#attempt += 1;
      if (this.#attempt >= RETRIES_MS.length) this.failed = true;
      else if (this.#snapshot) this.follow(this.#snapshot);
    };
    if (ms === 0) void run();
    else this.#timer = setTimeout(() => void run(), ms);
  }

  #inCall(): boolean {
    return this.#snapshot?.state === 'talking' || this.#snapshot?.state === 'connecting';
  }

  /** `beside`: the present connection stays until the new one stands. */
  async #establish(command: (sdp: string) => Promise<CommandResult>, beside = false): Promise<CommandResult> {
    if (this.#busy) return { ok: false, error: 'busy' };
    this.#busy = true;
    clearTimeout(this.#timer);
    try {
      audioContext();
      if (!(await this.openMicrophone())) return { ok: false, error: 'microphone' };
      const stream = this.#mic.stream;
      if (!stream) return { ok: false, error: 'microphone' };
      if (beside && this.#media.active && this.#former === null) {
        this.#former = this.#media;
        this.#media = this.#make();
        this.#media.setMuted(this.#snapshot?.call?.muted ?? false);
        this.#formerTimer = setTimeout(() => this.#leaveFormer(), FORMER_MS);
      }
      const generation = this.#snapshot?.call?.media_generation ?? 0;
      const result = await command(await this.#media.offer(stream));
      if (result.ok && result.sdp) {
        this.#generation = Math.max(this.#generation, generation);
        await this.#media.answer(result.sdp);
        this.#connectedAs = this.#client.session;
        this.elsewhere = false;
      } else this.#media.close();
      return result;
    } catch (error) {
      this.#media.close();
      return { ok: false, error: 'audio', message: error instanceof Error ? error.message : String(error) };
    } finally {
      this.#busy = false;
      queueMicrotask(() => this.#catchUp());
    }
  }

  #onLink(state: LinkState): void {
    this.link = state;
    if (state === 'connected') {
      this.#attempt = 0;
      this.#leaveFormer();
    }
    if (state !== 'lost' || !this.#inCall() || this.elsewhere) return;
    this.#attempt = Math.max(1, this.#attempt);
    if (this.#snapshot) this.follow(this.#snapshot);
  }
}
