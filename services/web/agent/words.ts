/** How callers are named on the desk. Names come from the network and are only ever text. */
import { t } from '../shared/i18n/index.svelte';

export function caller(call: { caller_name: string; caller_number: string }): string {
  return call.caller_name || call.caller_number || t('ring.anonymous');
}
