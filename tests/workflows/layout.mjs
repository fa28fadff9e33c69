// Runs a workflow in a real ComfyUI page and measures its nodes: node layout.mjs ADDRESS WORKFLOW OUT.png DESIGN
// DESIGN: `classic` (nodes drawn on the canvas) or `vue` (Nodes 2.0). Prints one JSON object: `nodes`, each with the largest
// rectangle [left, top, width, height] that it had, title and previews included, while the workflow ran and afterwards; `overlaps`,
// pairs of nodes of which one covered the other; `texts` as nodes show them; `design` that was seen; `errors`.
import fs from 'node:fs';
import { launch, newPage, open, report, watchRun } from '../chromium.mjs';

const [address, workflow, out, design] = process.argv.slice(2);
const result = { errors: [] };
const post = (place, value) => fetch(address + place, { method: 'POST', headers: { 'Content-Type': 'application/json' }, body: JSON.stringify(value) });
const setting = '/api/settings/Comfy.VueNodes.Enabled';
const before = await (await fetch(address + setting)).json();
const browser = await launch();
await report(browser, result, async () => {
  await post(setting, design === 'vue');
  await post('/free', { unload_models: true, free_memory: true }); // what comes from the cache shows no preview
  const page = await newPage(browser, 2300, 1250, result.errors);
  await open(page, address, fs.readFileSync(workflow, 'utf8'));
  await page.keyboard.press('Escape');
  await page.evaluate(() => {
    const ds = window.app.canvas.ds;
    const title = window.LiteGraph.NODE_TITLE_HEIGHT;
    window.fit = (boxes) => {
      const [left, top] = [0, 1].map((i) => Math.min(...boxes.map((b) => b[i])) - 20);
      const [right, bottom] = [0, 1].map((i) => Math.max(...boxes.map((b) => b[i] + b[i + 2])) + 20);
      ds.scale = Math.min(2160 / (right - left), 1090 / (bottom - top), 1);
      ds.offset = [-left + 80 / ds.scale, -top + 60 / ds.scale];
      window.app.canvas.setDirty(true, true);
    };
    window.rectangle = (node) => {
      const element = document.querySelector(`[data-node-id="${node.id}"]`);
      if (!element) return [node.pos[0], node.pos[1] - title, node.size[0], node.size[1] + title];
      const seen = element.getBoundingClientRect();
      return [node.pos[0], node.pos[1] - title, seen.width / ds.scale, seen.height / ds.scale];
    };
    window.largest = {};
    window.measure = () => {
      for (const node of window.app.graph._nodes) {
        const found = window.rectangle(node);
        const before = window.largest[node.id] ?? found;
        window.largest[node.id] = [found[0], found[1], Math.max(found[2], before[2]), Math.max(found[3], before[3])];
      }
    };
    window.fit(window.app.graph._nodes.map(window.rectangle));
  });
  await page.waitForTimeout(1500);
  result.design = await page.evaluate(() => (document.querySelector('[data-node-id]') ? 'vue' : 'classic'));
  result.before = await page.evaluate(() => Object.fromEntries(window.app.graph._nodes.map((n) => [n.id, window.rectangle(n)])));
  await watchRun(page);
  await page.evaluate(() => {
    setInterval(window.measure, 100);
    window.app.queuePrompt(0, 1);
  });
  await page.waitForFunction(() => window.done, null, { timeout: 300000 });
  result.done = await page.evaluate(() => window.done);
  await page.waitForTimeout(4000);
  await page.evaluate(() => window.measure());
  result.nodes = await page.evaluate(() => window.app.graph._nodes.map((n) => ({ id: n.id, type: n.type, title: n.title, box: window.largest[n.id] })));
  result.texts = await page.evaluate(() => [...document.querySelectorAll('.comfy-markdown-content, .dom-widget')].map((e) => e.innerText.trim()).filter(Boolean));
  await page.evaluate(() => window.fit(Object.values(window.largest)));
  await page.waitForTimeout(1500);
  await page.screenshot({ path: out });
  const cover = ([ax, ay, aw, ah], [bx, by, bw, bh]) => Math.min(ax + aw, bx + bw) - Math.max(ax, bx) > 1 && Math.min(ay + ah, by + bh) - Math.max(ay, by) > 1;
  result.overlaps = result.nodes.flatMap((a, i) => result.nodes.slice(i + 1).filter((b) => cover(a.box, b.box)).map((b) => [`${a.id} ${a.title}`, `${b.id} ${b.title}`]));
});
await post(setting, before);
