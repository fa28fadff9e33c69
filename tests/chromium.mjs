// Headless Chromium for the tests in a page. CHROMIUM names the program, PLAYWRIGHT_CORE the folder of the package that drives it.
import { createRequire } from 'node:module';
import path from 'node:path';

const require = createRequire(process.env.PLAYWRIGHT_CORE ? path.join(process.env.PLAYWRIGHT_CORE, 'x.js') : import.meta.url);
const { chromium } = require('playwright-core');

export const launch = () => chromium.launch({
  executablePath: process.env.CHROMIUM || '/usr/bin/chromium',
  headless: true,
  args: ['--no-sandbox', '--disable-gpu', '--disable-dev-shm-usage', '--disable-background-networking', '--disable-component-update', '--disable-sync', '--no-first-run'],
});

// Does the work, closes the browser and prints `result` as one JSON object. An error is its `failed`, after `atFailure`.
export async function report(browser, result, work, atFailure = () => {}) {
  try {
    await work();
  } catch (error) {
    result.failed = String(error.stack ?? error);
    await atFailure();
  } finally {
    await browser.close();
  }
  console.log(JSON.stringify(result));
}

// A page for ComfyUI; errors in it go to `errors`.
export async function newPage(browser, width, height, errors = []) {
  const page = await browser.newPage({ viewport: { width, height } });
  page.on('pageerror', (error) => errors.push(String(error)));
  page.setDefaultTimeout(120000);
  return page;
}

// Opens ComfyUI in the page, and a workflow's file if there is one.
export async function open(page, address, workflow) {
  await page.goto(address, { waitUntil: 'domcontentloaded' });
  await page.waitForFunction(() => window.app?.graph && Object.keys(window.LiteGraph?.registered_node_types ?? {}).length > 100);
  await page.waitForTimeout(2500);
  if (!workflow) return;
  await page.evaluate((text) => window.app.loadGraphData(JSON.parse(text)), workflow);
  await page.waitForTimeout(2500);
}

// Has `window.done` say how the run ends, and `window.saved` what it saves.
export const watchRun = (page) => page.evaluate(() => {
  const { api } = window.app;
  window.done = '';
  window.saved = [];
  api.addEventListener('executed', (event) => window.saved.push(...(event.detail?.output?.images ?? []).map((file) => file.filename)));
  for (const kind of ['execution_success', 'execution_error', 'execution_interrupted']) {
    api.addEventListener(kind, (event) => { window.done ||= kind + (kind.endsWith('error') ? JSON.stringify(event.detail) : ''); });
  }
});
