// A stereo telephone recording: the caller hums at 440 Hz on the left, the agent at 620 Hz on the right.
export function conversation(duration_ms, rate_hz = 8000) {
  const frames = Math.floor((duration_ms * rate_hz) / 1000);
  const data = Buffer.alloc(44 + frames * 4);
  data.write('RIFF', 0);
  data.writeUInt32LE(36 + frames * 4, 4);
  data.write('WAVEfmt ', 8);
  data.writeUInt32LE(16, 16);
  data.writeUInt16LE(1, 20);
  data.writeUInt16LE(2, 22);
  data.writeUInt32LE(rate_hz, 24);
  data.writeUInt32LE(rate_hz * 4, 28);
  data.writeUInt16LE(4, 32);
  data.writeUInt16LE(16, 34);
  data.write('data', 36);
  data.writeUInt32LE(frames * 4, 40);
  for (let i = 0; i < frames; i += 1) {
    const at = i / rate_hz;
    const turn = Math.floor(at / 3) % 2;
    const syllable = 0.55 + 0.45 * Math.sin(at * 11 + Math.sin(at * 2.3) * 3);
    const caller = turn === 0 ? 0.5 * syllable : 0.02;
    const agent = turn === 1 ? 0.4 * syllable : 0.02;
    data.writeInt16LE(Math.round(caller * 32000 * Math.sin(2 * Math.PI * 440 * at)), 44 + i * 4);
    data.writeInt16LE(Math.round(agent * 32000 * Math.sin(2 * Math.PI * 620 * at)), 46 + i * 4);
  }
  return data;
}
