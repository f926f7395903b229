/** How a state looks: an icon and a colour token, so that colour never stands alone. */
import type { AgentState } from '../protocol/types';
import type { IconName } from './icons';

export const STATE_LOOK: Record<AgentState, { icon: IconName; tone: string }> = {
  signed_out: { icon: 'power', tone: 'var(--idle)' },
  not_ready: { icon: 'cup', tone: 'var(--idle)' },
  ready: { icon: 'check', tone: 'var(--ready)' },
  ringing: { icon: 'phone', tone: 'var(--ringing)' },
  connecting: { icon: 'phone', tone: 'var(--talking)' },
  talking: { icon: 'headset', tone: 'var(--talking)' },
  wrap_up: { icon: 'pen', tone: 'var(--wrap)' },
};
