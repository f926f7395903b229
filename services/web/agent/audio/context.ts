/** One AudioContext for the page: meters, ring tone, test tone. */
let context: AudioContext | null = null;

export function audioContext(): AudioContext {
  context ??= new AudioContext({ latencyHint: 'interactive' });
  if (context.state === 'suspended') void context.resume().catch(() => undefined);
  return context;
}

/** Browsers start sound only after a gesture: take the first one. */
export function unlockOnGesture(): void {
  const unlock = (): void => {
    audioContext();
  };
  addEventListener('pointerdown', unlock, { once: true, capture: true });
  addEventListener('keydown', unlock, { once: true, capture: true });
}

/** Level of a stream, 0–1 on a scale that follows loudness (−60 dBFS is 0). */
export class LevelMeter {
  readonly #analyser: AnalyserNode;
  readonly #source: MediaStreamAudioSourceNode;
  readonly #samples: Float32Array<ArrayBuffer>;

  constructor(stream: MediaStream) {
    const audio = audioContext();
    this.#analyser = new AnalyserNode(audio, { fftSize: 1024 });
    this.#samples = new Float32Array(this.#analyser.fftSize);
    this.#source = audio.createMediaStreamSource(stream);
    this.#source.connect(this.#analyser);
  }

  read(): number {
    this.#analyser.getFloatTimeDomainData(this.#samples);
    let sum = 0;
    for (const sample of this.#samples) sum += sample * sample;
    const db = 10 * Math.log10(sum / this.#samples.length + 1e-12);
    return Math.min(1, Math.max(0, (db + 60) / 60));
  }

  close(): void {
    this.#source.disconnect();
  }
}
