import './owners.css';
import Page from './Cluster.svelte';
import { start } from '../shared/start';

void start(Page);
