import type { SocketLike } from '../shared/protocol/client';

/** A socket whose other end is the test. */
export class FakeSocket implements SocketLike {
  onopen: ((event: unknown) => void) | null = null;
  onmessage: ((event: unknown) => void) | null = null;
  onclose: ((event: unknown) => void) | null = null;
  onerror: ((event: unknown) => void) | null = null;
  sent: { id: string; type: string; data: Record<string, unknown> }[] = [];
  closedWith: number | null = null;

  send(text: string): void {
    this.sent.push(JSON.parse(text));
  }

  close(code?: number): void {
    this.closedWith = code ?? 1000;
  }

  open(): void {
    this.onopen?.({});
  }

  receive(frame: object): void {
    this.onmessage?.({ data: JSON.stringify(frame) });
  }

  drop(code = 1006, reason = ''): void {
    this.onclose?.({ code, reason });
  }

  of(type: string): FakeSocket['sent'] {
    return this.sent.filter((frame) => frame.type === type);
  }
}
