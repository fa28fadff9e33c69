// Raters in headless Chromium: node browser.mjs tour|owner|raters ADDRESS PLAN.json OUT_FOLDER. Prints one JSON object.
// tour: one rater with keys only, every screen photographed at desktop and phone width, light and dark; reload, pause, lost network.
// owner: the owner's page, which PLAN has the address of, closes and opens sign-up; and what raters see of that.
// raters: many at once, with clicks and keys in turn; PLAN says which video each of them takes and why.
import fs from 'node:fs';
import path from 'node:path';
import { launch, report } from '../chromium.mjs';

const [mode, address, planFile, out] = process.argv.slice(2);
const plan = JSON.parse(fs.readFileSync(planFile, 'utf8'));
const result = { errors: [] };
const browser = await launch();

const DESKTOP = { width: 1280, height: 800 };
const PHONE = { width: 360, height: 740 };

async function newPage(options = {}) {
  const context = await browser.newContext({ viewport: DESKTOP, ...options });
  const page = await context.newPage();
  page.setDefaultTimeout(60000);
  page.on('pageerror', (error) => result.errors.push(String(error)));
  page.on('console', (message) => { if (message.type() === 'error') result.errors.push(message.text()); });
  return page;
}

const shown = (page, id) => page.waitForSelector(`#${id}:not([hidden])`);
const sources = (page) => page.evaluate(() => ['left', 'right'].map((side) => document.getElementById(`video-${side}`).getAttribute('src')));
const atQuestion = (page, number) => page.waitForFunction((wanted) => !document.getElementById('rate').hidden && document.getElementById('step').textContent.startsWith(`Question ${wanted}`), number);
const playing = (page) => page.waitForFunction(() => ['left', 'right'].every((side) => document.getElementById(`video-${side}`).currentTime > 0.2));
const overflow = (page) => page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
// A pair is not judged twice: the next one has other videos.
const moved = (page, old) => page.waitForFunction((before) => !document.getElementById('finished').hidden || !document.getElementById('waiting').hidden
  || (!document.getElementById('rate').hidden && document.getElementById('video-left').getAttribute('src') !== before && document.getElementById('step').textContent.startsWith('Question 1')), old);

async function shots(page, name) {
  for (const [width, size] of [['desktop', DESKTOP], ['phone', PHONE]]) {
    await page.setViewportSize(size);
    await page.waitForTimeout(120);
    result.overflow = Math.max(result.overflow ?? 0, await overflow(page));
    await page.screenshot({ path: path.join(out, `${name}_${width}.png`), fullPage: width === 'phone' || name.startsWith('welcome') });
  }
  await page.setViewportSize(DESKTOP);
}

// The largest distance between the two videos while both play, in seconds.
const drift = (page) => page.evaluate(async () => {
  const [a, b] = ['left', 'right'].map((side) => document.getElementById(`video-${side}`));
  let worst = 0;
  for (const end = performance.now() + 2500; performance.now() < end;) {
    await new Promise(requestAnimationFrame);
    if (!a.paused && !b.paused && !a.ended && !b.ended) worst = Math.max(worst, Math.abs(a.currentTime - b.currentTime));
  }
  return worst;
});

async function tour() {
  const page = await newPage();
  await page.goto(address);
  await shown(page, 'welcome');
  await shots(page, 'welcome');
  result.note = await page.locator('#note').innerText();
  await page.keyboard.press('Tab');
  await page.locator('#name').focus();
  await page.keyboard.press('Enter');
  result.empty_name = await page.locator('#notice').textContent();
  await page.keyboard.type('<b>Ann</b> "x"');
  await page.keyboard.press('Enter');
  await shown(page, 'ready');
  result.name = await page.locator('#ready-name').textContent();
  const code = await page.locator('#code').textContent();
  await shots(page, 'ready');
  await page.locator('#begin').focus();
  await page.keyboard.press('Enter');
  await atQuestion(page, 1);
  await playing(page);
  result.prompt_hidden = await page.evaluate(() => document.getElementById('prompt-box').hidden && !document.getElementById('prompt').textContent);
  result.drift = await drift(page);
  await page.keyboard.press('Enter');
  result.no_choice = await page.locator('#error').textContent();
  await page.keyboard.press('1');
  await page.keyboard.press('Enter');
  result.no_reason = await page.locator('#error').textContent();
  await page.keyboard.press('ArrowRight');
  await page.keyboard.press('m');
  await page.keyboard.press('s');
  result.ticked = await page.evaluate(() => [...document.querySelectorAll(':checked')].map((box) => box.value).filter((value) => value !== 'on'));
  await shots(page, 'quality');
  await page.locator('#question').focus();
  await page.keyboard.press(' ');
  result.stopped = await page.evaluate(() => document.getElementById('video-left').paused);
  await page.keyboard.press('Enter');
  await atQuestion(page, 2);
  result.prompt = await page.locator('#prompt').textContent();
  const before = await sources(page);
  await page.waitForTimeout(300);
  await page.reload();
  await atQuestion(page, 2); // the first answer is kept on the server
  result.same_after_reload = JSON.stringify(before) === JSON.stringify(await sources(page));
  await page.click('#pause');
  await shown(page, 'paused');
  await shots(page, 'paused');
  await page.click('#resume');
  await atQuestion(page, 2);
  await playing(page);
  await page.keyboard.press('2');
  await page.keyboard.press('t');
  await shots(page, 'faithfulness');

  const { length } = result.errors; // a lost network is an error in the console
  await page.context().setOffline(true);
  await page.keyboard.press('Enter');
  await shown(page, 'notice');
  result.offline = await page.locator('#notice').textContent();
  await shots(page, 'offline');
  await page.context().setOffline(false);
  await moved(page, before[0]);
  result.errors.length = length;

  const other = await newPage({ colorScheme: 'dark', reducedMotion: 'reduce' }); // the same rater on another device
  await other.goto(address);
  await shown(other, 'welcome');
  await shots(other, 'welcome_dark');
  await other.click('#use-code');
  await other.fill('#token', code);
  await other.keyboard.press('Enter');
  await atQuestion(other, 1);
  result.progress = await other.locator('#progress-text').textContent();
  await other.waitForTimeout(600);
  result.calm = await other.evaluate(() => document.getElementById('video-left').paused && document.getElementById('video-right').paused);
  await other.keyboard.press('0');
  await playing(other);
  await other.keyboard.press('ArrowLeft');
  await other.keyboard.press('c');
  await shots(other, 'quality_dark');
  for (;;) {
    const [left] = await sources(other);
    await other.keyboard.press('1');
    if (!(await other.locator('#reason-consistency').isChecked())) await other.keyboard.press('c');
    await other.keyboard.press('Enter');
    await atQuestion(other, 2);
    await other.keyboard.press('2');
    await other.keyboard.press('t');
    await other.keyboard.press('Enter');
    await moved(other, left);
    if (await other.locator('#finished').isVisible()) break;
  }
  result.finished = await other.locator('#finished').textContent();
  await shots(other, 'finished_dark');
}

async function rate(rater) {
  const page = await newPage();
  await page.goto(`${address}#token=${rater.token}`);
  await shown(page, 'welcome');
  await page.click('#join button[type=submit]');
  let count = 0;
  const started = Date.now();
  for (;;) {
    await Promise.race([atQuestion(page, 1), shown(page, 'finished'), shown(page, 'waiting')]);
    if (await page.locator('#finished').isVisible()) break;
    if (await page.locator('#waiting').isVisible()) {
      await page.waitForTimeout(500);
      if (await page.locator('#again').isVisible()) await page.click('#again');
      continue;
    }
    const [left] = await sources(page);
    const keys = count % 2 === 1;
    for (const [index, question] of ['quality', 'faithfulness'].entries()) {
      await atQuestion(page, index + 1);
      const { left: takesLeft, reasons } = rater.plan[left][question];
      if (keys) await page.keyboard.press(takesLeft ? '1' : '2');
      else await page.click(takesLeft ? '#left' : '#right');
      for (const reason of reasons) {
        if (keys) await page.keyboard.press(plan.letters[question][reason]);
        else await page.click(`label:has(#reason-${reason})`);
      }
      if (keys) await page.keyboard.press('Enter');
      else await page.click('#send');
    }
    count += 1;
    await moved(page, left);
  }
  await page.context().close();
  return { name: rater.name, count, seconds: (Date.now() - started) / 1000 };
}

async function owner() {
  const page = await newPage();
  const said = (words) => page.waitForFunction((wanted) => document.getElementById('signup').textContent === wanted, words);
  await page.goto(plan.address);
  await said('Sign-up is open');
  result.facts = await page.locator('#facts').innerText();
  result.note = await page.locator('#note').isVisible();
  result.votes = await page.locator('#votes').textContent();
  await shots(page, 'owner_open');
  await page.click('#turn');
  await said('Sign-up is closed');
  await shots(page, 'owner_closed');
  const rater = await newPage();
  await rater.goto(address);
  await shown(rater, 'welcome');
  result.closed = await rater.evaluate(() => !document.getElementById('closed').hidden && document.getElementById('name-field').hidden);
  await shots(rater, 'welcome_closed');
  await page.keyboard.press('Tab');
  await page.locator('#turn').focus();
  await page.keyboard.press('Enter');
  await said('Sign-up is open');
  await rater.reload();
  await shown(rater, 'welcome');
  result.open = await rater.evaluate(() => document.getElementById('closed').hidden && !document.getElementById('name-field').hidden);
  const dark = await newPage({ colorScheme: 'dark' });
  await dark.goto(plan.address);
  await dark.waitForSelector('#study:not([hidden])');
  await shots(dark, 'owner_dark');
  const errors = result.errors.length;
  const stranger = await newPage();
  await stranger.goto(`${plan.address.split('#')[0]}#owner=wrong`);
  result.stranger = await stranger.locator('#notice:not([hidden])').textContent();
  result.hidden = await stranger.locator('#study').isHidden();
  result.errors.length = errors; // the browser tells of the 403
}

await report(browser, result, async () => {
  if (mode === 'tour') await tour();
  else if (mode === 'owner') await owner();
  else result.raters = await Promise.all(plan.raters.map(rate));
}, async () => {
  for (const [index, page] of browser.contexts().flatMap((context) => context.pages()).entries()) {
    await page.screenshot({ path: path.join(out, `failed_${index}.png`) }).catch(() => {});
  }
});
