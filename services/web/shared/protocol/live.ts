/**
 * The live stream of the wallboard: server-sent events read by `fetch`, not by EventSource, because
 * only so the keep-alive comments are seen (silence is noticed) and a refusal has a status.
 */
import { backoffDelay } from './backoff';
import type { LiveSnapshot } from './types';

/** Splits a byte stream into events; a comment is an event without data. */
export class EventParser {
  #rest = '';
  #event = '';
  #data: string[] = [];

  /** Longest unfinished line kept; a longer one is dropped rather than held in memory. */
  static readonly MAX_LINE = 4_000_000;

  push(text: string): { event: string; data: string }[] {
    const out: { event: string; data: string }[] = [];
    const lines = (this.#rest + text).split(/\r\n|\n|\r(?!$)/);
    this.#rest = lines.pop() ?? '';
    if (this.#rest.length > EventParser.MAX_LINE) this.#rest = '';
    for (const line of lines) {
      if (line === '') {
        if (this.#data.length > 0) out.push({ event: this.#event || 'message', data: this.#data.join('\n') });
        this.#event = '';
        this.#data = [];
      } else if (line.startsWith('event:')) this.#event = line.slice(6).trim();
      else if (line.startsWith('data:')) this.#data.push(line.slice(line[5] === ' ' ? 6 : 5));
    }
    return out;
  }
}

export type LiveStatus =
  | { kind: 'connecting' }
  | { kind: 'open' }
  | { kind: 'waiting'; retry_in_ms: number }
  | { kind: 'refused'; status: number };

export interface LiveEvents {
  live(snapshot: LiveSnapshot): void;
  status(status: LiveStatus): void;
}

/** Keep-alive comments come every 15 s; twice that and a bit without a byte is a dead stream. */
const SILENCE_MS = 35_000;

export class LiveStream {
  #stopped = false;
  #attempt = 0;
  #abort: AbortController | null = null;
  readonly #url: string;
  readonly #events: LiveEvents;
  readonly #fetch: typeof fetch;

  constructor(url: string, events: LiveEvents, fetcher: typeof fetch = (...args) => fetch(...args)) {
    this.#url = url;
    this.#events = events;
    this.#fetch = fetcher;
  }

  /** Reads until `stop`; resolves when stopped or refused for good. */
  async run(): Promise<void> {
    while (!this.#stopped) {
      this.#events.status({ kind: 'connecting' });
      const refused = await this.#once();
      if (this.#stopped) return;
      if (refused !== null) {
        this.#events.status({ kind: 'refused', status: refused });
        return;
      }
      const retry_in_ms = backoffDelay(this.#attempt++);
      this.#events.status({ kind: 'waiting', retry_in_ms });
      await new Promise((resolve) => setTimeout(resolve, retry_in_ms));
    }
  }

  stop(): void {
    this.#stopped = true;
    this.#abort?.abort();
  }

  /** One connection; the status when the server will never let us in, else null. */
  async #once(): Promise<number | null> {
    const abort = (this.#abort = new AbortController());
    let watchdog = setTimeout(() => abort.abort(), SILENCE_MS);
    try {
      const response = await this.#fetch(this.#url, {
        headers: { accept: 'text/event-stream' },
        cache: 'no-store',
        signal: abort.signal,
      });
      if (response.status === 401 || response.status === 403) return response.status;
      if (!response.ok || !response.body) return null;
      const reader = response.body.getReader();
      const decoder = new TextDecoder();
      const parser = new EventParser();
      for (;;) {
        const { done, value } = await reader.read();
        if (done) return null;
        clearTimeout(watchdog);
        watchdog = setTimeout(() => abort.abort(), SILENCE_MS);
        for (const { event, data } of parser.push(decoder.decode(value, { stream: true }))) {
          if (event !== 'live') continue;
          this.#attempt = 0;
          this.#events.status({ kind: 'open' });
          this.#events.live(JSON.parse(data) as LiveSnapshot);
        }
      }
    } catch {
      return null; // network trouble, abort or a broken event: connect again
    } finally {
      clearTimeout(watchdog);
    }
  }
}
