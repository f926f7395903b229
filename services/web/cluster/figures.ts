/** What follows from an overview. Pure, so that it is tested without a page. */
import type { Member, Overview, ShardRange } from './types';

export const SHARDS = 4_096;
/** Cells in a row of the map. */
export const COLUMNS = 64;
/** Colours of owners; more nodes than these share them. */
export const PALETTE = 8;

export interface Share {
  active: number;
  opening: number;
  unassigned: number;
}

const size = (range: ShardRange): number => range.last - range.first + 1;

/** Shards by phase, over the whole cluster. */
export function share(shards: ShardRange[]): Share {
  const sum = { active: 0, opening: 0, unassigned: 0 };
  for (const range of shards) {
    if (range.phase === 'active') sum.active += size(range);
    else if (range.phase === 'opening') sum.opening += size(range);
    else sum.unassigned += size(range);
  }
  return sum;
}

/** The lowest and highest epoch of a node's shards; null when it owns none. */
export function epochs(shards: ShardRange[], node: string): [number, number] | null {
  const own = shards.filter((range) => range.owner === node).map((range) => range.epoch);
  return own.length === 0 ? null : [Math.min(...own), Math.max(...own)];
}

/** Which colour each owner has: by name, so that it stays when others come and go while there are few. */
export function colours(overview: Overview): Map<string, number> {
  const names = new Set(overview.members.map((member) => member.node));
  for (const range of overview.shards) if (range.owner !== null) names.add(range.owner);
  return new Map([...names].sort().map((name, index) => [name, index % PALETTE]));
}

/** What a drain has done: from the most shards that were seen at the node down to none. */
export class Drains {
  #most = new Map<string, number>();

  /** Share 0–1 that has left, by node that drains. */
  follow(members: Member[]): Map<string, number> {
    const progress = new Map<string, number>();
    for (const member of members) {
      if (member.state !== 'draining') {
        this.#most.delete(member.node);
        continue;
      }
      const left = Math.max(member.shards_leaving, member.shards_active);
      const most = Math.max(left, this.#most.get(member.node) ?? 0);
      this.#most.set(member.node, most);
      progress.set(member.node, most === 0 ? 1 : 1 - left / most);
    }
    return progress;
  }
}
