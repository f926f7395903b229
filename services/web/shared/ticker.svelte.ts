/** One timer for every clock on the page. */
import { ServerClock } from './protocol/clock';

export const serverClock = new ServerClock();

class Ticker {
  /** Server time in ms, moved four times a second. */
  now = $state(serverClock.now());

  constructor() {
    setInterval(() => (this.now = serverClock.now()), 250);
  }
}

export const ticker = new Ticker();
