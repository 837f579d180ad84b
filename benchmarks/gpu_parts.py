"The parts of `gpu.py`: each runs in a process of its own and writes one file as it goes."
import multiprocessing
import os
import threading
import traceback
from pathlib import Path

import torch

from gpu_agree import agree
from gpu_common import ROWS, Part, give_up, without_compiler
from gpu_speed import clips, speed
from gpu_train import bundle, rates, train_row
from results import reason_of
from timing import allow_tensor_cores

PARTS = dict(agree=agree, speed=speed, clips=clips, rates=rates, **dict.fromkeys(ROWS, train_row), bundle=bundle)
ABOUT = dict(
    agree='the device against the reference in float64, recorded steps, clips, evaluation',
    speed="training steps and layers beside cuDNN's and the matrix-product rate", clips='clips made per second',
    rates='short trainings: which learning rate?', bundle='a one-layer model small enough to bring home')
ABOUT |= {part: f'training: {preset}, nats per future frame (the paper: {nats:g})'
          for part, (preset, nats) in ROWS.items()}
ABOUT['row-authors'] = 'training: {}, time to {:g} nats'.format(*ROWS['row-authors'])


def end_with_parent():
    "End this process when the one that began it is gone, whatever became of it: nobody would hear of the results."
    parent = multiprocessing.parent_process()
    def watch():
        parent.join()
        os._exit(1)
    if parent: threading.Thread(target=watch, daemon=True).start()


def run_part(
    name: str, # one of `PARTS`
    out: Path, # folder of the files
    work: Path, # folder for checkpoints
    settings: dict, # as for `Part`
    seconds: float, # that it may take
):
    "Run a part and leave its file: complete, partial (time was short) or failed."
    end_with_parent()
    part = Part(name, out, work, settings=settings, seconds=seconds)
    if part.device.index is not None: torch.cuda.set_device(part.device)
    allow_tensor_cores(part.device, 'fp32')
    part.save()
    try:
        with without_compiler(part.options.rehearse): PARTS[name](part)
    except Exception as error:
        traceback.print_exc()
        give_up(part.found, reason_of(error))
        part.found |= dict(status='failed', reason=reason_of(error))
    else: part.found['status'] = 'partial' if part.found['missing'] else 'complete'
    part.found.pop('trying', None)
    part.save()
