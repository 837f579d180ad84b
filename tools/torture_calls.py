"""Good calls of all that is public: what an argument is by its name, by the call where the name is not enough, and
whose method it is. `torture_arguments.py` changes one argument after the other."""
import importlib
import zipfile
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch

from lstm_video_repr.core.tables import Table, Tabular
from lstm_video_repr.clips import (ArrayClips, DatasetClips, FixedClips, MovingDigits, MovingMNISTFile, StreamClips,
                                   as_clips)
from lstm_video_repr.lstm import PeepholeLSTM
from lstm_video_repr.metrics import LastFrame, LinearPredictor, evaluate, score_clips
from lstm_video_repr.models import Decoder, FrameCode, VideoLSTM, VideoLSTMConfig
from lstm_video_repr.training import Checkpoint, ClampedSGD, History, LivePlot, Recipe, Run, make_optimizer
from lstm_video_repr.zoo import PRESETS, Card, save_authors_checkpoint, save_model

# What else is in core serves the package, not its users.
MODULES = ('core.tables lstm fast_lstm digits clips models metrics training scale zoo pictures activity widgets '
           'videos percepts actions cli').split()
B, T, H, D = 2, 3, 8, 64 # clips, frames, units, values in a frame (1, 8, 8)
SIZES = dict(hidden_size=H, frame_shape=(1, 8, 8))

# What is called by the training loop, by torch, by several processes or by other parts of the package, never by a user;
# what downloads or takes long; and `Row`, which is looked at when it is drawn.
BEHIND_THE_DOOR = set('''begin after_loss after_step end fail extra_repr advance tell tell_failure hold work is_ready
    beside record_graph do_together add_up average_processes RecordedStep.work plain_step detach_losses check_finite objective choose_step
    prepare going mean_row patch Missing Scores FrameScores TaskSkill Skill
    Comparison Position RowFile download run_download run_demo run_train run_video_check import_extra Row
    run_train_percepts run_evaluate_percepts
    set_state conv_norm Bottleneck MeanOverPicture MobileNetV2.forward VGG16.forward Encoder.encode
    PictureEncoder.encode FlowHistogram.encode FlowFields.encode find_weights
    clear pop popitem setdefault update FrameCode.level FrameCode.flatten FrameCode.encode
    FrameCode.decode Learner.look Learner.fit Learner.predict serve_films read_film fetch_file fetch_videos'''.split())


def rand(*shape): return torch.rand(*shape, generator=torch.Generator().manual_seed(0))


def model(**config): return VideoLSTM.composite(**SIZES | config)


def clips(): return as_clips(rand(6, 2 * T, 1, 8, 8))


def moving(): return MovingDigits('embedded', n_digits=1, image_size=28, past=2, future=2)


def run(): return Run(model(), clips(), 4, recipe=Recipe(batch_size=2))


def out(): return model()(rand(B, T, 1, 8, 8), future_frames=T)


def scores(): return evaluate(model(), clips(), 2)


def clip_scores(): return score_clips(LastFrame(), clips(), 4)


def line(): return LinearPredictor.from_clips(clips(), ridge=.1, memory=2)


def folder():
    "A folder with one film."
    return drawn('videos', 'VideoFolder', str(Path(film()).parent), cache='cache', workers=0, progress=False)()


def patches():
    films = [np.arange(40 * 8 * 8 * 3, dtype=np.uint8).reshape(40, 8, 8, 3) for _ in range(3)]
    return drawn('videos', 'Patches', films, 8, past=T, future=T)()


def encoder():
    "What turns frames into a row of four values, and what makes scores of 1000 classes of them."
    from lstm_video_repr.percepts import MeanOverPicture, PictureEncoder
    filters = torch.nn.Conv2d(3, 4, 3, bias=False)
    filters.weight.data = rand(4, 3, 3, 3)
    network = torch.nn.Sequential(filters, MeanOverPicture())
    return PictureEncoder(network, 'filters', head=torch.nn.Linear(4, 1000), resize=8, crop=8, device='cpu')


def features():
    "A file with the features of one film; and the same in the layout of the authors."
    from lstm_video_repr.percepts import extract_features, write_authors_features
    f = extract_features([film()], encoder(), 'features.h5', progress=False)
    write_authors_features('authors', [rand(T, 4).numpy()], [0])
    return f


def authors_features():
    features()
    return 'authors/features.h5'


def weights_file():
    torch.save(torch.nn.Linear(2, 3).state_dict(), 'weights.pth')
    return 'weights.pth'


def projection(): return drawn('percepts', 'Projection', np.zeros(4), np.eye(4, 2))()


def series(): return [rand(6, 4).numpy() for _ in range(3)]


def classifier():
    from lstm_video_repr.actions import LSTMClassifier
    return LSTMClassifier(D, H, 3)


def walks():
    "Six films of four values, and what is known of them."
    return [rand(20 + k, 4) + k % 3 for k in range(6)]


def halves(): return [([0, 1, 2], [3, 4, 5])]


def teacher():
    "A learner that has learned; and what it saw."
    from lstm_video_repr.actions import Logistic, take_frames
    return Logistic(take_frames, walks()).fit(walks(), GOOD['labels']())


def curve(name='a'):
    from lstm_video_repr.actions import label_curve
    return label_curve({name: lambda films, seed: teacher()}, walks(), GOOD['labels'](), groups=list('abcdef'),
                       splits=halves(), per_class=(1,), draws=1, seeds=1, size=None, progress=False)


def judge():
    "A classifier of films; and the name of a file that holds it."
    from lstm_video_repr.actions import LSTMClassifier, VideoClassifier
    return VideoClassifier(encoder(), projection(), LSTMClassifier(2, H, 3), classes=['a', 'b', 'c'])


def mover():
    "The name of a file that holds a classifier of what moves."
    from lstm_video_repr.actions import LSTMClassifier, VideoClassifier
    eyes = drawn('percepts', 'FlowHistogram')(), drawn('percepts', 'Projection', np.zeros(180), np.eye(180, 2))()
    return str(VideoClassifier(*eyes, LSTMClassifier(2, H, 3), classes=['a', 'b', 'c']).save('mover.safetensors'))


def labelled():
    "The name of a folder with four empty videos of two classes, and lists of the kinds of UCF-101 and HMDB-51."
    root, names = Path('labelled'), [f'{c}/v_{c}_g0{g}_c01.avi' for c in 'ab' for g in (1, 2)]
    for name in names:
        (root/name).parent.mkdir(parents=True, exist_ok=True)
        (root/name).touch()
    (root/'classInd.txt').write_text('1 a\n2 b\n')
    (root/'trainlist01.txt').write_text(f'{names[0]} 1\n{names[2]} 2\n')
    (root/'testlist01.txt').write_text(f'{names[1]}\n{names[3]}\n')
    for c in 'ab': (root/f'{c}_test_split1.txt').write_text(f'v_{c}_g01_c01.avi 1\nv_{c}_g02_c01.avi 2\n')
    return str(root)


def archive():
    "The name of a zip with one file."
    with zipfile.ZipFile('a.zip', 'w') as box: box.writestr('a.avi', 'a film')
    return 'a.zip'


def ucf101():
    from lstm_video_repr.actions import UCF101
    return UCF101


def published():
    from lstm_video_repr.actions import PublishedFile
    return (PublishedFile(('https://here.org/a.zip',)),)


def drawn(module, name, *args, **options): # gives what makes it
    "An object out of the rooms that want more libraries."
    return lambda: getattr(importlib.import_module(f'lstm_video_repr.{module}'), name)(*args, **options)


def files():
    "Names of small files of each kind, in the current folder."
    found = SimpleNamespace(idx='a.idx', npy='a.npy', model='a.safetensors', hdf5='a.h5', run='run.safetensors')
    if Path(found.run).exists(): return found
    with open(found.idx, 'wb') as f: f.write(b'\0\0\x08\x01\0\0\0\x03abc')
    np.save(found.npy, np.zeros((20, 2, 64, 64), np.uint8))
    save_model(model(), found.model)
    save_authors_checkpoint(model(), found.hdf5)
    run().save(found.run)
    return found


def film():
    "The name of a small film, in the current folder."
    from lstm_video_repr.videos import make_film, save_video
    return 'a.avi' if Path('a.avi').exists() else str(save_video('a.avi', make_film(2 * T, size=(8, 8))))


# ---- what an argument is by its name

GOOD = dict(
    # numbers, choices, text
    n=lambda: 2, first=lambda: 0, seed=lambda: 1, frames=lambda: T, steps=lambda: 4, step=lambda: 1, rate=lambda: .1,
    hidden_size=lambda: H, input_size=lambda: D, n_classes=lambda: 3, frame_values=lambda: D, batch_size=lambda: 4,
    n_clips=lambda: 2, most=lambda: 2, per_class=lambda: 1, unit=lambda: 1, lr=lambda: .1, seconds=lambda: 1.,
    stream=lambda: 0, precision=lambda: 'fp32', backend=lambda: 'reference', device=lambda: 'cpu',
    about=dict, recipe=Recipe, path=lambda: 'new.bin', part=lambda: 'encoder',
    # models, clips, what comes of them
    model=model, clips=clips, run=run, out=out, config=lambda: VideoLSTMConfig(**SIZES), source=clips,
    optimizer=lambda: make_optimizer(model(), Recipe()), scores=lambda: {'a': scores()},
    lstm=lambda: torch.nn.LSTM(4, 3, batch_first=True), dataset=lambda: list(rand(4, 6, 1, 8, 8)),
    pairs=lambda: [(rand(2, 3, 4), rand(2, 3, 4))], params=lambda: list(model().parameters()),
    watcher=lambda: print, function=lambda: torch.sin, widget=drawn('widgets', 'FrameStepper', rand(4, 1, 8, 8)),
    items=lambda: ['text'], activity=lambda: drawn('activity', 'unit_activity', model(), rand(B, T, 1, 8, 8))(),
    # tensors
    past=lambda: rand(B, T, 1, 8, 8), future=lambda: rand(B, T, 1, 8, 8),
    clip=lambda: rand(T, 1, 8, 8), rows=lambda: rand(T, 1, 8, 8), h=lambda: rand(B, H), c=lambda: rand(B, H),
    z=lambda: rand(B, 4*H), w_ih=lambda: rand(4*H, D), w_hh=lambda: rand(4*H, H), bias=lambda: rand(4*H),
    w_peephole=lambda: rand(3, H), target=lambda: rand(B, T, 1, 8, 8), logits=lambda: rand(B, T, 1, 8, 8),
    raw=lambda: rand(B, T, 1, 8, 8), prediction=lambda: rand(B, T, 1, 8, 8), mean=lambda: rand(1, 8, 8),
    state=lambda: (rand(1, B, H), rand(1, B, H)), numbers=lambda: torch.tensor([0, 1]), turns=lambda: torch.arange(4),
    index=lambda: torch.arange(4), start=lambda: rand(2), velocity=lambda: rand(2) / 10,
    digits=lambda: rand(4, 1, 8, 8), corners=lambda: torch.zeros(4, 1, T, 2, dtype=torch.long),
    labels=lambda: torch.tensor([0, 1, 2, 0, 1, 2]), probabilities=lambda: rand(6, 3), weights=lambda: rand(4, 1, 8, 8),
    reconstruction_logits=lambda: rand(B, T, 1, 8, 8), future_logits=lambda: rand(B, T, 1, 8, 8),
    reconstruction=lambda: torch.tensor(1.))


# ---- what it is in a call, and whose method that is

COLUMN = dict(c=lambda: rand(H, B), z=lambda: rand(4*H, B), bias=lambda: rand(4*H, 1))
STEP = dict(x=lambda: rand(B, D))
LAYER = dict(x=lambda: rand(B, T, D))
READ_MODEL, PICTURES = dict(path=lambda: files().model), dict(clips=lambda: rand(B, T, 1, 8, 8))
COURSE = dict(probabilities=lambda: np.full((T, 4), .25), times=lambda: list(range(T)), classes=lambda: list('abcd'),
              frames=lambda: np.zeros((T, 8, 8, 3), np.uint8), frame_times=lambda: [.5 * k for k in range(T)])
SMALL = dict(model=lambda: model(frame_shape=(1, 32, 32)))
LAB = dict(story=lambda: 'count', weights=lambda: None, signal=lambda: [0.] * 40)
FLOW = dict(flow=lambda: np.ones((T, 8, 8, 2)), frames=lambda: np.zeros((T, 8, 8, 3), np.uint8))
FILM = dict(frames=lambda: np.zeros((T, 16, 16, 3), np.uint8), resize=lambda: 16, crop=lambda: 8)
WALK = dict(film=lambda: rand(20, 4))
SEEN = dict(seen=walks, groups=lambda: list('abcdef'), film=WALK['film'], films=walks)
CALLS = {
    'core.tables.Table': dict(head=lambda: ['a', 'b'], rows=lambda: [[1, 2]]),
    'lstm.lstm_step': STEP, 'lstm.lstm_layer': LAYER, 'fast_lstm.fused_layer': LAYER,
    'lstm.PeepholeLSTM.weights': dict(l=lambda: 0), 'lstm.PeepholeLSTM.forward': dict(x=lambda: rand(B, T, D)),
    'fast_lstm.lstm_flops': dict(batch=lambda: B),
    'fast_lstm.gates_forward': COLUMN, 'fast_lstm.gates_backward': dict(
        gates=lambda: tuple(rand(H, B) for _ in range(4)), cells=lambda: (rand(H, B), rand(H, B)),
        dh=lambda: rand(H, B), dc=lambda: rand(H, B)),
    'digits.read_idx': dict(path=lambda: files().idx), 'digits.load_digits': dict(name=lambda: 'embedded'),
    'digits.mnist_digits': dict(split=lambda: 'test'),
    'clips.mix': dict(x=lambda: 5), 'clips.MovingDigits': dict(digits=lambda: 'embedded'),
    'clips.fixed_test_set': dict(digits=lambda: 'embedded'), 'clips.MovingMNISTFile': dict(path=lambda: files().npy),
    'clips.as_clips': dict(x=lambda: rand(6, 4, 3)),
    'clips.clips_checksum': PICTURES, 'models.VideoLSTM': dict(config=lambda: VideoLSTMConfig(**SIZES)),
    'models.VideoLSTM.loss': dict(future=GOOD['future']), 'models.VideoLoss': dict(future=lambda: torch.tensor(1.)),
    'models.Decoder.teacher_force': dict(target=lambda: rand(B, T, D)),
    'metrics.ratio_error': dict(sums=lambda: [1., 2.], sizes=lambda: [1., 1.]),
    'metrics.LinearPredictor': dict(
        code=lambda: FrameCode((1, 8, 8)), past=lambda: 2, future=lambda: 2, memory=lambda: 3),
    'metrics.ClipScores': dict(reconstruction=lambda: None, future=lambda: dict(mse=[[1.], [2.]]),
                               motion=lambda: [.1, .2], frame_shape=lambda: (1, 8, 8)),
    'metrics.ClipScores.skill': dict(reference=clip_scores), 'training.History.column': dict(name=lambda: 'total'),
    'training.Run.load': dict(path=lambda: files().run),
    'training.train': dict(steps=lambda: 2, progress=lambda: None, batch_size=lambda: 2),
    'scale.LocalStep': dict(every=lambda: 2),
    'zoo.Preset': dict(about=lambda: 'a model'), 'zoo.preset': dict(name=lambda: 'quick'),
    'zoo.save_model': dict(path=lambda: 'new.safetensors'), 'zoo.load_model': READ_MODEL,
    'zoo.load_pretrained': READ_MODEL, 'zoo.load_authors_checkpoint': dict(
        path=lambda: files().hdf5, frame_shape=lambda: (1, 8, 8)),
    'zoo.save_authors_checkpoint': dict(path=lambda: 'new.h5'), 'zoo.measure_card': dict(
        model=lambda: model(frame_shape=(1, 28, 28)), digits=lambda: ('embedded',), n_clips=lambda: 1),
    'pictures.show_grid': PICTURES, 'pictures.Animation': dict(
        data=lambda: b'GIF89a', format=lambda: 'gif', still=lambda: b'', alt=lambda: 'a', size=lambda: (8, 8)),
    'pictures.save_strip': dict(path=lambda: 'new.png'), 'pictures.save_animation': dict(path=lambda: 'new.gif'),
    'pictures.show_timeline': COURSE, 'pictures.show_flow': FLOW, 'pictures.flow_colours': FLOW,
    'pictures.show_confusion': dict(matrix=lambda: np.eye(4, dtype=int), classes=lambda: list('abcd')),
    'pictures.show_signals': dict(rows=lambda: {'cell': [0., 1., .5], 'presses': {'store': [0, 1, 0]}}),
    'pictures.show_ranking': dict(groups=lambda: {'a': {'b': 1., 'c': 2.}}),
    'pictures.show_composite': dict(config=VideoLSTMConfig),
    'pictures.show_models': dict(models=lambda: {'composite': VideoLSTMConfig()}),
    'pictures.show_label_curve': dict(curves=lambda: {'a': ([1, 2], [.3, .5], [.1, .1])}),
    'activity.Activity': dict(zip('hcifgo', 6*[lambda: rand(B, T, H)]), numbers=lambda: [1, 2, 3]),
    'widgets.sprite_sheet': dict(frames=lambda: np.zeros((T, 8, 8, 3), np.uint8)),
    'widgets.Playground': SMALL | dict(scene=lambda: dict(seed=3), side=lambda: 12), 'widgets.CellLab': LAB,
    'widgets.write_weights': dict(playground=lambda: drawn('widgets', 'Playground', SMALL['model']())()),
    'zoo.shrink_digits': dict(digits=lambda: torch.zeros(2, 28, 28, dtype=torch.uint8), side=lambda: 8),
    'widgets.ActionTimeline': COURSE | dict(fps=lambda: 5., flow=FLOW['flow']),
    **dict.fromkeys(['widgets.save_page', 'widgets.FrameStepper.to_html', 'widgets.FeatureBrowser.to_html',
                     'widgets.ActionTimeline.to_html', 'widgets.Playground.to_html', 'widgets.CellLab.to_html'],
                    dict(path=lambda: 'new.html')),
    'actions.heading': dict(path=lambda: rand(2, T, 2)), 'actions.LabelledDigits': dict(digits=lambda: 'embedded'),
    'actions.StepSoftmax.*': dict(h=lambda: rand(B, T, H), labels=lambda: torch.tensor([0, 1])),
    'actions.LSTMClassifier.*': dict(frames=lambda: rand(B, T, 1, 8, 8), labels=lambda: torch.tensor([0, 1])),
    'actions.predict_clips': dict(model=classifier, frames=lambda: rand(B, T, 1, 8, 8)),
    'actions.LabelledVideos': dict(root=labelled), 'actions.LabelledVideos.split': dict(test=lambda: .5),
    'actions.UCF101': dict(root=labelled, lists=labelled), 'actions.HMDB51': dict(root=labelled, lists=labelled),
    'actions.unpack_archive': dict(path=archive, folder=lambda: 'unpacked', progress=lambda: False),
    'actions.PublishedFile': dict(urls=lambda: ('https://here.org/a.zip',)),
    'actions.PublishedVideos': dict(**dict.fromkeys(('title', 'licence', 'page'), lambda: 'none'), reader=ucf101,
                                    **dict.fromkeys(('videos', 'lists'), published), count=lambda: 4,
                                    gigabytes=lambda: .1),
    'actions.train_classifier': dict(model=classifier, frames=lambda: rand(6, T, 1, 8, 8), steps=lambda: 2),
    'actions.cut_blocks': WALK, 'actions.take_frames': WALK, 'actions.summarise_blocks': WALK,
    'actions.read_states': WALK | dict(model=lambda: model(frame_shape=(4,))),
    'actions.Logistic': dict(look=lambda: torch.Tensor.float, films=walks), 'actions.Logistic.*': SEEN,
    'actions.Pretraining': dict(steps=lambda: 1), 'actions.LSTMLearner': dict(hidden_size=lambda: H),
    'actions.LSTMLearner.*': SEEN | dict(seen=lambda: list(rand(6, 2, 3, 4))),
    'actions.fuse': dict(streams=lambda: [rand(6, 3), rand(6, 3)], weights=lambda: [1., 2.]),
    'actions.choose_weights': dict(streams=lambda: [rand(6, 3), rand(6, 3)], parts=lambda: 2),
    'actions.predict_across': SEEN | dict(learner=teacher), 'actions.top_k': dict(k=lambda: 2),
    'actions.rank_films': SEEN, 'actions.label_curve': dict(
        learners=lambda: {'a': lambda films, seed: teacher()}, films=walks, groups=SEEN['groups'], splits=halves,
        per_class=lambda: (1,), draws=lambda: 1, seeds=lambda: 1, size=lambda: None, progress=lambda: False),
    'actions.LabelCurve': {k: lambda k=k: getattr(curve(), k) for k in
                           'learners per_class labels groups splits seeds ranks right sure'.split()},
    'actions.LabelCurve.*': dict(a=lambda: 'a', b=lambda: 'a', path=lambda: 'new.safetensors', times=lambda: 9,
                                 other=lambda: curve('b')),
    'actions.load_label_curve': dict(path=lambda: str(curve().save('curve.safetensors'))),
    'actions.Estimate': dict(names=lambda: ['a'], per_class=lambda: (1,), **dict.fromkeys(
        ['mean', 'error', 'low', 'high'], lambda: np.zeros((1, 1)))),
    'actions.retrieval': dict(representations=lambda: rand(6, 4), groups=SEEN['groups'], ks=lambda: (1, 2)),
    'actions.Retrieval': dict(ks=lambda: (1,), hits=lambda: rand(6, 1) > .5, chance=lambda: rand(1),
                              errors=lambda: [.1], n_groups=lambda: 6),
    'actions.Timeline': dict(times=lambda: np.arange(6), classes=lambda: ['a', 'b', 'c'], overall=lambda: rand(3)),
    'actions.VideoClassifier': dict(encoder=encoder, projection=projection, classes=lambda: ['a', 'b', 'c'],
                                    classifier=lambda: drawn('actions', 'LSTMClassifier', 2, H, 3)()),
    'actions.VideoClassifier.*': dict(video=film, path=lambda: 'new.safetensors'),
    'actions.VideoClassifier.fit': dict(encoder=encoder, films=walks, classes=lambda: ['a', 'b', 'c'], size=lambda: 2,
                                        hidden_size=lambda: H, steps=lambda: 1),
    'actions.load_classifier': dict(path=lambda: str(judge().save('judge.safetensors'))),
    'videos.Video': dict(path=film), 'videos.Video.at': dict(seconds=lambda: .1),
    'videos.save_video': dict(path=lambda: 'new.mp4', frames=lambda: np.zeros((T, 8, 8, 3), np.uint8)),
    'videos.motion_map': dict(frames=lambda: np.zeros((T, 8, 8, 3), np.uint8)),
    'videos.VideoFolder': dict(root=lambda: str(Path(film()).parent), workers=lambda: 0, cache=lambda: 'cache',
                               progress=lambda: False),
    'videos.VideoFolder.motion': dict(i=lambda: 0), 'videos.VideoFolder.subset': dict(names=lambda: ['a.avi']),
    'videos.Patches': dict(videos=lambda: list(patches().videos.films), size=lambda: 8, past=lambda: 2,
                           future=lambda: 2),
    'percepts.as_encoder': dict(encoder=encoder), 'percepts.load_encoder': dict(name=lambda: 'flow_histogram'),
    'percepts.PictureEncoder': dict(network=lambda: encoder().network, name=lambda: 'filters',
                                    mean=lambda: (.5, .5, .5), resize=lambda: 8, crop=lambda: 8),
    'percepts.read_weights': dict(path=weights_file),
    'percepts.load_strictly': dict(network=lambda: torch.nn.Linear(2, 3), weights=torch.nn.Linear(2, 3).state_dict),
    'percepts.fold_batch_norms': dict(network=lambda: torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3))),
    'percepts.VGG16': dict(width=lambda: 1, units=lambda: 2), 'percepts.crop_pictures': FILM,
    'percepts.name_pictures': FILM | dict(encoder=encoder), 'percepts.flow': FILM,
    **dict.fromkeys(['percepts.flow_histogram', 'percepts.pack_flow', 'percepts.stack_flow'],
                    dict(fields=lambda: rand(T, 16, 16, 2).numpy(), n=lambda: 2, cells=lambda: (2, 2))),
    'percepts.unpack_flow': dict(packed=lambda: np.zeros((T, 8, 8, 2), np.uint8)),
    'percepts.FlowFields': dict(size=lambda: (16, 16)), 'percepts.FeatureFile': dict(path=lambda: str(features().path)),
    'percepts.FeatureFile.*': dict(i=lambda: 0, names=lambda: [film()], first=lambda: 1, rows=lambda: 2),
    'percepts.extract_features': dict(videos=lambda: [film()], encoder=encoder, path=lambda: 'new.h5',
                                      progress=lambda: False),
    'percepts.read_authors_features': dict(path=authors_features, num_frames=lambda: 'authors/num_frames.txt',
                                           labels=lambda: 'authors/labels.txt'),
    'percepts.write_authors_features': dict(path=lambda: 'new', films=series, labels=lambda: [0, 1, 0]),
    'percepts.Projection': dict(mean=lambda: np.zeros(4), components=lambda: np.eye(4, 2)),
    'percepts.Projection.fit': dict(films=series, size=lambda: 2),
    'percepts.Projection.from_state': dict(state=lambda: projection().state()),
    'percepts.FeatureClips': dict(films=series, past=lambda: 2, future=lambda: 2),
    'models.FrameCode': dict(frame_shape=lambda: (1, 8, 8)),
    'cli.main': dict(argv=lambda: ['--version']), 'cli.run_evaluate': dict(n_clips=lambda: 2),
    'cli.run_predict': dict(out=lambda: 'new.png'), 'cli.run_video_info': dict(file=film),
    'cli.run_percepts': dict(folder=film, out=lambda: 'new.h5', encoder=lambda: 'flow_histogram'),
    'cli.run_classify': dict(file=film, model=mover),
}
SELF = {
    'Clips': clips, 'FiniteClips': clips, 'MovingDigits': moving, 'FixedClips': lambda: FixedClips(moving(), 3),
    'MovingMNISTFile': lambda: MovingMNISTFile(files().npy), 'ArrayClips': lambda: ArrayClips(rand(4, 3, 2)),
    'DatasetClips': lambda: DatasetClips(list(rand(4, 6, 3))), 'StreamClips': lambda: StreamClips([rand(4, 6, 3)]),
    'Table': lambda: Table(['a'], [[1]]), 'Tabular': Tabular, 'PeepholeLSTM': lambda: PeepholeLSTM(D, H),
    'Decoder': lambda: Decoder(D, H), 'VideoLSTM': model, 'History': History,
    'ClampedSGD': lambda: ClampedSGD(model().parameters(), .1), 'Run': run, 'Preset': lambda: PRESETS['quick'],
    'Presets': lambda: PRESETS, 'ClipScores': clip_scores, 'LinearPredictor': line, 'Card': Card, 'LivePlot': LivePlot,
    'Checkpoint': lambda: Checkpoint('new.safetensors'), 'LSTMClassifier': classifier,
    'StepSoftmax': lambda: classifier().softmax, 'Animation': drawn('pictures', 'animate', rand(2, 1, 8, 8)),
    'LabelledVideos': lambda: drawn('actions', 'LabelledVideos', labelled())(),
    'UCF101': lambda: drawn('actions', 'UCF101', labelled())(),
    'HMDB51': lambda: drawn('actions', 'HMDB51', labelled())(),
    'FrameCode': lambda: FrameCode((1, 8, 8), components=4), 'VideoFolder': folder, 'Patches': patches,
    'Video': lambda: drawn('videos', 'Video', film())(),
    'Encoder': encoder, 'PictureEncoder': encoder, 'FlowHistogram': drawn('percepts', 'FlowHistogram'),
    'FlowFields': drawn('percepts', 'FlowFields'), 'FeatureFile': features, 'Projection': projection,
    'VGG16': lambda: drawn('percepts', 'VGG16', width=1, units=2)(), 'MobileNetV2': drawn('percepts', 'MobileNetV2'),
    'FeatureClips': lambda: drawn('percepts', 'FeatureClips', series(), past=2, future=2)(),
    'Logistic': teacher, 'LSTMLearner': lambda: drawn('actions', 'LSTMLearner', H, steps=1)().fit(
        list(rand(6, 2, 3, 4)), GOOD['labels']()),
    'Pretraining': lambda: drawn('actions', 'Pretraining', H, steps=1)(), 'LabelCurve': curve, 'VideoClassifier': judge,
    'Estimate': lambda: curve().mean(times=9), 'Timeline': lambda: judge().predict(film()),
    'Retrieval': lambda: drawn('actions', 'retrieval', rand(6, 4), GOOD['labels'](), list('abcdef'), ks=(1,))(),
    'FrameStepper': drawn('widgets', 'FrameStepper', rand(4, 1, 8, 8)),
    'ActionTimeline': lambda: drawn('widgets', 'ActionTimeline', COURSE['frames'](), COURSE['probabilities'](),
                                    times=range(T), classes='a b c d'.split())(),
    'Playground': lambda: drawn('widgets', 'Playground', SMALL['model']())(), 'CellLab': drawn('widgets', 'CellLab'),
    'FeatureBrowser': lambda: drawn('widgets', 'FeatureBrowser', model(), rand(B, T, 1, 8, 8), n=4)(),
}
MORE = { # of functions with **options: what these may be
    'training.train': [f.name for f in fields(Recipe)], 'training.get_recipe': [f.name for f in fields(Recipe)],
    'metrics.MeanFrame': ['clamp', 'output'],
    'pictures.save_strip': ['i', 'every', 'width', 'title', 'clamp'],
    'pictures.save_animation': ['i', 'fps', 'scale', 'title', 'clamp']}
MAKERS = ['models.VideoLSTM.autoencoder', 'models.VideoLSTM.future_predictor', 'models.VideoLSTM.composite']
CALLS |= dict.fromkeys(MAKERS, {k: lambda v=v: v for k, v in SIZES.items()})
MORE |= dict.fromkeys(MAKERS, [f.name for f in fields(VideoLSTMConfig)])
