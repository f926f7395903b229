/** The wallboard's state: the last live snapshot, its freshness, and a short history for the trend. */
import { toSignIn } from '../shared/api';
import { LiveStream, type LiveStatus } from '../shared/protocol/live';
import type { LiveSnapshot } from '../shared/protocol/types';
import { serverClock } from '../shared/ticker.svelte';

/** Points of the trend: one every 10 s, 15 minutes. */
const POINT_MS = 10_000;
const POINTS = 90;

export class Board {
  live = $state.raw<LiveSnapshot | null>(null);
  status = $state.raw<LiveStatus>({ kind: 'connecting' });
  /** Server instant of the last numbers, once they are no longer fresh; null while live. */
  stale_since = $state<number | null>(null);
  history = $state.raw<Record<string, number[]>>({});
  #bucket = 0;
  readonly #stream = new LiveStream('/api/v1/live/stream', {
    live: (snapshot) => this.#take(snapshot),
    status: (status) => this.#onStatus(status),
  });

  start(): () => void {
    void this.#stream.run();
    return () => this.#stream.stop();
  }

  #take(snapshot: LiveSnapshot): void {
    serverClock.sample(snapshot.at_ms);
    this.live = snapshot;
    this.stale_since = null;
    const bucket = Math.floor(snapshot.at_ms / POINT_MS);
    const fresh = bucket !== this.#bucket;
    this.#bucket = bucket;
    const next: Record<string, number[]> = {};
    for (const queue of snapshot.queues) {
      const points = [...(this.history[queue.queue_id] ?? [])];
      if (fresh || points.length === 0) points.push(queue.waiting);
      else points[points.length - 1] = Math.max(points[points.length - 1] ?? 0, queue.waiting);
      next[queue.queue_id] = points.slice(-POINTS);
    }
    this.history = next;
  }

  #onStatus(status: LiveStatus): void {
    this.status = status;
    if (status.kind === 'refused' && status.status === 401) toSignIn();
    if (status.kind !== 'open' && this.live) this.stale_since ??= serverClock.now();
  }
}
