/** JSON merge patch, RFC 7396: null removes, objects merge, everything else replaces. */

type Json = unknown;

const isObject = (value: Json): value is Record<string, Json> =>
  typeof value === 'object' && value !== null && !Array.isArray(value);

/**
 * Returns `target` with `patch` applied; neither argument is changed.
 *
 * A field that the contract calls nullable is removed by a patch that sets it to null (RFC 7396
 * cannot tell the two apart), so readers treat a missing field like null.
 */
export function mergePatch(target: Json, patch: Json): Json {
  if (!isObject(patch)) return patch;
  const out: Record<string, Json> = isObject(target) ? { ...target } : {};
  for (const [key, value] of Object.entries(patch)) {
    // An own `__proto__` key from JSON must never reach a prototype.
    if (key === '__proto__') continue;
    if (value === null) delete out[key];
    else out[key] = mergePatch(out[key], value);
  }
  return out;
}
