/** Notes saved as typed: debounced, one save under way at a time, never lost on an error. */
import type { CommandResult } from '../shared/protocol/types';

export type NotesStatus = { kind: 'saved' } | { kind: 'saving' } | { kind: 'unsaved'; detail: string };

const QUIET_MS = 500;
const RETRY_MS = 3_000;
/** The server takes 16 KiB of UTF-8; three bytes a character fit. */
export const MAX_NOTES = 5_000;

export class Notes {
  text = $state('');
  status = $state.raw<NotesStatus>({ kind: 'saved' });
  #call: string | null = null;
  #saved = '';
  #busy = false;
  #timer: ReturnType<typeof setTimeout> | undefined;
  readonly #save: (call_id: string, notes: string) => Promise<CommandResult>;

  constructor(save: (call_id: string, notes: string) => Promise<CommandResult>) {
    this.#save = save;
  }

  /** Follows the server's text while nothing typed here is unsaved (another tab may write too). */
  follow(call_id: string | null, notes: string): void {
    if (call_id === null) return;
    if (call_id !== this.#call) {
      void this.flush();
      this.#call = call_id;
      this.text = this.#saved = notes;
      this.status = { kind: 'saved' };
    } else if (this.text === this.#saved && !this.#busy) this.text = this.#saved = notes;
  }

  type(text: string): void {
    this.text = text.slice(0, MAX_NOTES);
    this.status = { kind: 'saving' };
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => void this.flush(), QUIET_MS);
  }

  /** Saves now; used before the wrap-up ends. */
  async flush(): Promise<void> {
    clearTimeout(this.#timer);
    const call = this.#call;
    if (call === null || this.#busy || this.text === this.#saved) {
      if (!this.#busy && this.text === this.#saved) this.status = { kind: 'saved' };
      return;
    }
    this.#busy = true;
    const sent = this.text;
    const result = await this.#save(call, sent);
    this.#busy = false;
    if (call !== this.#call) return;
    if (result.ok) {
      this.#saved = sent;
      if (this.text === sent) this.status = { kind: 'saved' };
      else this.#timer = setTimeout(() => void this.flush(), QUIET_MS);
    } else {
      this.status = { kind: 'unsaved', detail: result.message ?? result.error ?? '' };
      this.#timer = setTimeout(() => void this.flush(), RETRY_MS);
    }
  }
}
