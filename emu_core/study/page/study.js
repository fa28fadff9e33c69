// The rater's page. State lives on the server; here is only what is on the screen and, until it is acknowledged, one vote.
const $ = (id) => document.getElementById(id);
const SCREENS = ['loading', 'welcome', 'ready', 'rate', 'paused', 'waiting', 'finished'];
const STORED_VOTE = `emu-video-study-vote:${location.pathname}`;
const calm = matchMedia('(prefers-reduced-motion: reduce)');
const state = { study: null, questions: [], pair: null, step: 0, quality: null, screen: 'loading', token: '', busy: false, draft: null };

// -- talking to the server

class Refusal extends Error {
  constructor(status, sentence) { super(sentence); this.status = status; }
}

async function ask(name, body) {
  const settings = { headers: { Accept: 'application/json' }, credentials: 'same-origin', signal: AbortSignal.timeout(20000) };
  if (body !== undefined) Object.assign(settings, { method: 'POST', body: JSON.stringify(body) });
  if (body !== undefined) settings.headers['Content-Type'] = 'application/json';
  const answer = await fetch(`api/${name}`, settings);
  const found = await answer.json().catch(() => ({}));
  if (answer.ok) return found;
  throw new Refusal(answer.status, found.error ?? `The server answered ${answer.status}.`);
}

const sleep = (ms) => new Promise((done) => { setTimeout(done, ms); });
const worthAnotherTry = (problem) => !(problem instanceof Refusal) || problem.status >= 500 || problem.status === 429;

// Until there is an answer: a lost connection, or a server that starts anew, costs the rater nothing but time.
async function askUntilAnswered(name, body, words) {
  for (let attempt = 0; ; attempt += 1) {
    try {
      const found = await ask(name, body);
      notice('');
      return found;
    } catch (problem) {
      if (!worthAnotherTry(problem)) throw problem;
      notice(words);
      await sleep(Math.min(10000, 500 * 2 ** attempt) * (0.7 + 0.6 * Math.random()));
    }
  }
}

// randomUUID exists on https and loopback only
const randomId = () => [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, '0')).join('');

// -- screens

function show(screen) {
  state.screen = screen;
  for (const name of SCREENS) $(name).hidden = name !== screen;
  $('pause').hidden = screen !== 'rate';
  if (screen !== 'rate') stopVideos();
  $(screen).querySelector('h1')?.focus({ preventScroll: true });
  scrollTo(0, 0);
}

function notice(text) {
  if ($('notice').textContent !== text) $('notice').textContent = text;
  $('notice').hidden = !text;
}

const say = (text) => { $('status').textContent = text; };

function showProgress({ voted, left }) {
  const total = voted + left;
  const number = Math.min(voted + 1, total);
  $('progress').hidden = total === 0;
  $('progress-text').textContent = left ? `${number} of ${total}` : `${voted} of ${total}`;
  $('progress-bar').max = total || 1;
  $('progress-bar').value = voted;
  for (const place of document.querySelectorAll('.voted')) place.textContent = voted === 1 ? '1 pair' : `${voted} pairs`;
}

function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

// -- welcome

function explainReasons() {
  for (const reason of state.questions.flatMap((question) => question.reasons)) {
    const figure = document.querySelector(`[data-reason="${reason.key}"]`);
    for (const [index, picture] of [...figure.querySelectorAll('svg')].entries()) {
      const box = element('div');
      picture.replaceWith(box);
      box.append(picture, element('span', { className: `mark ${index ? 'better' : 'worse'}`, textContent: index ? '✓ better' : '✗ worse', ariaHidden: 'true' }));
    }
    const caption = element('figcaption', {}, element('b', { textContent: reason.name }), reason.meaning);
    if (figure.dataset.text) caption.append(element('span', { className: 'quote', textContent: `“${figure.dataset.text}”` }));
    figure.append(caption);
  }
}

function playExamples(play) {
  for (const box of document.querySelectorAll('.examples')) box.classList.toggle('still', !play);
  $('examples-play').textContent = play ? 'Stop the pictures' : 'Play the pictures';
  $('examples-play').setAttribute('aria-pressed', String(play));
}

function askForCode(code) {
  const byLink = Boolean(state.token);
  const token = state.study.tokens_required;
  const closed = !token && !state.study.signup_open;
  $('name-field').hidden = byLink || token || closed || code;
  $('token-field').hidden = byLink || !(token || closed || code);
  $('token-label').textContent = token ? 'Your token' : 'Your code';
  $('use-code').hidden = byLink || token || closed;
  $('use-code').textContent = code ? 'I am new here' : 'I have a code to come back';
  $('by-link').hidden = !byLink;
  $('closed').hidden = byLink || !closed;
}

async function join(event) {
  event.preventDefault();
  if (state.busy) return;
  const asksToken = !$('token-field').hidden;
  const body = state.token ? { token: state.token } : asksToken ? { token: $('token').value.trim() } : { name: $('name').value.trim() };
  const field = asksToken ? $('token') : $('name');
  if (!state.token && !field.value.trim()) {
    notice(asksToken ? 'Enter your token or code.' : 'Enter a name or initials.');
    field.focus();
    return;
  }
  state.busy = true;
  try {
    const rater = await ask('join', body);
    notice('');
    showProgress(rater);
    if (rater.code) {
      $('ready-name').textContent = rater.name;
      $('code').textContent = rater.code;
      show('ready');
    } else {
      await nextPair();
    }
  } catch (problem) {
    if (problem.status === 401) { state.token = ''; askForCode(!$('token-field').hidden); }
    notice(problem instanceof Refusal ? problem.message : 'The server cannot be reached. Try again in a moment.');
    field.focus();
  } finally {
    state.busy = false;
  }
}

// -- videos, in step

const left = $('video-left');
const right = $('video-right');
const both = [left, right];
const HOLD = 350; // ms on the last picture before both start again
const player = { wanted: false, round: 0, playing: false };

const event = (video, name) => new Promise((done) => { video.addEventListener(name, done, { once: true }); });

function loadVideos(pair) {
  const round = (player.round += 1);
  const loaded = both.map((video, index) => new Promise((done, failed) => {
    video.oncanplaythrough = () => done();
    video.onerror = () => { if (video.getAttribute('src')) failed(new Error('video')); };
    video.src = index ? pair.right : pair.left;
    video.load();
  }));
  return Promise.all(loaded).then(() => round === player.round);
}

function stopVideos() {
  player.playing = false;
  for (const video of both) video.pause();
}

async function fromTheStart() {
  const round = (player.round += 1);
  stopVideos();
  await Promise.all(both.map((video) => {
    if (video.currentTime === 0 && !video.ended) return null;
    const ready = event(video, 'seeked');
    video.currentTime = 0;
    return ready;
  }));
  if (round === player.round && player.wanted) await go();
}

async function go() {
  player.playing = true;
  for (const video of both) video.playbackRate = 1;
  await Promise.all(both.filter((video) => !video.ended).map((video) => video.play().catch(() => {})));
  requestAnimationFrame(keepInStep);
}

// The one in front is slowed a little; a jump would look like a stutter of that video and be judged as such.
function keepInStep() {
  if (!player.playing) return;
  if (left.ended && right.ended) {
    player.playing = false;
    const { round } = player;
    setTimeout(() => { if (round === player.round && player.wanted) fromTheStart(); }, HOLD);
    return;
  }
  if (!left.ended && !right.ended) {
    const ahead = left.currentTime - right.currentTime;
    if (Math.abs(ahead) > 0.5) (ahead > 0 ? right : left).currentTime = Math.max(left.currentTime, right.currentTime);
    left.playbackRate = ahead > 0.03 ? 0.92 : 1;
    right.playbackRate = ahead < -0.03 ? 0.92 : 1;
  }
  requestAnimationFrame(keepInStep);
}

function setWanted(wanted) {
  player.wanted = wanted;
  $('play').firstChild.textContent = wanted ? 'Stop ' : 'Play ';
  $('play').setAttribute('aria-pressed', String(!wanted));
}

function togglePlay() {
  setWanted(!player.wanted);
  if (!player.wanted) stopVideos();
  else if (left.ended && right.ended) fromTheStart();
  else go();
}

function restart() {
  setWanted(true);
  fromTheStart();
}

// -- how long an answer took; hidden and paused time does not count

const watch = { total: 0, since: null };
const startWatch = () => { watch.since ??= performance.now(); };
const stopWatch = () => { if (watch.since !== null) watch.total += performance.now() - watch.since; watch.since = null; };
const resetWatch = () => { watch.total = 0; watch.since = null; };
const elapsed = () => Math.round(watch.total + (watch.since === null ? 0 : performance.now() - watch.since));

// -- a pair

async function nextPair() {
  show('loading');
  try {
    await sendStoredVote();
    const found = await askUntilAnswered('next', {}, 'No connection. Trying again…');
    showProgress(found);
    if (found.status !== 'pair') {
      state.pair = null;
      show(found.status);
      if (found.status === 'waiting') setTimeout(() => { if (state.screen === 'waiting') nextPair(); }, 30000);
      return;
    }
    state.pair = found.pair;
    state.quality = found.pair.draft;
    state.draft = null;
    await showPair();
  } catch (problem) {
    await recover(problem);
  }
}

async function recover(problem) {
  if (problem.status === 401) {
    show('welcome');
    notice('You were signed out. Enter your code or token to go on.');
    askForCode(true);
    return;
  }
  show('loading');
  notice(problem.message || 'Something went wrong. Load the page again.');
}

async function showPair() {
  showQuestion(state.quality ? 1 : 0);
  show('rate');
  setWanted(!calm.matches);
  for (;;) {
    try {
      if (!(await loadVideos(state.pair))) return;
      break;
    } catch {
      notice('A video could not be loaded. Trying again…');
      await sleep(2000);
      if (state.screen !== 'rate') return;
    }
  }
  notice('');
  startWatch();
  if (player.wanted && !document.hidden) fromTheStart();
}

function showQuestion(step) {
  const question = state.questions[step];
  state.step = step;
  resetWatch();
  $('step').textContent = `Question ${step + 1} of ${state.questions.length} · ${question.title}`;
  $('question').textContent = question.text;
  $('prompt-box').hidden = !question.shows_prompt;
  $('prompt').textContent = question.shows_prompt ? state.pair.prompt : '';
  $('factors').textContent = question.factors;
  $('reasons').replaceChildren(...question.reasons.map((reason) => element('label', { className: 'reason', title: reason.meaning },
    element('input', { type: 'checkbox', name: 'reason', value: reason.key, id: `reason-${reason.key}` }),
    element('span', { textContent: reason.name }), element('kbd', { textContent: reason.letter.toUpperCase(), ariaHidden: 'true' }))));
  for (const name of ['left', 'right']) $(name).checked = false;
  $('error').textContent = '';
  $('send').textContent = step ? 'Send and go on' : 'Next';
}

function choose(side) {
  $(side).checked = true;
  $('error').textContent = '';
  say(side === 'left' ? 'Video 1 chosen' : 'Video 2 chosen');
}

function readAnswer() {
  const side = document.querySelector('[name="choice"]:checked');
  const reasons = [...document.querySelectorAll('[name="reason"]:checked')].map((box) => box.value);
  if (!side) return complain('Choose Video 1 or Video 2 first.', $('left'));
  if (!reasons.length) return complain('Tick at least one reason.', $('reasons').querySelector('input'));
  return { choice: side.value, reasons, ms: elapsed() };
}

function complain(text, field) {
  $('error').textContent = text;
  field.focus();
  return null;
}

async function send(submitted) {
  submitted?.preventDefault();
  if (state.busy || state.screen !== 'rate' || !state.pair) return;
  const answer = readAnswer();
  if (!answer) return;
  if (state.step === 0) {
    state.quality = answer;
    // Kept on the server in case the page is closed now; if that fails, the answer still goes with the vote.
    state.draft = ask('draft', { pair: state.pair.key, quality: answer }).catch(() => {});
    showQuestion(1);
    startWatch();
    $('question').focus({ preventScroll: true });
    scrollTo(0, 0);
    if (player.wanted) fromTheStart();
    return;
  }
  state.busy = true;
  $('send').setAttribute('aria-disabled', 'true');
  const vote = { id: randomId(), pair: state.pair.key, quality: state.quality, faithfulness: answer };
  try {
    localStorage.setItem(STORED_VOTE, JSON.stringify(vote));
  } catch { /* private windows without storage: the vote is still in memory */ }
  try {
    await state.draft;
    await sendVote(vote);
    say('Stored.');
  } catch (problem) {
    await recover(problem);
    return;
  } finally {
    state.busy = false;
    $('send').removeAttribute('aria-disabled');
  }
  await nextPair();
}

async function sendVote(vote) {
  try {
    await askUntilAnswered('vote', vote, 'No connection. Your answer is kept on this device and is sent as soon as possible.');
  } catch (problem) {
    if (problem.status === 401) throw problem;
    notice(problem.message); // refused for good, such as a pair that went to somebody else: go on with the next
    await sleep(2500);
    notice('');
  }
  localStorage.removeItem(STORED_VOTE);
}

// A vote of before a reload whose acknowledgement was not seen; the server counts it once.
async function sendStoredVote() {
  let vote = null;
  try { vote = JSON.parse(localStorage.getItem(STORED_VOTE)); } catch { /* not ours */ }
  if (vote) await sendVote(vote);
}

async function keepLease() {
  if (state.screen !== 'rate' || document.hidden || !state.pair || state.busy) return;
  const { key } = state.pair;
  try {
    await ask('keep', { pair: key });
  } catch (problem) {
    if (worthAnotherTry(problem) || state.busy || state.pair?.key !== key) return;
    await nextPair();
  }
}

async function leave() {
  try { await ask('leave', {}); } catch { /* signed out already */ }
  localStorage.removeItem(STORED_VOTE);
  location.reload();
}

// -- keys

function onKey(pressed) {
  if (state.screen !== 'rate' || pressed.ctrlKey || pressed.altKey || pressed.metaKey || pressed.isComposing) return;
  const key = pressed.key.length === 1 ? pressed.key.toLowerCase() : pressed.key;
  const onButton = pressed.target instanceof HTMLButtonElement;
  const onBox = pressed.target instanceof HTMLInputElement;
  let done = true;
  if (key === '1' || key === 'ArrowLeft') choose('left');
  else if (key === '2' || key === 'ArrowRight') choose('right');
  else if (key === '0') restart();
  else if (key === 'Enter' && !onButton) { if (!pressed.repeat) send(); }
  else if (key === ' ' && !onButton && !onBox) togglePlay();
  else done = $('letters').checked && tick(key);
  if (done) pressed.preventDefault();
}

function tick(letter) {
  const reason = state.questions[state.step].reasons.find((one) => one.letter === letter);
  if (!reason) return false;
  const box = $(`reason-${reason.key}`);
  box.checked = !box.checked;
  $('error').textContent = '';
  say(`${reason.name} ${box.checked ? 'ticked' : 'not ticked'}`);
  return true;
}

// -- start

async function start() {
  const found = await askUntilAnswered('state', undefined, 'The server cannot be reached. Trying again…');
  Object.assign(state, { study: found.study, questions: found.questions });
  state.token = new URLSearchParams(location.hash.slice(1)).get('token') ?? '';
  if (state.token) history.replaceState(null, '', location.pathname + location.search); // out of sight and out of bookmarks
  document.title = found.study.title;
  $('title').textContent = found.study.title;
  $('note').textContent = found.study.note;
  $('note').hidden = !found.study.note;
  explainReasons();
  playExamples(!calm.matches);
  askForCode(false);
  setInterval(keepLease, Math.min(60000, Math.max(1000, found.study.keep_ms)));
  if (found.rater) await nextPair();
  else show('welcome');
}

$('join').addEventListener('submit', join);
$('use-code').addEventListener('click', () => { askForCode($('token-field').hidden); ($('token-field').hidden ? $('name') : $('token')).focus(); });
$('examples-play').addEventListener('click', () => playExamples($('examples-play').getAttribute('aria-pressed') !== 'true'));
$('begin').addEventListener('click', nextPair);
$('form').addEventListener('submit', send);
$('form').addEventListener('change', () => { $('error').textContent = ''; });
$('restart').addEventListener('click', restart);
$('play').addEventListener('click', togglePlay);
$('pause').addEventListener('click', () => { stopWatch(); show('paused'); });
$('resume').addEventListener('click', nextPair);
$('again').addEventListener('click', nextPair);
$('leave').addEventListener('click', leave);
$('done-leave').addEventListener('click', leave);
document.addEventListener('keydown', onKey);
document.addEventListener('visibilitychange', () => {
  if (state.screen !== 'rate') return;
  if (document.hidden) { stopWatch(); stopVideos(); } else { startWatch(); if (player.wanted) (left.ended && right.ended ? fromTheStart() : go()); }
});
start();
