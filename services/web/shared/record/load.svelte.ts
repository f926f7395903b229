/**
 * Loads a contact record. Right after a call it is still being written: a missing record is asked for
 * again, and one whose recording or transcript is under way is refreshed, both for a bounded time.
 */
import { api, Problem } from '../api';
import type { Contact } from '../protocol/types';

export type RecordState =
  | { kind: 'loading' }
  | { kind: 'writing' }
  | { kind: 'ready'; contact: Contact }
  | { kind: 'missing' }
  | { kind: 'failed'; detail: string };

/** 90 s in all: a transcript lags a few seconds, an upload may take longer. */
const TRIES = 60;
const PAUSE_MS = 1_500;

export class RecordLoader {
  state = $state.raw<RecordState>({ kind: 'loading' });
  #stopped = false;
  #run = 0;

  /** Loads, and keeps what is shown until the newer record is there; a second run ends the first. */
  async run(call_id: string, fresh: boolean): Promise<void> {
    const run = ++this.#run;
    this.#stopped = false;
    for (let i = 0; i < TRIES && !this.#stopped && run === this.#run; i += 1) {
      const again = await this.#once(call_id, fresh && i < TRIES - 1);
      if (!again || run !== this.#run) return;
      await new Promise((resolve) => setTimeout(resolve, PAUSE_MS));
    }
  }

  stop(): void {
    this.#stopped = true;
  }

  async #once(call_id: string, fresh: boolean): Promise<boolean> {
    try {
      const contact = await api.contact(call_id);
      if (this.#stopped) return false;
      this.state = { kind: 'ready', contact };
      return fresh && unfinished(contact);
    } catch (error) {
      if (this.#stopped) return false;
      const status = error instanceof Problem ? error.status : -1;
      if (fresh && (status === 404 || status === 0 || status >= 500)) {
        if (this.state.kind !== 'ready') this.state = { kind: 'writing' };
        return true;
      }
      if (this.state.kind === 'ready') return false;
      this.state =
        status === 404 || status === 403
          ? { kind: 'missing' }
          : { kind: 'failed', detail: error instanceof Error ? error.message : String(error) };
      return false;
    }
  }
}

function unfinished(contact: Contact): boolean {
  if (contact.ended_ms === null || contact.ended_ms === undefined) return true;
  return contact.recordings.some((recording) => recording.state === 'recording') || contact.transcript_status === 'started';
}
