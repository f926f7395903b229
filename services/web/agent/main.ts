import Page from './Agent.svelte';
import { start } from '../shared/start';

void start(Page);
