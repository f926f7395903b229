import Page from './Contacts.svelte';
import { start } from '../start';

void start(Page);
