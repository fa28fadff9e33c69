// Runs a workflow in a real ComfyUI page and looks at what its nodes show: node shown.mjs ADDRESS WORKFLOW OUT_FOLDER
// Prints one JSON object: texts on the nodes, links in them, pictures by node. Opens the study's list and page as well.
import fs from 'node:fs';
import path from 'node:path';
import { launch, newPage, open, report } from '../chromium.mjs';

const [address, workflow, out] = process.argv.slice(2);
const result = { errors: [] };
const browser = await launch();
await report(browser, result, async () => {
  const page = await newPage(browser, 2300, 1400);
  await open(page, address, fs.readFileSync(workflow, 'utf8'));
  await page.evaluate(() => {
    const ds = window.app.canvas.ds;
    const boxes = window.app.graph._nodes.filter((n) => n.pos[0] > 1000).map((n) => [n.pos[0], n.pos[1] - 40, n.pos[0] + n.size[0], n.pos[1] + n.size[1]]);
    const [left, top] = [0, 1].map((i) => Math.min(...boxes.map((b) => b[i])) - 20);
    const [right, bottom] = [2, 3].map((i) => Math.max(...boxes.map((b) => b[i])) + 20);
    ds.scale = Math.min(2200 / (right - left), 1330 / (bottom - top), 1);
    ds.offset = [-left + 70 / ds.scale, -top + 50 / ds.scale];
    window.app.queuePrompt(0, 1);
  });
  const text = (type) => page.waitForFunction((kind) => {
    const node = window.app.graph._nodes.find((n) => n.type === kind);
    return node?.widgets?.find((w) => w.name === '$$node-text-preview')?.value;
  }, type).then((handle) => handle.jsonValue());
  result.added = await text('EmuVideoAddToStudy');
  result.figures = await text('EmuVideoEvaluate');
  await page.waitForFunction(() => document.querySelector('video')?.videoWidth > 0);
  await page.waitForTimeout(2500);
  result.pictures = await page.evaluate(() => window.app.graph._nodes.filter((n) => n.imgs?.length).map((n) => [n.type, n.imgs[0].naturalWidth]));
  result.links = await page.evaluate(() => [...document.querySelectorAll('a[href*="/emu_video/study/"]')].map((a) => a.href));
  await page.screenshot({ path: path.join(out, 'compared.png') });

  const study = await browser.newPage({ viewport: { width: 1280, height: 800 } });
  study.on('console', (message) => { if (message.type() === 'error') result.errors.push(message.text()); });
  await study.goto(`${address}/emu_video/study/`);
  await study.screenshot({ path: path.join(out, 'studies.png') });
  await study.click('a[href="compare%20systems/"]');
  await study.waitForSelector('#welcome:not([hidden])');
  await study.fill('#name', `visitor ${Date.now()}`);
  await study.click('#join button[type=submit]');
  await study.click('#begin');
  await study.waitForFunction(() => ['left', 'right'].every((side) => document.getElementById(`video-${side}`).currentTime > 0.2));
  await study.screenshot({ path: path.join(out, 'study_pair.png') });
});
