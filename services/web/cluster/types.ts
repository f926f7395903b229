/** `GET /api/v1/cluster`, as the console publishes it. */
export interface Member {
  node: string;
  incarnation: string;
  roles: string[];
  address: string | null;
  zone: string | null;
  version: string;
  state: string;
  since_ms: number;
  shards_active: number;
  shards_opening: number;
  shards_leaving: number;
  public_addresses: Record<string, string>;
}

export interface ShardRange {
  first: number;
  last: number;
  owner: string | null;
  phase: string;
  epoch: number;
}

export interface Move {
  shard: number;
  from: string | null;
  to: string | null;
  reason: string;
  started_ms: number;
  finished_ms: number | null;
}

export interface Dependency {
  kind: string;
  problem: string | null;
}

export interface Overview {
  at_ms: number;
  cluster: string;
  node: string;
  coordinator: string | null;
  map_revision: number;
  coordination: Dependency;
  journal: Dependency;
  members: Member[];
  shards: ShardRange[];
  moves: Move[];
}
