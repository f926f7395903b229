/**
 * What survives a reload of this tab. Written when the page goes away and taken (removed) when it
 * comes back, so that a duplicated tab, which gets a copy of sessionStorage, inherits nothing.
 */
import type { Line } from './lines.svelte';

export interface Memory {
  session: string | null;
  in_call: boolean;
  call_id: string | null;
  lines: Line[];
  last_call_id: string | null;
}

const STORE = 'trunkline.desk';

export function takeMemory(): Memory | null {
  const text = sessionStorage.getItem(STORE);
  sessionStorage.removeItem(STORE);
  if (text === null) return null;
  try {
    const memory = JSON.parse(text) as Partial<Memory>;
    return {
      session: memory.session ?? null,
      in_call: memory.in_call === true,
      call_id: memory.call_id ?? null,
      lines: Array.isArray(memory.lines) ? memory.lines : [],
      last_call_id: memory.last_call_id ?? null,
    };
  } catch {
    return null;
  }
}

export function keepMemory(memory: Memory): void {
  try {
    sessionStorage.setItem(STORE, JSON.stringify(memory));
  } catch {
    // Full or forbidden storage: the reload then offers "take over" instead of resuming by itself.
  }
}
