import { describe, expect, it } from 'vitest';
import { colours, Drains, epochs, PALETTE, share } from '../cluster/figures';
import type { Member, Overview, ShardRange } from '../cluster/types';

const range = (first: number, last: number, owner: string | null, phase: string, epoch = 1): ShardRange => ({ first, last, owner, phase, epoch });

const member = (node: string, state: string, shards_active: number, shards_leaving = 0): Member => ({
  node, state, shards_active, shards_leaving, shards_opening: 0, incarnation: '1', roles: [], address: null,
  zone: null, version: '1', since_ms: 0, public_addresses: {},
});

describe('figures of the cluster', () => {
  it('count shards by phase, whatever the ranges', () => {
    const shards = [range(0, 999, 'a', 'active'), range(1_000, 1_000, 'b', 'opening'), range(1_001, 4_095, null, 'unassigned')];
    expect(share(shards)).toEqual({ active: 1_000, opening: 1, unassigned: 3_095 });
    expect(share([])).toEqual({ active: 0, opening: 0, unassigned: 0 });
  });

  it('span the epochs of a node', () => {
    const shards = [range(0, 1, 'a', 'active', 7), range(2, 2, 'a', 'opening', 3), range(3, 3, 'b', 'active', 9)];
    expect(epochs(shards, 'a')).toEqual([3, 7]);
    expect(epochs(shards, 'c')).toBeNull();
  });

  it('give owners colours, also those that are no members any more', () => {
    const overview = { members: [member('b', 'serving', 1)], shards: [range(0, 0, 'a', 'active')] } as unknown as Overview;
    expect([...colours(overview)]).toEqual([['a', 0], ['b', 1]]);
    const many = { members: Array.from({ length: 20 }, (_, n) => member(`n${n}`, 'serving', 1)), shards: [] } as unknown as Overview;
    expect(Math.max(...colours(many).values())).toBe(PALETTE - 1);
  });

  it('follow a drain from its beginning, and forget it when it is taken back', () => {
    const drains = new Drains();
    expect(drains.follow([member('a', 'serving', 900)]).size).toBe(0);
    expect(drains.follow([member('a', 'draining', 900, 900)]).get('a')).toBe(0);
    expect(drains.follow([member('a', 'draining', 225, 225)]).get('a')).toBe(0.75);
    expect(drains.follow([member('a', 'serving', 225)]).size).toBe(0);
    expect(drains.follow([member('a', 'draining', 225, 225)]).get('a')).toBe(0);
    expect(drains.follow([member('b', 'draining', 0)]).get('b')).toBe(1);
  });
});
