/**
 * The ring tone: two soft notes, 1 s on and 2 s off, made by WebAudio, so nothing has to be loaded.
 * A lock shared by the tabs of this browser lets only one of them sound.
 */
import { audioContext } from './context';

const PERIOD_MS = 3_000;

export class RingTone {
  #timer: ReturnType<typeof setInterval> | undefined;
  #release: (() => void) | null = null;
  #wanted = false;

  start(volume: number): void {
    if (this.#wanted) return;
    this.#wanted = true;
    const begin = (): void => {
      if (!this.#wanted) return;
      this.#burst(volume);
      this.#timer = setInterval(() => this.#burst(volume), PERIOD_MS);
    };
    if (!navigator.locks) {
      begin();
      return;
    }
    void navigator.locks
      .request('trunkline.ring', () => {
        if (!this.#wanted) return undefined;
        begin();
        return new Promise<void>((resolve) => (this.#release = resolve));
      })
      .catch(() => undefined);
  }

  stop(): void {
    this.#wanted = false;
    clearInterval(this.#timer);
    this.#timer = undefined;
    this.#release?.();
    this.#release = null;
  }

  #burst(volume: number): void {
    const audio = audioContext();
    if (audio.state !== 'running') return;
    for (const [start, hz] of [
      [0, 523.25],
      [0.22, 659.25],
      [0.5, 523.25],
      [0.72, 659.25],
    ] as const) {
      note(audio, audio.currentTime + start, hz, 0.2, volume * 0.35);
    }
  }
}

/** A test tone of one second on the chosen speaker. */
export function playTestTone(): void {
  const audio = audioContext();
  note(audio, audio.currentTime + 0.02, 440, 1, 0.25);
}

/** Sends the context's sound to a speaker, where the browser can. */
export async function useSpeaker(device: string): Promise<void> {
  const audio = audioContext() as AudioContext & { setSinkId?: (id: string) => Promise<void> };
  await audio.setSinkId?.(device).catch(() => undefined);
}

function note(audio: AudioContext, at: number, hz: number, seconds: number, volume: number): void {
  const gain = new GainNode(audio, { gain: 0 });
  const tone = new OscillatorNode(audio, { frequency: hz, type: 'sine' });
  gain.gain.setValueAtTime(0, at);
  gain.gain.linearRampToValueAtTime(volume, at + 0.02);
  gain.gain.setValueAtTime(volume, at + seconds * 0.6);
  gain.gain.exponentialRampToValueAtTime(0.0001, at + seconds);
  tone.connect(gain).connect(audio.destination);
  tone.start(at);
  tone.stop(at + seconds + 0.02);
}
