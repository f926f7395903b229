/** What the agent's client is made with and what it tells. */
import type { ServerClock } from './clock';
import type { Snapshot, TranscriptEvent, Welcome } from './types';

export interface SocketLike {
  onopen: ((event: any) => void) | null;
  onmessage: ((event: any) => void) | null;
  onclose: ((event: any) => void) | null;
  onerror: ((event: any) => void) | null;
  send(text: string): void;
  close(code?: number, reason?: string): void;
}

export type ClosedReason = 'signed_out' | 'superseded' | 'stopped' | 'protocol';

export type LinkStatus =
  | { kind: 'connecting'; attempt: number }
  | { kind: 'open' }
  | { kind: 'waiting'; attempt: number; retry_in_ms: number; detail: string }
  | { kind: 'closed'; reason: ClosedReason; detail: string };

export interface Events {
  status(status: LinkStatus): void;
  welcome(welcome: Welcome): void;
  snapshot(snapshot: Snapshot): void;
  ring(offer_id: string): void;
  microphoneLost(to_session: string | null): void;
  /** The call's audio is at another media node: a new offer is due. */
  mediaMoved(offer_id: string, generation: number): void;
  transcript(event: TranscriptEvent): void;
}

export interface Options {
  url: string;
  client: string;
  events: Events;
  open?: (url: string, protocol: string) => SocketLike;
  clock?: ServerClock;
  now?: () => number;
  random?: () => number;
  /** Prefix of command ids: two pages, or a page before and after a reload, never share ids. */
  idPrefix?: string;
}
