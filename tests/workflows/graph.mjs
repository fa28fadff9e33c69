// Draws a workflow in a real ComfyUI page and takes a picture of the graph: node graph.mjs ADDRESS WORKFLOW OUT.png
import { createRequire } from 'node:module';
import fs from 'node:fs';
import path from 'node:path';

const require = createRequire(process.env.PLAYWRIGHT_CORE ? path.join(process.env.PLAYWRIGHT_CORE, 'x.js') : import.meta.url);
const { chromium } = require('playwright-core');
const [address, workflow, out] = process.argv.slice(2);
const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM || '/usr/bin/chromium',
  headless: true,
  args: ['--no-sandbox', '--disable-gpu', '--disable-dev-shm-usage'],
});
try {
  const page = await browser.newPage({ viewport: { width: 2300, height: 1250 } });
  page.setDefaultTimeout(90000);
  await page.goto(address, { waitUntil: 'domcontentloaded' });
  await page.waitForFunction(() => window.app?.graph && Object.keys(window.LiteGraph?.registered_node_types ?? {}).length > 100);
  await page.waitForTimeout(2500);
  await page.evaluate((text) => window.app.loadGraphData(JSON.parse(text)), fs.readFileSync(workflow, 'utf8'));
  await page.waitForTimeout(2500);
  console.log(await page.evaluate(() => document.querySelector('[role=dialog]')?.innerText ?? 'no dialog'));
  if (process.env.DIALOG) await page.screenshot({ path: process.env.DIALOG });
  await page.keyboard.press('Escape');
  await page.evaluate(() => {
    const ds = window.app.canvas.ds;
    ds.scale = 1;
    const boxes = window.app.graph._nodes.map((n) => [n.pos[0], n.pos[1] - 40, n.pos[0] + n.size[0], n.pos[1] + n.size[1]]);
    const [left, top] = [0, 1].map((i) => Math.min(...boxes.map((b) => b[i])) - 20);
    const [right, bottom] = [2, 3].map((i) => Math.max(...boxes.map((b) => b[i])) + 20);
    ds.scale = Math.min(2200 / (right - left), 1180 / (bottom - top), 1.2);
    ds.offset = [-left + 70 / ds.scale, -top + 50 / ds.scale];
    window.app.canvas.setDirty(true, true);
  });
  await page.waitForTimeout(1500);
  await page.screenshot({ path: out, clip: { x: 60, y: 40, width: 2240, height: 1210 } });
} finally {
  await browser.close();
}
