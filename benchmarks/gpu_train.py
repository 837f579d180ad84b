"The parts that train: `rates`, the rows of the paper's table, and `bundle`, a model to bring home."
import hashlib
import io
import math
import time
from dataclasses import asdict, replace

import torch

from gpu_common import (AUTHORS, MB, ROWS, Part, catch_warnings, count_weights, draw_model, list_ways, load_pictures,
                        read, thin)
from gpu_home import ALL_PIECES
from lstm_video_repr.clips import MovingDigits, fixed_test_set
from lstm_video_repr.fast_lstm import fast_bf16
from lstm_video_repr.lstm import set_backend
from lstm_video_repr.metrics import evaluate
from lstm_video_repr.models import VideoLSTMConfig
from lstm_video_repr.training import Checkpoint, History, Validation, get_recipe, train
from lstm_video_repr.zoo import load_model, load_pretrained, preset, save_model
from results import plain, reason_of

MARKS = 300., 285.2 # nats per future frame beyond the paper's
BUNDLED_UNITS, BUNDLED_RATE, USUAL_RATE = 960, 1.5e-3, 1e-3
KEPT = 'step', 'clips', 'seconds', 'validation_reconstruction', 'validation_future'


# ---- callbacks

class Pace:
    "A callback that finds out how long a step takes, then stops."
    def __init__(
        self,
        seconds: float, # to look at
    ):
        self.seconds, self.marks = seconds, []

    def __call__(
        self,
        run, # of `train`
    ):
        "Note the time of each row; a row waits for the device."
        if run.row is None: return
        self.marks.append((run.step, time.perf_counter()))
        if len(self.marks) > 3 and self.marks[-1][1] - self.marks[1][1] > self.seconds: run.stop = True

    @property
    def step(self) -> float: # seconds
        "A step, on average; the first row, with compiling and recording, is not counted."
        (a, start), (b, end) = self.marks[1], self.marks[-1]
        return (end - start) / (b - a)


def stop_in_time(
    part: Part, # its clock
    reserve: float, # seconds for what comes after
): # a callback
    "End training while there is time for what comes after."
    def stop(run): run.stop |= part.left() < reserve
    return stop


def tell(
    part: Part, # that speaks
): # a callback
    "Say and write how validation goes, now and then."
    last = -math.inf
    def speak(run):
        nonlocal last
        row = run.row
        if not row or row.get('validation_future') is None: return
        if run.step < run.steps and time.monotonic() - last < 15: return
        last = time.monotonic()
        part.found['so_far'] = {k: row[k] for k in KEPT if row.get(k) is not None}
        part.save()
        part.say(f'step {row["step"]} of {run.steps}: future {row["validation_future"]:.1f}, '
                 f'training {row["future"]:.1f}')
    return speak


def keep_model(
    part: Part, # the part `bundle`
): # a callback
    "Save the model as it is every now and then: if all ends here, this is what there is."
    last = time.monotonic()
    def keep(run):
        nonlocal last
        if time.monotonic() - last < part.sizes.snapshot or run.step == run.steps: return
        try: save_bundle(part, run.model, dict(step=run.step, clips=run.seen, seconds=time.monotonic() - run.clock))
        except (OSError, ValueError) as error: part.say(f'the model as it is could not be kept: {error}')
        last = time.monotonic()
    return keep


# ---- what is trained, and on what

def make_clips(
    part: Part, # that trains
    digits: str, # 'mnist', 'embedded', or 'mnist+embedded'
    split: str, # 'train', or 'test' to validate
) -> MovingDigits: # made where the part computes
    "Clips of training, or of validation: other digits, other trajectories."
    seed = part.options.seed + (split == 'test')
    return MovingDigits(load_pictures(digits, split), seed=seed, device=part.device)


def make_test(
    part: Part, # that measures
    digits: str, # 'mnist', 'embedded', or 'mnist+embedded', of which the first are taken
): # fixed clips
    "The clips of the fixed test set."
    return fixed_test_set(digits.split('+')[0], part.sizes.test, device=part.device)


def find_config(
    part: Part, # whose rehearsal is tiny
    name: str, # of a preset
) -> VideoLSTMConfig: # the preset's, in a rehearsal of fewer units
    "The model of a row."
    config = preset(name).config
    return replace(config, hidden_size=part.sizes.trained['units']) if part.options.rehearse else config


def choose_batch(part: Part) -> int: # clips in a step
    "As asked for, or the usual."
    return part.options.batch or part.sizes.default_batch


def choose_rate(part: Part) -> float: # the highest learning rate
    "As asked for, or that which the part `rates` found best, or the usual."
    if part.options.lr: return part.options.lr
    if part.name == 'bundle': return BUNDLED_RATE
    return (read(part.out/'gpu-rates.json') or {}).get('best') or USUAL_RATE


# ---- in which way: the fastest of those that agree with the reference

def blame(
    way: dict, # backend and step
    checks: list[dict], # of the part `agree`, those given up included
    dtype: str, # in which is trained
) -> list[str]: # names of checks that speak against it
    "A check speaks against the ways that have its backend and its step."
    return [c['name'] for c in checks if not c.get('ok') and c.get('way') and c.get('dtype') == dtype
            and all(way[k] == v for k, v in c['way'].items())]


def choose_way(
    part: Part, # that trains
) -> dict: # backend and step
    "The fastest way that no check speaks against and over which no process of this part has ended."
    agreed, dtype = read(part.out/'gpu-agree.json') or {}, 'bf16' if fast_bf16(part.device) else 'fp32'
    checks, gone = agreed.get('checks', []) + agreed.get('given_up', []), part.found.get('given_up', [])
    ways = [w for w in list_ways(part.device) if not any(g.get('way') == w for g in gone)]
    ways.sort(key=lambda w: bool(blame(w, checks, dtype))) # what is blamed comes last
    if not ways: raise RuntimeError('no way to train is left; see given_up')
    for name in blame(list_ways(part.device)[0], checks, dtype): part.say(f'the usual way is not taken: {name} failed')
    part.attempt(dict(name='training, {backend} layers, {step} steps'.format(**ways[0]), way=ways[0]))
    return ways[0]


# ---- how many steps fit

def make_model(
    part: Part, # that trains
    config: VideoLSTMConfig, # what
    way: dict, # backend and step
): # a model
    "Fresh weights, computed in some way."
    return set_backend(draw_model(config, part.device, part.options.seed), way['backend'])


def find_pace(
    part: Part, # that trains
    config: VideoLSTMConfig, # what
    digits: str, # of which digits
    *,
    way: dict, # backend and step
    seconds: float, # to look at
    **changes, # of the recipe
) -> tuple: # seconds per step, and the model that was trained to find out
    "Train for a few seconds, at a rate that goes well at any sizes."
    pace, trial = Pace(seconds), make_model(part, config, way)
    train(trial, make_clips(part, digits, 'train'), steps=10**6, callbacks=[pace], progress=None,
          step=way['step'], log_every=part.sizes.paced_every, **changes | dict(lr=1e-5))
    return pace.step, trial


def time_evaluation(
    part: Part, # that measures
    model, # to be evaluated
    clips, # on which
    *,
    n_clips: int, # so many
    **options, # of `evaluate`
) -> float: # seconds
    "The second of two evaluations; the first prepares what all later ones share."
    for _ in range(2):
        part.wait()
        begun = time.perf_counter()
        evaluate(model, clips, n_clips, **options)
        part.wait()
    return time.perf_counter() - begun


def make_plan(
    part: Part, # that trains
    config: VideoLSTMConfig, # what
    *,
    digits: str, # on which
    way: dict, # backend and step
    tests: int, # evaluations on the whole test set that come after
    changes: dict, # of the recipe
) -> dict: # seconds per step, validation and test, what is set aside, and the steps that fit
    "How many steps fit, so that the schedule ends in time."
    s, begun, seconds = part.sizes, time.monotonic(), part.left()
    step, trial = find_pace(part, config, digits, way=way, seconds=s.pace, **changes)
    n = min(2*s.test_batch, s.test)
    test = time_evaluation(part, trial, make_test(part, digits), n_clips=n, batch_size=s.test_batch) * s.test / n
    validation = time_evaluation(part, trial, make_clips(part, digits, 'test'), n_clips=s.validated, ssim=False)
    saved = 0 if leaves_nothing(part) else 3 * sum(p.numel() * p.element_size() for p in trial.parameters())
    saving = saved / s.saving + s.closing
    reserve = tests * 1.15 * test + saving + s.margin
    every = max(1, round(max(1.5, seconds / 150, 15 * validation) / step)) # a validation costs no more than a fifteenth
    steps = int(.94 * (part.left() - reserve) / (step + validation / every))
    return dict(way=way, seconds_per_step=step, seconds_per_validation=validation, seconds_of_the_test=test,
                seconds_of_planning=time.monotonic() - begun, validate_every=every, reserve=reserve,
                steps=min(s.most, max(2, steps)))


# ---- training for the time there is

def find_plan(
    part: Part, # that trains
    config: VideoLSTMConfig, # what
    *,
    digits: str, # of which digits
    way: dict, # backend and step
    lr: float, # learning rate at its highest
    tests: int, # evaluations on the whole test set that come after
) -> dict | None: # that of a training that was interrupted, or a new one; None if there is no time
    "What is trained, in how many steps."
    s, found, batch = part.sizes, part.found, part.found['batch']
    if found.get('plan') and find_checkpoint(part).exists(): return found['plan'] | dict(way=way)
    find_checkpoint(part).unlink(missing_ok=True)
    part.say(f'{count_weights(config) / 1e6:.1f} million weights, batch {batch}, rate {lr:g}, {digits} digits; '
             f'{way["backend"]} layers, {way["step"]} steps: how long does one take?')
    changes = dict(recipe='adam', batch_size=batch, lr=lr, warmup=s.warmup)
    plan = make_plan(part, config, digits=digits, way=way, tests=tests, changes=changes)
    if part.left() < plan['reserve'] + 10 * plan['seconds_per_step']: return part.miss('training')
    found['plan'] = plan | dict(changes=changes | dict(warmup=min(s.warmup, max(1, plan['steps'] // 20))))
    return found['plan']


def find_checkpoint(part: Part): return part.work/'checkpoint.safetensors'

def leaves_nothing(part: Part) -> bool: # no checkpoint
    "In the plan `rows` nobody will go on with a training: its checkpoint is a gigabyte, which takes seconds to write."
    return part.options.plan == 'rows'


def train_once(
    part: Part, # that trains
    config: VideoLSTMConfig, # what
    plan: dict, # from `find_plan`
    *,
    digits: str, # of which digits
): # the trained model and its history
    "One training, which goes on where an earlier one stopped. `FloatingPointError` after a loss that is no number."
    s, model, way = part.sizes, make_model(part, config, plan['way']), plan['way']
    told = [stop_in_time(part, plan['reserve']), tell(part), *[keep_model(part)]*(part.name == 'bundle')]
    with catch_warnings() as said:
        history = train(model, make_clips(part, digits, 'train'), steps=plan['steps'], **plan['changes'],
                        validate=Validation(make_clips(part, digits, 'test'), every=plan['validate_every'],
                                            n_clips=s.validated),
                        checkpoint=None if leaves_nothing(part) else Checkpoint(find_checkpoint(part)),
                        callbacks=told, progress=None, step=way['step'],
                        log=part.out/f'gpu-{part.name}.jsonl', log_every=s.log_every)
    part.found['warnings'] = [reason_of(text) for text in said if 'recorded' in text]
    return model, history


def fit(
    part: Part, # that trains
    config: VideoLSTMConfig, # what
    *,
    digits: str, # of which digits
    tests: int = 1, # evaluations on the whole test set that come after
): # the trained model and its history; None and None if there was no time to begin
    "Train for the time there is, on a schedule that ends in it. Half the rate after a loss that is no number."
    part.work.mkdir(parents=True, exist_ok=True)
    attempts = part.found.setdefault('attempts', [])
    lr, way = attempts[-1]['lr'] / 2 if attempts else choose_rate(part), choose_way(part)
    for _ in range(3):
        plan = find_plan(part, config, digits=digits, way=way, lr=lr, tests=tests)
        if plan is None: return None, None
        part.say(f'{plan["steps"]} steps of {plan["seconds_per_step"]*1e3:.2f} ms, a validation '
                 f'({plan["seconds_per_validation"]*1e3:.0f} ms) every {plan["validate_every"]}')
        part.save()
        try:
            done = train_once(part, config, plan, digits=digits)
            part.found.pop('trying', None) # what comes after says nothing of this way to train
            return done
        except FloatingPointError as error:
            attempts.append(dict(lr=plan['changes']['lr'], reason=reason_of(error)))
            part.say(f'{error}; once more with half the rate')
        lr, part.found['plan'] = plan['changes']['lr'] / 2, None
        find_checkpoint(part).unlink(missing_ok=True)
        part.free()
    raise FloatingPointError(f'no rate worked: {", ".join(str(a["lr"]) for a in attempts)}')


# ---- what is kept of a training

def find_passing(
    history, # of a training
    nats: float, # of future frames in validation
) -> dict | None: # step, clips and seconds at the first validation that is at most so much; None if there is none
    "When a validation passed a mark."
    for row in history.rows:
        if row.get('validation_future') is not None and row['validation_future'] <= nats:
            return {k: row[k] for k in ('step', 'clips', 'seconds', 'validation_future')}


def few_digits(
    scores, # from `evaluate`
) -> dict: # task -> overall and per_frame
    "Scores, by frame too, and standard errors of the overall ones, with the digits that mean something."
    def few(k, v): return round(float(v), 4 if k == 'ssim' else 2)
    found = {task: getattr(scores, task) for task in ('reconstruction', 'future')}
    return {task: dict(overall={k: few(k, v) for k, v in f.overall.items()},
                       errors={k: few(k, v) for k, v in (f.errors or {}).items()},
                       per_frame={k: [few(k, x) for x in v] for k, v in f.per_frame.items()})
            for task, f in found.items() if f is not None}


def keep_history(
    part: Part, # that has trained
    history, # of the training
    *,
    mark: float, # nats per future frame to stand beside
):
    "Rows of the log, thinned, when marks were passed, and the curve as a picture."
    def pick(row, names): return {k: row[k] for k in names if row.get(k) is not None}
    last, found = history.rows[-1], part.found
    found['trained'] = {k: last.get(k) for k in ('step', 'clips', 'seconds', 'total', 'reconstruction', 'future')}
    if last['step'] < found['plan']['steps']:
        found['missing'].append(f'training stopped at step {last["step"]} of {found["plan"]["steps"]}')
    found['passed'] = {str(m): find_passing(history, m) for m in dict.fromkeys((AUTHORS, mark, *MARKS))}
    validated = thin([r for r in history.rows if r.get('validation_future') is not None])
    found['validation'] = [pick(r, KEPT) for r in validated]
    found['curve'] = [pick(r, ('step', 'seconds', 'lr', 'reconstruction', 'future')) for r in thin(history.rows)]
    part.save()


def draw(
    part: Part, # that has trained
    history, # of the training
    model, # on the device
    *,
    digits: str, # of the test
    mark: float, # nats per future frame to stand beside
):
    "Both pictures, last of all: a failure costs but them."
    for picture in (lambda: draw_curve(part, history, mark), lambda: draw_strips(part, model, digits)):
        try: picture()
        except Exception as error:
            part.miss(f'a picture ({reason_of(error)})')


def draw_curve(
    part: Part, # that has trained
    history, # of the training
    mark: float, # nats per future frame to stand beside
):
    "The curve of the losses beside a published number, in gpu-NAME-curve.png."
    import matplotlib
    matplotlib.use('agg')
    rows, last = history.rows, history.rows[-1]
    few = {r['step'] for r in thin([r for r in rows if 'validation_future' in r], 25)} # few enough to tell apart
    shown = [{k: v for k, v in r.items() if r['step'] in few or not k.startswith('validation')} for r in rows]
    fig = History(shown, history.unit).plot()
    ax = fig.axes[0]
    values = [r[k] for r in rows[len(rows)//50:] for k in ('reconstruction', 'future') if r.get(k) is not None]
    ax.set_ylim(min([*values, mark]) - 15, max([*values, mark]) + 15)
    ax.axhline(mark, color='#555555', lw=1, ls=':')
    whose = 'the authors' if part.name in ('row-authors', 'bundle') else 'the paper'
    ax.annotate(f'{mark:g}: {whose}, future', (1, mark), xycoords=('axes fraction', 'data'), xytext=(0, 3),
                textcoords='offset points', ha='right', fontsize=8, color='#555555')
    title = f'{part.found.get("preset", part.name)}: {last["clips"]/1e6:.1f} million clips in {last["seconds"]:.0f} s'
    ax.set_title(title, fontsize=10)
    fig.savefig(part.out/f'gpu-{part.name}-curve.png', dpi=110, bbox_inches='tight')


@torch.no_grad()
def draw_strips(
    part: Part, # that has trained
    model, # on the device
    digits: str, # of the test
    *,
    n: int = 3, # clips
):
    "What the model makes of the first clips of the test set, one below another, in gpu-NAME-strips.png."
    from PIL import Image
    from lstm_video_repr.pictures import show_prediction
    past, future = make_test(part, digits).read(0, n)
    was = model.training
    out = model.eval()(past)
    model.train(was)
    out = replace(out, **{k: v.float().cpu() for k, v in vars(out).items() if torch.is_tensor(v)})
    strips, gap = [], 14
    for i in range(n):
        file = io.BytesIO()
        fig = show_prediction(past.cpu(), future.cpu(), out, i=i)
        fig.savefig(file, format='png', dpi=90, bbox_inches='tight', pad_inches=.08)
        strips.append(Image.open(file).convert('RGB'))
    height = sum(p.height + gap for p in strips) - gap
    page, top = Image.new('RGB', (max(p.width for p in strips), height), 'white'), 0
    for p in strips:
        page.paste(p, (0, top))
        top += p.height + gap
    page.quantize(128).save(part.out/f'gpu-{part.name}-strips.png', optimize=True)


def is_whole(part: Part) -> bool: # has training ended as planned?
    "If not, the checkpoint is still needed."
    return part.found['trained']['step'] >= part.found['plan']['steps']


# ---- the parts

def train_row(
    part: Part, # one of `ROWS`
):
    "Train one of the paper's models for the time there is, and measure it free-running on the fixed test set."
    name, paper = ROWS[part.name]
    config, found, s, digits = find_config(part, name), part.found, part.sizes, part.options.digits
    found |= dict(preset=name, paper=paper, authors=AUTHORS, digits=digits, batch=choose_batch(part),
                  config=asdict(config))
    model, history = fit(part, config, digits=digits)
    if model is None: return
    keep_history(part, history, mark=paper)
    scores = evaluate(model, make_test(part, digits), s.test, batch_size=s.test_batch)
    found['test'] = dict(clips=s.test, decoding='free-running', digits=f'{digits}, test split', **few_digits(scores))
    part.say(f'fixed test set: {found["test"]["future"]["overall"]}')
    part.save()
    draw(part, history, model, digits=digits, mark=paper)
    if is_whole(part): part.forget()


def try_rate(
    part: Part, # that tries
    lr: float, # the highest learning rate
    *,
    config: VideoLSTMConfig, # of the model
    way: dict, # backend and step
    tries: int, # rates that are left, this one included
) -> dict | None: # a row; None if there is no time
    "A short training, in as many steps as those of all other rates."
    s, digits, batch, begun = part.sizes, part.options.digits, choose_batch(part), time.monotonic()
    held_out, plan = make_clips(part, digits, 'test'), part.found.get('plan')
    if plan is None:
        step, trial = find_pace(part, config, digits, way=way, seconds=s.pace / 2, batch_size=batch)
        evaluate(trial, held_out, s.validated, ssim=False)
        del trial
        steps = min(s.most, max(2, int(.85 * part.left() / tries / step)))
        plan = part.found['plan'] = dict(steps=steps, seconds_per_step=step)
    if part.left() < plan['steps'] * plan['seconds_per_step']: return part.miss(f'rate {lr:g}')
    model = make_model(part, config, way)
    try:
        history = train(model, make_clips(part, digits, 'train'), steps=plan['steps'], batch_size=batch, lr=lr,
                        warmup=min(s.short_warmup, plan['steps'] // 5), callbacks=[stop_in_time(part, 2.)],
                        step=way['step'], progress=None, log_every=s.log_every)
    except FloatingPointError as error: return dict(lr=lr, validation=None, reason=reason_of(error))
    scores, last = evaluate(model, held_out, s.validated, ssim=False), history.rows[-1]
    return dict(lr=lr, steps=last['step'], batch=batch, validation=scores.future.overall['nats'],
                training=last['future'], seconds=time.monotonic() - begun)


def rates(
    part: Part, # that tries
):
    "Short trainings of the composite, each at another learning rate; the rows take the best one."
    name, rows, s = ROWS['row-composite'][0], part.found.setdefault('rows', []), part.sizes
    config, way = find_config(part, name), choose_way(part)
    for n, lr in enumerate(s.rates):
        if any(r['lr'] == lr for r in rows): continue
        row = try_rate(part, lr, config=config, way=way, tries=len(s.rates) - n)
        if row is None: continue
        rows.append(row)
        part.say(f'rate {lr:g}: {row["validation"]}')
        part.save()
        part.free()
    good = [r for r in rows if r['validation'] is not None]
    part.found |= dict(preset=name, best=min(good, key=lambda r: r['validation'])['lr'] if good else None)


def bundle(
    part: Part, # that trains
):
    "A one-layer composite to be bundled: trained, saved in 8 bits, measured as saved beside the bundled model."
    found, given = part.found, part.options
    units = given.units or (part.sizes.trained['units'] if given.rehearse else BUNDLED_UNITS)
    config = VideoLSTMConfig(hidden_size=units)
    size = count_weights(config)
    if size > ALL_PIECES:
        raise ValueError(f'units is {units}: {size / MB:.1f} MB in 8 bits; expected at most {ALL_PIECES / MB:.0f} MB '
                         '(1408 units)')
    digits = 'mnist+embedded' if given.digits == 'mnist' else given.digits
    found |= dict(config=asdict(config), digits=digits, batch=choose_batch(part), authors=AUTHORS)
    networks = 2 - bool(given.plan) # in a plan there is no time to measure the bundled one again
    model, history = fit(part, config, digits=digits, tests=networks * len(digits.split('+')))
    if model is None: return
    keep_history(part, history, mark=AUTHORS)
    file = save_bundle(part, model, found['trained'])
    measure_bundle(part, file)
    draw(part, history, model, digits=digits, mark=AUTHORS)
    if is_whole(part): part.forget()


def save_bundle(
    part: Part, # that has trained, or is training
    model, # to be saved
    seen: dict, # steps, clips and seconds of its training
): # the file: too large for the folder of results; `--pack` cuts it into pieces
    "Save a model in 8 bits, with a card."
    found, file = part.found, part.work.parent/'bundle.safetensors'
    recipe = get_recipe(**found['plan']['changes'])
    card = {'about': 'composite of one layer, trained on a GPU',
            'data': f'two moving digits, {found["digits"]}, training split', 'clips seen': seen['clips'],
            'steps': seen['step'], 'steps planned': found['plan']['steps'], 'seconds': seen['seconds'],
            'seed': part.options.seed, 'recipe': asdict(recipe),
            'machine': found['machine'], 'versions': found['versions'], 'commit': found['commit']}
    save_model(model, file, card=plain(card), dtype=torch.int8)
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    found['file'] = dict(name=file.name, bytes=file.stat().st_size, sha256=digest)
    part.save()
    return file


def measure_bundle(
    part: Part, # that has trained
    file, # with the model, before it is brought home, as it will be used
):
    "The new model and the bundled one on the fixed test set of all digits."
    s, found = part.sizes, part.found
    found['test'] = {}
    networks = {'new': load_model(file, device=part.device)}
    if not part.options.plan: networks['bundled'] = load_pretrained(device=part.device)
    for digits in found['digits'].split('+'):
        test = make_test(part, digits)
        for what, network in networks.items():
            if part.left() < part.sizes.closing / 2:
                part.miss(f'{what} model on {digits} digits')
                continue
            scores = few_digits(evaluate(network, test, s.test, batch_size=s.test_batch))
            found['test'][f'{what}, {digits}'] = dict(clips=s.test, **scores)
            part.say(f'{what} model, {digits} digits: {scores["future"]["overall"]}')
            part.save()
