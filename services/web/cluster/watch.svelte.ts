/** The cluster's state, asked for every two seconds while somebody looks. */
import { call, Problem, toSignIn } from '../shared/api';
import { backoffDelay } from '../shared/protocol/backoff';
import { serverClock } from '../shared/ticker.svelte';
import { Drains } from './figures';
import type { Overview } from './types';

const EVERY_MS = 2_000;

export class Watch {
  overview = $state.raw<Overview | null>(null);
  /** Why the last question was not answered. */
  problem = $state.raw<Problem | null>(null);
  /** Server instant of the last answer, once later ones are missing; null while fresh. */
  stale_since = $state<number | null>(null);
  /** Share that has left, by node that drains. */
  drains = $state.raw<Map<string, number>>(new Map());
  readonly #drains = new Drains();
  #timer: ReturnType<typeof setTimeout> | undefined;
  #failures = 0;
  #asking = false;
  #stopped = false;

  start(): () => void {
    const seen = (): void => {
      if (!document.hidden) void this.ask();
    };
    document.addEventListener('visibilitychange', seen);
    void this.ask();
    return () => {
      this.#stopped = true;
      clearTimeout(this.#timer);
      document.removeEventListener('visibilitychange', seen);
    };
  }

  /** Asks now, unless a question is under way. */
  async ask(): Promise<void> {
    if (this.#asking || this.#stopped) return;
    this.#asking = true;
    clearTimeout(this.#timer);
    try {
      const overview = await call<Overview>('GET', '/cluster');
      serverClock.sample(overview.at_ms);
      this.drains = this.#drains.follow(overview.members);
      this.overview = overview;
      this.problem = null;
      this.stale_since = null;
      this.#failures = 0;
    } catch (error) {
      this.#failed(error instanceof Problem ? error : new Problem(0, 'failed', String(error), null, null));
    } finally {
      this.#asking = false;
    }
    if (this.#stopped || document.hidden || this.problem?.status === 403) return;
    const wait = this.#failures === 0 ? EVERY_MS : backoffDelay(this.#failures - 1);
    this.#timer = setTimeout(() => void this.ask(), wait);
  }

  #failed(problem: Problem): void {
    if (problem.status === 401) toSignIn();
    this.#failures += 1;
    this.problem = problem;
    if (this.overview) this.stale_since ??= this.overview.at_ms;
  }

  /** Drains a node, or takes that back. */
  async setDrain(node: string, drain: boolean): Promise<void> {
    await call<void>('POST', `/cluster/nodes/${encodeURIComponent(node)}/${drain ? 'drain' : 'undrain'}`);
    await this.ask();
  }
}
