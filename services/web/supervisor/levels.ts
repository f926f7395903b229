/** When a number is worrying. Always shown as a word and an icon too, never by colour alone. */
import type { LiveQueue } from '../shared/protocol/types';

export type Level = 'idle' | 'ok' | 'warn' | 'crit';

/** Share below which the service level is at risk, and below which it is out of target. */
export const SERVICE_LEVEL = { warn: 0.8, crit: 0.7 } as const;

export function longestWait(queue: LiveQueue, now_ms: number): number | null {
  return queue.oldest_entered_ms === null || queue.oldest_entered_ms === undefined || queue.waiting === 0
    ? null
    : Math.max(0, now_ms - queue.oldest_entered_ms);
}

/** At risk from half of the target on, out of target beyond it. */
export function waitLevel(queue: LiveQueue, now_ms: number): Level {
  const wait = longestWait(queue, now_ms);
  if (wait === null) return 'idle';
  const target = queue.service_level_target_s * 1000;
  if (wait > target) return 'crit';
  return wait > target / 2 ? 'warn' : 'ok';
}

export function serviceLevel(share: number | null | undefined): Level {
  if (share === null || share === undefined) return 'idle';
  if (share < SERVICE_LEVEL.crit) return 'crit';
  return share < SERVICE_LEVEL.warn ? 'warn' : 'ok';
}

/** The worse of the two, and out of target when callers wait and nobody is there for them. */
export function queueLevel(queue: LiveQueue, now_ms: number): Level {
  if (queue.waiting > 0 && queue.agents_ready + queue.agents_busy === 0) return 'crit';
  const order: Level[] = ['idle', 'ok', 'warn', 'crit'];
  const worst = Math.max(order.indexOf(waitLevel(queue, now_ms)), order.indexOf(serviceLevel(queue.service_level)));
  return order[worst] ?? 'idle';
}
