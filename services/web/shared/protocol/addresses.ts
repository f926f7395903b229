/**
 * Where the consoles are. The page's own origin is the rule (a load balancer stands there); a welcome may
 * name others, and carries a ticket for them, since the cookie is sent to the own origin only.
 */
import type { Welcome } from './types';

export class Addresses {
  readonly #own: string;
  #alternates: string[] = [];
  #ticket: string | null = null;
  current: string;

  constructor(own: string) {
    this.#own = own;
    this.current = own;
  }

  learn(welcome: Welcome): void {
    const urls = (welcome.alternates ?? []).map(socketUrl);
    this.#alternates = urls.filter((url) => url !== null && url !== this.#own) as string[];
    this.#ticket = welcome.ticket ?? null;
  }

  /** For the next try: the same address once more, since most breaks are short; then all of them in turn. */
  next(attempt: number): void {
    const all = [this.#own, ...this.#alternates];
    if (attempt >= 2) this.current = all[(all.indexOf(this.current) + 1) % all.length] ?? this.#own;
  }

  /** True while the page is at another origin than its own. */
  get away(): boolean {
    return this.current !== this.#own;
  }

  /** What says there who this is. */
  get proof(): { ticket?: string } {
    return this.away && this.#ticket !== null ? { ticket: this.#ticket } : {};
  }
}

/** The agents' WebSocket of a console, from its origin; null when that is none. */
function socketUrl(origin: string): string | null {
  const match = /^(https?):\/\/([^/]+)\/?$/.exec(origin);
  return match ? `${match[1] === 'https' ? 'wss' : 'ws'}://${match[2]}/api/v1/agent/ws` : null;
}
