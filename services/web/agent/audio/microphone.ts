/** The microphone: opened early and kept while the agent is ready, so that a pick-up does not wait for it. */
import type { AudioPrefs } from './prefs';

export type MicrophoneError = 'denied' | 'missing' | 'busy' | 'insecure' | 'failed';

export class MicrophoneFailure extends Error {
  readonly code: MicrophoneError;

  constructor(code: MicrophoneError, detail: string) {
    super(detail);
    this.code = code;
  }
}

export class Microphone {
  #stream: MediaStream | null = null;
  #opening: Promise<MediaStream> | null = null;
  #key = '';
  /** Called when the device vanishes (unplugged, taken by the system). */
  onEnded: () => void = () => undefined;

  get stream(): MediaStream | null {
    return this.#stream;
  }

  get live(): boolean {
    return this.#stream?.getAudioTracks()[0]?.readyState === 'live';
  }

  /** Opens the chosen microphone, or answers the open one. Throws `MicrophoneFailure`. */
  async open(prefs: AudioPrefs): Promise<MediaStream> {
    const key = `${prefs.microphone}/${prefs.processing}`;
    if (this.#stream && this.live && this.#key === key) return this.#stream;
    if (this.#opening && this.#key === key) return this.#opening;
    this.#key = key;
    const opening = this.#acquire(prefs).finally(() => {
      if (this.#opening === opening) this.#opening = null;
    });
    this.#opening = opening;
    return opening;
  }

  async #acquire(prefs: AudioPrefs): Promise<MediaStream> {
    if (!navigator.mediaDevices?.getUserMedia) throw new MicrophoneFailure('insecure', 'no mediaDevices');
    const constraints = (device: string): MediaStreamConstraints => ({
      audio: {
        ...(device ? { deviceId: { exact: device } } : {}),
        echoCancellation: prefs.processing,
        noiseSuppression: prefs.processing,
        autoGainControl: prefs.processing,
        channelCount: 1,
      },
    });
    let stream: MediaStream;
    try {
      stream = await navigator.mediaDevices.getUserMedia(constraints(prefs.microphone));
    } catch (error) {
      // A headset that was chosen once and is not plugged in today: the default is better than silence.
      if (!prefs.microphone || !(error instanceof DOMException) || error.name !== 'OverconstrainedError') {
        throw failure(error);
      }
      stream = await navigator.mediaDevices.getUserMedia(constraints('')).catch((again: unknown) => {
        throw failure(again);
      });
    }
    const old = this.#stream;
    this.#stream = stream;
    old?.getTracks().forEach((track) => track.stop());
    stream.getAudioTracks()[0]?.addEventListener('ended', () => {
      if (this.#stream === stream) this.onEnded();
    });
    return stream;
  }

  close(): void {
    this.#stream?.getTracks().forEach((track) => track.stop());
    this.#stream = null;
    this.#key = '';
  }
}

function failure(error: unknown): MicrophoneFailure {
  const name = error instanceof DOMException ? error.name : '';
  const detail = error instanceof Error ? error.message : String(error);
  if (name === 'NotAllowedError' || name === 'SecurityError') return new MicrophoneFailure('denied', detail);
  if (name === 'NotFoundError' || name === 'OverconstrainedError') return new MicrophoneFailure('missing', detail);
  if (name === 'NotReadableError' || name === 'AbortError') return new MicrophoneFailure('busy', detail);
  return new MicrophoneFailure('failed', detail || name);
}
