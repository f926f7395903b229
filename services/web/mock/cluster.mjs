// A cluster of four nodes, whose shards move when one is drained: a block at each look.
const ROLES = ['edge', 'call', 'acd', 'media', 'records', 'console'];
const SHARDS = 4096;
const ACD = 1024;

export class Cluster {
  started = Date.now() - 3 * 3_600_000;
  revision = 812;
  coordination_problem = null;
  moves = [];
  nodes = ['n1', 'n2', 'n3', 'edge-1'].map((node, i) => ({
    node, incarnation: `17950000000000${i}`, roles: node === 'edge-1' ? ['edge', 'console'] : ROLES, address: `10.0.0.${i + 1}:7400`,
    zone: i % 2 ? 'b' : 'a', version: i === 1 ? '0.2.0' : '0.1.0', state: 'serving', since_ms: this.started + i * 60_000,
    public_addresses: { http: `http://10.0.0.${i + 1}:8080`, sip: `10.0.0.${i + 1}:5060` },
  }));
  owner = Array.from({ length: SHARDS }, (_, shard) => 1 + ((shard * 2654435761) >>> 8) % 3);
  epoch = Array.from({ length: SHARDS }, (_, shard) => 3 + (shard % 1000 === 7 ? 1 : 0));
  opening = new Set();

  setDrain(name, drain) {
    const node = this.nodes.find((known) => known.node === name);
    if (!node) return 'There is no such node.';
    if (drain && this.nodes.every((other) => other === node || other.state !== 'serving' || !other.roles.includes('call'))) return 'This is the last node that takes calls.';
    node.state = drain ? 'draining' : 'serving';
    node.since_ms = Date.now();
    this.revision += 1;
    return null;
  }

  #step() {
    this.opening.clear();
    const names = this.nodes.map((node) => node.node);
    for (const node of this.nodes.filter((known) => known.state === 'draining')) {
      const at = names.indexOf(node.node) + 1;
      const to = this.nodes.findIndex((other) => other.state === 'serving' && other.roles.includes('call')) + 1;
      const leaving = this.owner.flatMap((owner, shard) => (owner === at ? [shard] : [])).slice(0, 400);
      for (const shard of leaving) {
        this.owner[shard] = to;
        this.epoch[shard] += 1;
        this.opening.add(shard);
        this.moves.unshift({ shard, from: node.node, to: names[to - 1], reason: 'drain', started_ms: Date.now() - 40, finished_ms: Date.now() });
      }
      this.moves.length = Math.min(this.moves.length, 200);
      if (this.moves[0]) this.moves[0].finished_ms = null;
      this.revision += 1;
      if (leaving.length === 0) Object.assign(node, { state: 'drained', since_ms: Date.now() });
    }
  }

  overview() {
    this.#step();
    const names = this.nodes.map((node) => node.node);
    const shards = [];
    for (let shard = 0; shard < SHARDS; shard += 1) {
      const owner = names[this.owner[shard] - 1];
      const phase = this.opening.has(shard) ? 'opening' : 'active';
      const last = shards.at(-1);
      if (last && shard !== ACD && last.owner === owner && last.phase === phase && last.epoch === this.epoch[shard]) last.last = shard;
      else shards.push({ first: shard, last: shard, owner, phase, epoch: this.epoch[shard] });
    }
    const count = (name, phase) => shards.filter((range) => range.owner === name && range.phase === phase).reduce((sum, range) => sum + range.last - range.first + 1, 0);
    const members = this.nodes.map((node) => {
      const [shards_active, shards_opening] = [count(node.node, 'active'), count(node.node, 'opening')];
      return { ...node, shards_active, shards_opening, shards_leaving: node.state === 'draining' ? shards_active : 0 };
    });
    return {
      at_ms: Date.now(), cluster: 'trunkline', node: 'n1', coordinator: 'n2', map_revision: this.revision,
      coordination: { kind: 'etcd', problem: this.coordination_problem }, journal: { kind: 'postgres', problem: null },
      members, shards, moves: this.moves,
    };
  }
}
