/**
 * One WebRTC connection to the media node: the browser offers on pick-up, without trickle and without
 * STUN servers (the node is ICE-lite and reachable), one audio m-line. Owns the peer connection and
 * its health; the session layer decides when to make a new one.
 */
import { counters, judge, MEASURING, type Counters, type Quality } from './quality';

export type LinkState = 'idle' | 'connecting' | 'connected' | 'lost';

export interface LinkEvents {
  state(state: LinkState): void;
  remote(stream: MediaStream | null): void;
  quality(quality: Quality | null): void;
}

const STATS_MS = 1_000;
/** An answer that does not lead to a connection within this is a failure. */
const CONNECT_MS = 10_000;
/** ICE `disconnected` may heal by itself; after this it is treated as lost, since a new offer costs little. */
const DISCONNECTED_MS = 1_000;

export class MediaLink {
  #peer: RTCPeerConnection | null = null;
  #track: MediaStreamTrack | null = null;
  #muted = false;
  #state: LinkState = 'idle';
  #before: Counters | null = null;
  #stats: ReturnType<typeof setInterval> | undefined;
  #watch: ReturnType<typeof setTimeout> | undefined;
  readonly #events: LinkEvents;

  constructor(events: LinkEvents) {
    this.#events = events;
  }

  get state(): LinkState {
    return this.#state;
  }

  /** True while this page holds, or is setting up, the call's audio. */
  get active(): boolean {
    return this.#state === 'connecting' || this.#state === 'connected';
  }

  /** A fresh offer with the microphone's track; replaces any earlier connection. */
  async offer(microphone: MediaStream): Promise<string> {
    this.close();
    const track = microphone.getAudioTracks()[0];
    if (!track) throw new Error('the microphone has no audio track');
    const peer = new RTCPeerConnection({ bundlePolicy: 'max-bundle' });
    this.#peer = peer;
    // A clone: muting here must not silence the level meter of the audio check.
    this.#track = track.clone();
    this.#track.enabled = !this.#muted;
    peer.addTrack(this.#track, microphone);
    peer.ontrack = (event) => {
      if (peer === this.#peer) this.#events.remote(event.streams[0] ?? new MediaStream([event.track]));
    };
    peer.onconnectionstatechange = () => this.#onState(peer);
    this.#set('connecting');
    this.#arm(CONNECT_MS);
    await peer.setLocalDescription(await peer.createOffer());
    return peer.localDescription?.sdp ?? '';
  }

  /** Takes the node's answer to the last offer. */
  async answer(sdp: string): Promise<void> {
    const peer = this.#peer;
    if (!peer) return;
    await peer.setRemoteDescription({ type: 'answer', sdp });
    const transport = peer.getSenders()[0]?.transport;
    if (transport) {
      // The node's goodbye (close_notify) is seen here, not at the connection's state.
      transport.onstatechange = () => {
        if (peer === this.#peer && (transport.state === 'closed' || transport.state === 'failed')) this.#lose();
      };
    }
    this.#before = null;
    this.#events.quality(MEASURING);
    clearInterval(this.#stats);
    this.#stats = setInterval(() => void this.#measure(peer), STATS_MS);
  }

  setMuted(muted: boolean): void {
    this.#muted = muted;
    if (this.#track) this.#track.enabled = !muted;
  }

  /** Changes the microphone in the middle of a call without a new offer. */
  async useMicrophone(microphone: MediaStream): Promise<void> {
    const sender = this.#peer?.getSenders()[0];
    const track = microphone.getAudioTracks()[0]?.clone();
    if (!sender || !track) return;
    track.enabled = !this.#muted;
    await sender.replaceTrack(track);
    this.#track?.stop();
    this.#track = track;
  }

  close(): void {
    clearInterval(this.#stats);
    clearTimeout(this.#watch);
    const peer = this.#peer;
    this.#peer = null;
    if (peer) {
      peer.ontrack = peer.onconnectionstatechange = null;
      peer.close();
    }
    this.#track?.stop();
    this.#track = null;
    this.#before = null;
    if (this.#state !== 'idle') {
      this.#events.remote(null);
      this.#events.quality(null);
      this.#set('idle');
    }
  }

  #onState(peer: RTCPeerConnection): void {
    if (peer !== this.#peer) return;
    if (peer.connectionState === 'connected') {
      clearTimeout(this.#watch);
      this.#set('connected');
    } else if (peer.connectionState === 'failed' || peer.connectionState === 'closed') this.#lose();
    else if (peer.connectionState === 'disconnected') this.#arm(DISCONNECTED_MS);
  }

  #arm(ms: number): void {
    clearTimeout(this.#watch);
    this.#watch = setTimeout(() => this.#lose(), ms);
  }

  #lose(): void {
    this.close();
    this.#set('lost');
  }

  #set(state: LinkState): void {
    if (state === this.#state) return;
    this.#state = state;
    this.#events.state(state);
  }

  async #measure(peer: RTCPeerConnection): Promise<void> {
    const report = await peer.getStats().catch(() => null);
    if (!report || peer !== this.#peer) return;
    const now = counters(report);
    if (!now) return;
    this.#events.quality(judge(this.#before, now));
    this.#before = now;
  }
}
