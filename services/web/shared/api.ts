/** REST under /api/v1. Errors are RFC 9457 problems; every request has a deadline. */
import type { Contact, ContactSummary, User } from './protocol/types';

export class Problem extends Error {
  readonly status: number;
  readonly field: string | null;
  /** Seconds to wait before another try, when the server said so. */
  readonly retry_after_s: number | null;

  constructor(status: number, title: string, detail: string, field: string | null, retry_after_s: number | null) {
    super(detail || title);
    this.status = status;
    this.field = field;
    this.retry_after_s = retry_after_s;
  }
}

const TIMEOUT_MS = 15_000;

export async function call<T>(method: string, path: string, body?: unknown): Promise<T> {
  let response: Response;
  try {
    response = await fetch(`/api/v1${path}`, {
      method,
      headers: body === undefined ? {} : { 'content-type': 'application/json' },
      body: body === undefined ? undefined : JSON.stringify(body),
      signal: AbortSignal.timeout(TIMEOUT_MS),
      cache: 'no-store',
    });
  } catch {
    throw new Problem(0, 'unreachable', '', null, null);
  }
  if (!response.ok) throw await problem(response);
  if (response.status === 204) return undefined as T;
  return (await response.json()) as T;
}

async function problem(response: Response): Promise<Problem> {
  const retry = Number(response.headers.get('retry-after'));
  const body = (await response.json().catch(() => ({}))) as {
    title?: string;
    detail?: string;
    field?: string;
  };
  return new Problem(
    response.status,
    body.title ?? response.statusText,
    body.detail ?? '',
    body.field ?? null,
    Number.isFinite(retry) && retry > 0 ? retry : null,
  );
}

export interface ContactQuery {
  cursor?: string;
  page_size?: number;
  queue?: string;
  agent?: string;
  caller?: string;
  outcome?: string;
  from_ms?: number;
  to_ms?: number;
}

export const api = {
  signIn: (name: string, password: string) => call<{ user: User }>('POST', '/session', { name, password }),
  session: async (): Promise<User> => {
    const answer = await call<User | { user: User }>('GET', '/session');
    return 'user' in answer ? answer.user : answer;
  },
  signOut: () => call<void>('DELETE', '/session'),
  contacts: (query: ContactQuery) => {
    const params = new URLSearchParams();
    for (const [key, value] of Object.entries(query)) {
      if (value !== undefined && value !== '') params.set(key, String(value));
    }
    return call<{ contacts: ContactSummary[]; next_cursor: string | null }>('GET', `/contacts?${params}`);
  },
  contact: (call_id: string) => call<Contact>('GET', `/contacts/${encodeURIComponent(call_id)}`),
  queues: async (): Promise<{ queue_id: string; name: string }[]> => {
    const answer = await call<unknown>('GET', '/queues');
    const list = Array.isArray(answer) ? answer : ((answer as { queues?: unknown[] }).queues ?? []);
    return (list as { queue_id?: string; id?: string; name?: string }[]).map((queue) => {
      const queue_id = queue.queue_id ?? queue.id ?? '';
      return { queue_id, name: queue.name ?? queue_id };
    });
  },
};

/** Where a user with these roles starts. */
export function homeOf(roles: string[]): string {
  if (roles.includes('agent')) return '/agent';
  if (roles.includes('supervisor')) return '/wallboard';
  return roles.includes('admin') ? '/cluster' : '/contacts';
}

/** To sign-in, and back here afterwards. */
export function toSignIn(): void {
  location.assign(`/?next=${encodeURIComponent(location.pathname + location.search)}`);
}
