/** Audio choices of this browser, kept in localStorage under `trunkline.audio`. */

export interface AudioPrefs {
  /** Device ids; empty means the system's default. */
  microphone: string;
  speaker: string;
  /** Echo cancellation, noise suppression and gain control by the browser. */
  processing: boolean;
  ring: boolean;
  /** 0–1. */
  ring_volume: number;
}

const STORE = 'trunkline.audio';
const DEFAULTS: AudioPrefs = { microphone: '', speaker: '', processing: true, ring: true, ring_volume: 0.5 };

export function loadPrefs(): AudioPrefs {
  try {
    const stored = JSON.parse(localStorage.getItem(STORE) ?? '{}') as Partial<AudioPrefs>;
    return {
      microphone: typeof stored.microphone === 'string' ? stored.microphone : DEFAULTS.microphone,
      speaker: typeof stored.speaker === 'string' ? stored.speaker : DEFAULTS.speaker,
      processing: typeof stored.processing === 'boolean' ? stored.processing : DEFAULTS.processing,
      ring: typeof stored.ring === 'boolean' ? stored.ring : DEFAULTS.ring,
      ring_volume:
        typeof stored.ring_volume === 'number' && stored.ring_volume >= 0 && stored.ring_volume <= 1
          ? stored.ring_volume
          : DEFAULTS.ring_volume,
    };
  } catch {
    return { ...DEFAULTS };
  }
}

export function savePrefs(prefs: AudioPrefs): void {
  localStorage.setItem(STORE, JSON.stringify(prefs));
}
