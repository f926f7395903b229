/**
 * The recording's player: one audio element, whose two channels can be heard together or apart.
 * Position comes from the element; seeking uses its byte ranges, so nothing is loaded in advance.
 */

export type Hear = 'both' | 'caller' | 'agent';

export class Player {
  at = $state(0);
  total = $state(0);
  playing = $state(false);
  failed = $state(false);
  hear = $state<Hear>('both');
  rate = $state(1);
  #element: HTMLAudioElement | null = null;
  #gains: { caller: GainNode; agent: GainNode } | null = null;
  #wanted: number | null = null;

  constructor(duration_ms: number | null) {
    this.total = (duration_ms ?? 0) / 1000;
  }

  /** Attaches to the element (a Svelte attachment). */
  attach = (element: HTMLAudioElement): (() => void) => {
    this.#element = element;
    const on: [string, () => void][] = [
      ['timeupdate', () => (this.at = element.currentTime)],
      ['seeked', () => (this.at = element.currentTime)],
      ['play', () => (this.playing = true)],
      ['pause', () => (this.playing = false)],
      ['ended', () => (this.playing = false)],
      ['error', () => (this.failed = true)],
      [
        'loadedmetadata',
        () => {
          this.failed = false;
          if (Number.isFinite(element.duration)) this.total = element.duration;
          if (this.#wanted !== null) element.currentTime = this.#wanted;
          this.#wanted = null;
        },
      ],
    ];
    for (const [name, listener] of on) element.addEventListener(name, listener);
    return () => {
      for (const [name, listener] of on) element.removeEventListener(name, listener);
      element.pause();
      this.#element = null;
    };
  };

  seek(seconds: number, play = false): void {
    const element = this.#element;
    if (!element) return;
    const to = Math.min(Math.max(0, seconds), this.total || seconds);
    this.at = to;
    if (element.readyState === 0) this.#wanted = to;
    else element.currentTime = to;
    if (play) void this.play();
  }

  async toggle(): Promise<void> {
    if (this.playing) this.#element?.pause();
    else await this.play();
  }

  async play(): Promise<void> {
    await this.#element?.play().catch(() => undefined);
  }

  setRate(rate: number): void {
    this.rate = rate;
    if (this.#element) this.#element.playbackRate = rate;
  }

  /** Chooses the channels; the audio graph is built at the first choice and not before. */
  setHear(hear: Hear): void {
    this.hear = hear;
    const gains = (this.#gains ??= this.#build());
    if (!gains) return;
    gains.caller.gain.value = hear === 'agent' ? 0 : 1;
    gains.agent.gain.value = hear === 'caller' ? 0 : 1;
  }

  #build(): { caller: GainNode; agent: GainNode } | null {
    if (!this.#element) return null;
    const audio = new AudioContext();
    const split = new ChannelSplitterNode(audio, { numberOfOutputs: 2 });
    const caller = new GainNode(audio);
    const agent = new GainNode(audio);
    audio.createMediaElementSource(this.#element).connect(split);
    split.connect(caller, 0).connect(audio.destination);
    split.connect(agent, 1).connect(audio.destination);
    return { caller, agent };
  }
}
