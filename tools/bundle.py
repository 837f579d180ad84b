"""Make a trained model the one that comes with the package: `load_pretrained` loads it from then on.

    lvr train --preset bundled
    python tools/bundle.py runs/bundled/model.safetensors

The model is stored in 8 bits, and measured as stored: its card says what it reaches and what the rounding costs."""
import argparse
import json
import sys
import tempfile
from pathlib import Path

import torch

from lstm_video_repr.clips import fixed_test_set
from lstm_video_repr.core.files import check_target, write_text
from lstm_video_repr.metrics import evaluate
from lstm_video_repr.models import VideoLSTM
from lstm_video_repr.zoo import frame_side, load_model, measure_card, save_model

ROOT = Path(__file__).resolve().parent.parent
ASSETS = ROOT/'lstm_video_repr'/'assets'


def round_model(
    model: VideoLSTM, # a trained one; not changed
) -> VideoLSTM: # what comes back from a file with 8 bits for each weight
    "The model as it will be stored."
    with tempfile.TemporaryDirectory() as folder:
        return load_model(save_model(model, Path(folder)/'rounded.safetensors', dtype=torch.int8))


def rounding_cost(
    model: VideoLSTM, # with all its digits
    stored: VideoLSTM, # the same, rounded
    clips, # a finite set to compare them on
) -> str: # a few words, for the card
    "What the rounding costs: how much more a frame of the future costs (of the past, if the model only reconstructs)."
    exact, rough = (evaluate(m, clips, ssim=False) for m in (model, stored))
    part = 'reconstruction' if exact.future is None else 'future'
    before, after = (getattr(s, part).overall for s in (exact, rough))
    key, unit = ('nats', 'nats') if 'nats' in before else ('squared_error', 'half squared error')
    return f'{after[key] - before[key]:+.2f} {unit} per {part} frame'


def whole_log(
    log: str, # of a training, a row to a line
    before: dict, # what the weights it began with had cost: steps, clips seen, seconds
    old: str, # the log of the model that comes with the package so far
) -> str: # with the old one in front, if that is what the training went on from
    "The log from the very first step on."
    costs = dict(step='steps', clips='clips seen', seconds='seconds')
    first = [row for row in map(json.loads, old.splitlines()) if row['step'] <= (before or {}).get('steps', 0)]
    if not first or first[-1]['step'] != before['steps'] or not before.keys() >= {*costs.values()}: return log
    rows = [row | {k: round(row[k] + before[name], 2) for k, name in costs.items()}
            for row in map(json.loads, log.splitlines())]
    return ''.join(json.dumps(row) + '\n' for row in first + rows)


def bundle(
    file: Path, # a model as `lvr train` writes it, with `log.jsonl` beside it
    *,
    assets: Path = ASSETS, # where `pretrained.safetensors` and `pretrained.jsonl` go
    n_clips: int = 1000, # clips of each fixed test set
    folder: Path | None = None, # with the MNIST files; None: that of LVR_DATA, else a download
) -> Path: # the new file
    """Store a trained model in 8 bits, with a new card, a checksum, and its log.

    What is wrong is said before anything is replaced."""
    model, log = load_model(file), Path(file).with_name('log.jsonl').read_text(encoding='utf8')
    if not Path(assets).is_dir(): raise FileNotFoundError(f'assets is {str(assets)!r}; expected an existing folder')
    for name in 'pretrained.safetensors', 'pretrained.jsonl': check_target(Path(assets)/name, 'assets')
    kept = Path(assets)/'pretrained.jsonl'
    log = whole_log(log, model.card.get('of these before'), kept.read_text(encoding='utf8') if kept.is_file() else '')
    about = {k: v for k, v in model.card.items() if k not in ('machine', 'test')}
    sets, stored = tuple(model.card.get('test') or ('mnist', 'embedded')), round_model(model)
    cost = rounding_cost(model, stored, fixed_test_set('embedded', min(200, n_clips), image_size=frame_side(model)))
    about['stored as'] = f'int8, a scale for each row; measured as stored (rounding cost {cost})'
    card = measure_card(stored, about, digits=sets, n_clips=n_clips, folder=folder)
    new = save_model(model, Path(assets)/'pretrained.safetensors', card=card, dtype=torch.int8)
    write_text(kept, log)
    return new


def main(
    argv: list | None = None, # the words of the command; None: those of this process
) -> int: # 0, or 1 if something failed
    "The command."
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('file', type=Path, help='a model as `lvr train` writes it, with log.jsonl beside it')
    parser.add_argument('--assets', type=Path, default=ASSETS, help='where to put it (default: assets of this clone)')
    parser.add_argument('--n-clips', type=int, default=1000, help='clips of each fixed test set (default: 1000)')
    parser.add_argument('--data', type=Path,
                        help='folder with the MNIST files (default: that of LVR_DATA, else a download)')
    args = parser.parse_args(argv)
    try: new = bundle(args.file, assets=args.assets, n_clips=args.n_clips, folder=args.data)
    except (OSError, ValueError) as e:
        print(f'bundle: {e}', file=sys.stderr)
        return 1
    print(f'{load_model(new).card}\n\nWrote {new} ({new.stat().st_size / 1e6:.1f} MB) and its log')
    return 0


if __name__ == '__main__': sys.exit(main())
