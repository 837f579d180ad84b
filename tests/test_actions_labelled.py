"""Labelled videos: folders of classes, official lists and what is wrong with them, splits that keep groups together;
and fetching: lines that break, servers that change their minds, archives that want to write elsewhere."""
import errno
import hashlib
import http.server
import io
import os
import pickle
import re
import shutil
import signal
import struct
import subprocess
import sys
import threading
import time
import zipfile
import zlib
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lstm_video_repr import actions
from lstm_video_repr.actions import (HMDB51, PUBLISHED, UCF101, LabelledVideos, PublishedFile, PublishedVideos,
                                     fetch_file, fetch_videos, unpack_archive)
from lstm_video_repr.cli import main


def many(n):
    "Quiet property tests that do not depend on how fast a machine is."
    return settings(max_examples=n, deadline=None, derandomize=True, database=None,
                    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])


def touch(root, *names):
    "Empty files."
    for name in names:
        (root/name).parent.mkdir(parents=True, exist_ok=True)
        (root/name).touch()
    return root


def films(*classes, n=4): return [f'{name}/v_{name}_g{g:02}_c{c:02}.avi' for name in classes for g in range(1, n + 1) for c in (1, 2)]


# ---- a folder for each class

def test_names_labels_and_groups(tmp_path):
    odd = ['b [x]/it\'s (1)!.avi', 'b [x]/deep er/ü+ñ.MKV', 'a/v_Run_g01_c02.webm', 'a/v_Run_g01_c01.webm', 'a/映画.gif']
    touch(tmp_path, *odd, 'a/.hidden.avi', 'a/notes.txt', 'a/film.avi.part', '.git/x.avi', 'README.md')
    found = LabelledVideos(str(tmp_path))
    assert found.names == tuple(sorted(odd)) and found.classes == ('a', 'b [x]') and found.ids == (1, 2)
    assert found.labels.dtype == torch.int64 and found.labels.tolist() == [0, 0, 0, 1, 1]
    assert found.groups == ('Run_g01', 'Run_g01', *found.names[2:])
    assert all(path.is_file() for path in found.paths) and len(found) == 5
    assert repr(found) == f"LabelledVideos(5 videos, 2 classes, 4 groups, in {tmp_path.name!r})"
    assert 'b [x]' in str(found) and '<td' in found._repr_html_()
    again = pickle.loads(pickle.dumps(found))
    assert again.names == found.names and again.describe() == found.describe()


def test_describe_tells_apart(tmp_path):
    touch(tmp_path, 'a/1.avi', 'a/2.avi', 'b/3.avi')
    found = LabelledVideos(tmp_path)
    others = [found[:2], found[[0, 2]], LabelledVideos(tmp_path, groups=['x', 'x', 'y']), found.subset(classes=['a'])]
    assert len({s.describe() for s in (found, *others)}) == 5
    assert found.describe() == LabelledVideos(tmp_path).describe() == found.subset().describe()


LAYOUTS = [
    ([], 'no folders'), (['a/1.avi'], "only the folder 'a'"), (['a/1.avi', 'b/x.txt'], "'b' holds no video"),
    (['1.avi', 'a/1.avi', 'b/1.avi'], "'1.avi' lies in no folder")]


@pytest.mark.parametrize('names, said', LAYOUTS)
def test_folders_that_are_no_set(tmp_path, names, said):
    with pytest.raises(OSError, match=f'root is .*{said}'): LabelledVideos(touch(tmp_path, *names))


LINKS = [('a/loop', '..', 'a link to a folder'), ('a/self', 'self', 'leads nowhere'), ('c', '.', 'loop of links'),
         ('c', '..', 'loop of links'), ('c', 'a', 'the same folder'), ('c', 'gone', 'leads nowhere'),
         ('a/2.avi', 'gone.avi', 'leads nowhere'), ('c', 'c', 'leads nowhere')]


@pytest.mark.parametrize('place, target, said', LINKS)
def test_links(tmp_path, place, target, said):
    touch(tmp_path/'set', 'a/1.avi', 'b/1.avi')
    (tmp_path/'set'/place).symlink_to(target)
    with pytest.raises(OSError, match=said): LabelledVideos(tmp_path/'set')


def test_a_class_on_another_disk(tmp_path):
    touch(tmp_path, 'far/c.avi', 'set/a/1.avi')
    (tmp_path/'set/b').symlink_to(tmp_path/'far')
    (tmp_path/'set/a/2.avi').symlink_to(tmp_path/'far/c.avi')
    assert LabelledVideos(tmp_path/'set').names == ('a/1.avi', 'a/2.avi', 'b/c.avi')


@pytest.mark.skipif(os.geteuid() == 0, reason='an administrator may read everything')
def test_a_folder_that_may_not_be_read(tmp_path):
    touch(tmp_path, 'a/1.avi', 'b/1.avi')
    (tmp_path/'b').chmod(0)
    with pytest.raises(OSError, match="'b' cannot be read"): LabelledVideos(tmp_path)
    (tmp_path/'b').chmod(0o700)


@pytest.mark.parametrize('root', [None, '', 3, b'x', 'a\0b', '\ud800', ['a'], 'nowhere', __file__])
def test_no_folder(root):
    with pytest.raises((ValueError, OSError), match='^root is .*expected'): LabelledVideos(root)


GROUPS = ['x', 3, ['a'], {}, {'a/1.avi': 'x'}, lambda name: None, lambda name: 1, [None] * 3]


@pytest.mark.parametrize('groups', GROUPS)
def test_groups_that_are_none(tmp_path, groups):
    touch(tmp_path, 'a/1.avi', 'a/2.avi', 'b/3.avi')
    with pytest.raises(ValueError, match='^groups '): LabelledVideos(tmp_path, groups=groups)


def test_groups_of_each_kind(tmp_path):
    touch(tmp_path, 'a/1.avi', 'a/2.avi', 'b/3.avi')
    names = LabelledVideos(tmp_path).names
    for groups in (['p', 'q', 'q'], ('p', 'q', 'q'), dict(zip(names, 'pqq')), lambda name: 'pqq'[names.index(name)]):
        assert LabelledVideos(tmp_path, groups=groups).groups == ('p', 'q', 'q')


@pytest.fixture(scope='module')
def small(tmp_path_factory):
    "Four classes of 5, 6, 7 and 8 videos."
    root = tmp_path_factory.mktemp('small')
    return LabelledVideos(touch(root, *(f'{name}/{k}.avi' for n, name in enumerate('abcd', 5) for k in range(n))))


def test_subsets(small):
    part = small.subset(['b/0.avi', 'd/7.avi', 'a/1.avi'])
    assert part.names == ('a/1.avi', 'b/0.avi', 'd/7.avi') and part.labels.tolist() == [0, 1, 3]
    assert part.classes == small.classes and small[[25, 0]].names == ('a/0.avi', 'd/7.avi')
    assert small[torch.tensor([3, 1])].names == ('a/1.avi', 'a/3.avi') and small[-1] == (small.paths[-1], 3)
    two = small.subset(classes=['d', 'b'])
    assert (two.classes, two.ids) == (('b', 'd'), (2, 4)) and Counter(two.labels.tolist()) == {0: 6, 1: 8}
    assert small.subset([0, 6], classes=['b']).names == ('b/1.avi',) and len(small) == 26
    assert [label for _, label in small] == small.labels.tolist()


@pytest.mark.parametrize('options, said', [
    (dict(which=[]), 'which is'), (dict(which=[26]), 'which is'), (dict(which=['a/9.avi']), 'which is .a/9.avi'),
    (dict(which=[0, 0]), 'each video once'), (dict(which=['a/0.avi', 1]), 'which'), (dict(which='a'), 'which'),
    (dict(classes='a'), 'classes is'), (dict(classes=['e']), "classes is 'e'"), (dict(classes=[]), 'classes is'),
    (dict(which=[0], classes=['b']), 'which is')])
def test_subsets_that_cannot_be(small, options, said):
    with pytest.raises(ValueError, match=said): small.subset(**options)


def test_numbers_that_are_not_there(small):
    for i in (26, -27):
        with pytest.raises(IndexError): small[i]
    with pytest.raises(ValueError): small[True]


# ---- a split that keeps groups together

@many(150)
@given(st.data())
def test_splits_share_no_group(small, data):
    "Whatever the groups are: within classes, across them, one alone."
    across = data.draw(st.booleans())
    drawn = data.draw(st.lists(st.integers(0, data.draw(st.integers(0, 9))), min_size=26, max_size=26))
    groups = [f'{g}{"" if across else name[0]}' for g, name in zip(drawn, small.names)]
    share, seed = data.draw(st.floats(.05, .95)), data.draw(st.integers(0, 99))
    videos = LabelledVideos(small.root, groups=groups)
    within = {k: Counter(g for g, label in zip(groups, videos.labels.tolist()) if label == k) for k in range(4)}
    if len(set(groups)) == 1 or not across and max(map(len, within.values())) == 1:
        with pytest.raises(ValueError, match='test is'): videos.split(share, seed=seed)
        return
    try: train, test = videos.split(share, seed=seed)
    except ValueError:
        assert across
        return
    assert sorted([*train.tolist(), *test.tolist()]) == list(range(26)) and train.dtype == test.dtype == torch.int64
    assert train.tolist() == sorted(train.tolist()) and test.tolist() == sorted(test.tolist())
    assert not {groups[i] for i in train} & {groups[i] for i in test}
    assert all(a.equal(b) for a, b in zip(videos.split(share, seed=seed), (train, test))), 'a seed repeats it'
    for k, sizes in within.items() if not across else ():
        tested = (videos.labels[test] == k).sum().item()
        if len(sizes) > 1: assert 0 < tested < sizes.total()
        assert abs(tested - share * sizes.total()) <= max(sizes.values()) or len(sizes) == 1


def test_splits_are_stratified(small):
    train, test = small.split(.25)
    assert Counter(small.labels[test].tolist()) == {0: 1, 1: 1, 2: 2, 3: 2} or len(test) in (6, 7, 8)
    for k, n in enumerate((5, 6, 7, 8)): assert abs((small.labels[test] == k).sum().item() - n / 4) <= .5
    assert not torch.equal(small.split(.25, seed=1)[1], test)


@pytest.mark.parametrize('test', [0, 1, -1, 1.5, float('nan'), 'x', None, True])
def test_shares_that_are_none(small, test):
    with pytest.raises(ValueError, match='^test is'): small.split(test)


# ---- official lists

CLASSES = ('Archery', 'HammerThrow', 'Hammering', 'HandstandPushups')


def write_ucf(folder, *, classes='1 Archery\r\n3 HammerThrow\r\n2 Hammering\r\n4 HandstandPushups\r\n', splits=(1, 2), **texts):
    "Small lists in UCF-101's layout: groups 1 and 2 are tested in split 1, 3 and 4 in split 2. Texts replace files."
    folder.mkdir(parents=True, exist_ok=True)
    ids = dict(reversed(line.split()) for line in classes.split('\n') if len(line.split()) == 2)
    made = {'classInd': classes}
    for k in splits:
        names = [name.replace('v_Handst', 'v_HandSt') for name in films(*CLASSES)]
        tested = [name for name in names if (int(name[-10:-8]) < 3) == (k == 1)]
        made[f'testlist0{k}'] = '\r\n'.join(tested)
        made[f'trainlist0{k}'] = '\r\n'.join(f'{n} {ids.get(n.split("/")[0], 9)}' for n in names if n not in tested)
    for name, text in (made | texts).items():
        if text is not None: (folder/f'{name}.txt').write_bytes(text if isinstance(text, bytes) else text.encode())
    return folder


@pytest.fixture
def ucf(tmp_path):
    "A small UCF-101, videos and lists, as it is published."
    names = [name.replace('v_Handst', 'v_HandSt') for name in films(*CLASSES)]
    write_ucf(tmp_path/'ucfTrainTestlist')
    return touch(tmp_path/'UCF-101', *names)


def test_official_order_and_splits(ucf):
    found = UCF101(ucf)
    assert found.classes == ('Archery', 'Hammering', 'HammerThrow', 'HandstandPushups') and found.ids == (1, 2, 3, 4)
    assert found.names == tuple(sorted(found.names)) and found.missing == found.unlisted == ()
    label = dict(zip(found.names, found.labels.tolist()))
    assert label['HammerThrow/v_HammerThrow_g01_c01.avi'] == 2 and label['Hammering/v_Hammering_g01_c01.avi'] == 1
    for k, groups in ((1, {'g01', 'g02'}), (2, {'g03', 'g04'})):
        train, test = found.split(k)
        assert (len(train), len(test)) == (16, 16) and {found.groups[i][-3:] for i in test} == groups
        assert not {found.groups[i] for i in train} & {found.groups[i] for i in test}
    with pytest.raises(ValueError, match='which is 3.*0 to train on'): found.split(3)
    assert (found.flags[:, 2] == -1).all() and found.notes() == [] and 'train 2' in str(found)


def test_where_lists_are_found(ucf, tmp_path):
    want = UCF101(ucf).describe()
    lists = tmp_path/'ucfTrainTestlist'
    assert UCF101(tmp_path).describe() == UCF101(str(ucf), str(lists)).describe() == want, 'the folder above, too'
    for place in (ucf, ucf/'ucfTrainTestlist', tmp_path, tmp_path/'splits'/'ucf101', tmp_path.parent/'splits'/'ucf101'):
        moved = shutil.move(lists, tmp_path/'lists')
        place.mkdir(parents=True, exist_ok=True)
        for file in Path(moved).iterdir(): shutil.copy(file, place)
        assert UCF101(ucf).describe() == want, place
        for file in Path(moved).iterdir(): (place/file.name).unlink()
        lists = Path(shutil.move(moved, lists))
    shutil.rmtree(lists)
    with pytest.raises(FileNotFoundError, match='^lists is None.*classInd.txt'): UCF101(ucf)
    with pytest.raises(FileNotFoundError, match='^lists is .*classInd.txt'): UCF101(ucf, tmp_path)


def test_what_is_missing_is_named(ucf):
    shutil.rmtree(ucf/'Hammering')
    (ucf/'Archery/v_Archery_g01_c01.avi').unlink()
    touch(ucf, 'Archery/mine.avi')
    found = UCF101(ucf)
    assert found.classes == ('Archery', 'HammerThrow', 'HandstandPushups') and found.ids == (1, 3, 4)
    assert len(found.missing) == 9 and found.missing[0] == 'Archery/v_Archery_g01_c01.avi'
    assert found.unlisted == ('Archery/mine.avi',) and found.labels.max() == 2
    assert '9 videos of 2 classes are missing' in str(found) and '1 file' in str(found)
    with pytest.raises(OSError, match="9 videos of 2 classes are missing, such as 'Archery/v_Archery_g01_c01.avi'"):
        UCF101(ucf, complete=True)
    assert len(found[found.split(1)[0]].subset(classes=['Archery'])) == 4


def test_spellings(ucf):
    "Other case, other ending, a folder deeper: the same video. Two of them: an error."
    (ucf/'HandstandPushups').rename(ucf/'HandStandPushups')
    (ucf/'Archery/v_Archery_g01_c01.avi').rename(ucf/'Archery/v_archery_g01_c01.MP4')
    touch(ucf, 'Hammering/more/x.txt')
    (ucf/'Hammering/v_Hammering_g02_c01.avi').rename(ucf/'Hammering/more/v_Hammering_g02_c01.avi')
    found = UCF101(ucf, complete=True)
    assert found.classes[3] == 'HandstandPushups' and 'Archery/v_archery_g01_c01.MP4' in found.names
    touch(ucf, 'Archery/v_Archery_g01_c01.webm')
    with pytest.raises(OSError, match='are both'): UCF101(ucf)


def test_an_unknown_class(ucf):
    touch(ucf, 'Flying/v_Flying_g01_c01.avi')
    with pytest.raises(OSError, match="'Flying/v_Flying_g01_c01.avi' is of a class that is in no list"): UCF101(ucf)
    (ucf/'Flying/v_Flying_g01_c01.avi').unlink()
    assert len(UCF101(ucf)) == 32, 'a folder without videos is no class'
    for name in CLASSES: shutil.rmtree(ucf/name)
    with pytest.raises(OSError, match='of 32 videos in the lists none is there'): UCF101(ucf)


ONE = 'Archery/v_Archery_g01_c01.avi'
WRONG_LISTS = [
    (dict(classInd='1 Archery\n1 Hammering\n'), r"classInd.txt', line 2"), (dict(classInd='1 Archery\n'), '1 classes'),
    (dict(classInd='1 Archery\n2 Archery\n'), 'line 2'), (dict(classInd='Archery 1\n'), 'line 1'),
    (dict(classInd='1 Arch ery\n'), 'line 1'), (dict(classInd='1 ../x\n2 y'), 'line 1'), (dict(classInd='9' * 5000 + ' x'), 'line 1'),
    (dict(classInd=b'\xff\xfe\x00'), 'cannot be read'), (dict(classInd=''), '0 classes'),
    (dict(testlist01=None), 'testlist01.txt. is missing'), (dict(trainlist02=None), 'trainlist02.txt. is missing'),
    (dict(testlist01=f'{ONE}\n\n{ONE}\n'), "testlist01.txt', line 3.*each video once in split 1"),
    (dict(testlist01='Flying/v_Flying_g01_c01.avi'), "line 1.*'Flying' is none"),
    (dict(testlist01=f'{ONE} 2'), 'line 1.*expected 1, the number of Archery'),
    (dict(trainlist01=f'{ONE} 2'), 'line 1.*expected 1'), (dict(trainlist01=ONE), 'line 1.*expected 1'),
    (dict(trainlist01='Archery/v_Archery_g03_c01.avi 1\nArchery/v_Archery_g01_c01.avi 1'), 'testlist01.txt.*listed before'),
    (dict(trainlist01='Archery/v_Archery_g01_c03.avi 1'), "group 'Archery_g01' on both sides"),
    (dict(testlist01='/etc/passwd'), 'line 1'), (dict(testlist01='Archery/../x.avi'), 'line 1'),
    (dict(testlist01='x.avi'), 'line 1'), (dict(testlist01='Archery\\x.avi'), 'line 1'), (dict(testlist01='Archery/'), 'line 1'),
    (dict(testlist01=b'\x80abc'), 'testlist01.txt. cannot be read'), (dict(testlist01=''), 'nothing to test with'),
    (dict(trainlist01=''), 'nothing to train with'),
    (dict(testlist01='Hammering/v_Archery_g01_c01.avi'), 'one video in two classes')]


@pytest.mark.parametrize('texts, said', WRONG_LISTS)
def test_lists_that_cannot_be(ucf, tmp_path, texts, said):
    for name in texts: (tmp_path/f'ucfTrainTestlist/{name}.txt').unlink()
    write_ucf(tmp_path/'ucfTrainTestlist', **texts)
    with pytest.raises(OSError, match=said): UCF101(ucf)


NAMES = st.text(st.sampled_from("abAB [](){}!+-_.'&,#äß映"), min_size=1, max_size=8).map(lambda s: f'x{s}x')


@many(40)
@given(st.data())
def test_any_lists(tmp_path_factory, data):
    "Names, numbers and sides as they come: what is read is what was written; one line twice, or elsewhere, is found."
    root = tmp_path_factory.mktemp('any')
    classes = data.draw(st.lists(NAMES.map(lambda s: s.replace(' ', '')), min_size=2, max_size=4, unique_by=str.casefold))
    ids = dict(zip(classes, data.draw(st.permutations(range(1, len(classes) + 1)))))
    stems = data.draw(st.lists(NAMES, min_size=4, max_size=9, unique_by=str.casefold))
    rows = [(classes[k % len(classes)], f'{stem}.avi') for k, stem in enumerate(stems)]
    side = {row: data.draw(st.sampled_from([1, 2])) if k > 1 else k + 1 for k, row in enumerate(rows)}
    lists = {1: [f'{a}/{b} {ids[a]}' for a, b in rows if side[a, b] == 1], 2: [f'{a}/{b}' for a, b in rows if side[a, b] == 2]}
    def write():
        for kind, lines in (('train', lists[1]), ('test', lists[2])): (root/f'{kind}list01.txt').write_text('\n'.join(lines))
    (root/'classInd.txt').write_text('\n'.join(f'{n} {name}' for name, n in ids.items()))
    write()
    there = data.draw(st.lists(st.sampled_from(rows), min_size=1, unique=True))
    found = UCF101(touch(root/'videos', *(f'{a}/{b}' for a, b in there)), root)
    assert set(found.names) == {f'{a}/{b}' for a, b in there} and len(found.missing) == len(rows) - len(there)
    assert list(found.ids) == sorted(found.ids) and {ids[c] for c in found.classes} == set(found.ids)
    for name, label, flag in zip(found.names, found.labels.tolist(), found.flags[:, 0].tolist()):
        a, _, b = name.partition('/')
        assert found.classes[label] == a and flag == side[a, b]
    a, b = data.draw(st.sampled_from(rows))
    lists[data.draw(st.sampled_from([1, 2]))].append(f'{a}/{b} {ids[a]}')
    write()
    with pytest.raises(OSError, match='each video once'): UCF101(root/'videos', root)


TAGS = 'u_nm_np1_ba_goo'
REELS = [('climb', f'Up!_[part+1]_climb_{TAGS}_0', (1, 2, 0)), ('climb', f'Up!_[part+1]_climb_{TAGS}_1', (1, 2, 0)),
         ('climb', 'Stairs_&_co_climb_f_cm_np10_le_med_12', (2, 1, 1)), ('climb_stairs', f'Up!_[part+1]_climb_stairs_{TAGS}_0', (2, 1, 1)),
         ('climb_stairs', f'Ä_film_climb_stairs_{TAGS}_7', (1, 2, 2)), ('climb_stairs', 'without tags', (0, 0, 0))]


def write_hmdb(folder, reels=REELS):
    folder.mkdir(parents=True, exist_ok=True)
    for k in range(3):
        for name in {row[0] for row in reels}:
            lines = [f'{file}.avi {flags[k]} ' for row, file, flags in reels if row == name]
            (folder/f'{name}_test_split{k + 1}.txt').write_text('\n'.join(lines) + '\n')
    return folder


@pytest.fixture
def hmdb(tmp_path):
    write_hmdb(tmp_path/'testTrainMulti_7030_splits')
    return touch(tmp_path/'hmdb51_org', *(f'{name}/{file}.avi' for name, file, _ in REELS))


def test_flags_films_and_groups(hmdb):
    found = HMDB51(hmdb, complete=True)
    assert found.classes == ('climb', 'climb_stairs') and found.ids == (1, 2)
    group = dict(zip(found.names, found.groups))
    assert [group[f'{name}/{file}.avi'] for name, file, _ in REELS] == [
        'climb/Up!_[part+1]', 'climb/Up!_[part+1]', 'climb/Stairs_&_co', 'climb_stairs/Up!_[part+1]',
        'climb_stairs/Ä_film', 'climb_stairs/without tags']
    flags = dict(zip(found.names, map(tuple, found.flags.tolist())))
    assert all(flags[f'{name}/{file}.avi'] == want for name, file, want in REELS)
    assert [tuple(map(len, found.split(k))) for k in (1, 2, 3)] == [(3, 2), (2, 3), (2, 1)]
    shared = found.shared_films(1)
    assert [found.names[i] for i in shared] == [f'climb_stairs/Up!_[part+1]_climb_stairs_{TAGS}_0.avi']
    assert HMDB51(hmdb.parent).describe() == found.describe() and found.shared_films(3).tolist() == []


@pytest.mark.parametrize('file, text, said', [
    ('climb_test_split1.txt', 'a.avi 3', 'line 1.*1 train, 2 test or 0 neither'), ('climb_test_split1.txt', 'a.avi', 'line 1'),
    ('climb_test_split1.txt', '../a.avi 1', 'line 1'), ('climb_test_split1.txt', 'a.avi 1\na.avi 2', 'line 2.*each video once'),
    ('climb_test_split1.txt', '', 'nothing to train|shared'), ('climb_test_split2.txt', None, 'climb_test_split2.txt is missing'),
    ('climb_test_split1.txt', 'without tags.avi 1', 'two classes'),
    ('climb_test_split1.txt', f'Up_climb_{TAGS}_1.avi 1\nUp_climb_{TAGS}_2.avi 2', "'climb/Up' on both sides")])
def test_class_lists_that_cannot_be(hmdb, file, text, said):
    lists = hmdb.parent/'testTrainMulti_7030_splits'
    if text is None: (lists/file).unlink()
    else: (lists/file).write_text(text)
    if text == '': (lists/'climb_stairs_test_split1.txt').write_text('b.avi 2')
    with pytest.raises(OSError, match=said): HMDB51(hmdb)


@pytest.mark.parametrize('reader', [UCF101, HMDB51])
def test_places_that_are_none(reader, tmp_path):
    for options in (dict(root=None), dict(root='nowhere'), dict(root=tmp_path, lists=3), dict(root=tmp_path, lists='nowhere'),
                    dict(root=tmp_path, complete=1), dict(root=tmp_path)):
        with pytest.raises((ValueError, OSError), match='root is|lists is|complete is'): reader(**options)


def test_real_clips(data_folder):
    found = UCF101(data_folder/'videos'/'ucf101')
    assert len(found) == 150 and len(found.missing) == 13_170 and len(found.classes) == 6
    assert [tuple(map(len, found.split(k))) for k in (1, 2, 3)] == [(108, 42)] * 3
    assert {g[-3:] for g in found[found.split(1)[1]].groups} == {f'g0{k}' for k in range(1, 8)}
    assert UCF101(data_folder/'videos'/'ucf101_singles', data_folder/'splits'/'ucf101').classes == (
        'ApplyEyeMakeup', 'BaseballPitch', 'Basketball', 'Biking', 'Punch')


# ---- fetching

class Server:
    "A web server on this machine: `files` by address; `limits` are bytes after which it hangs up, one for each answer."
    def __init__(self):
        self.files, self.limits, self.asked, self.ranges, self.tag, self.hold = {}, [], [], True, 1, None
        outer = self
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self): outer.answer(self)
            def log_message(self, *_): pass
        self.http = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Handler)
        threading.Thread(target=self.http.serve_forever, args=(.01,), daemon=True).start()

    def url(self, name): return f'http://127.0.0.1:{self.http.server_port}/{name}'

    def file(self, name, raw=None, **options):
        if raw is not None: self.files[f'/{name}'] = raw
        return PublishedFile((self.url(name),), **options)

    def answer(self, to):
        raw, headers = self.files.get(to.path), to.headers
        asked = re.fullmatch(r'bytes=(\d+)-', headers.get('Range', '')) if self.ranges else None
        if headers.get('If-Range', f'"{self.tag}"') != f'"{self.tag}"': asked = None
        start = int(asked[1]) if asked else 0
        self.asked.append((to.path[1:], start))
        if raw is None or asked and start >= len(raw): return to.send_error(404 if raw is None else 416)
        to.send_response(206 if asked else 200)
        to.send_header('Content-Length', str(len(raw) - start))
        to.send_header('ETag', f'"{self.tag}"')
        if asked: to.send_header('Content-Range', f'bytes {start}-{len(raw) - 1}/{len(raw)}')
        to.end_headers()
        most = self.limits.pop(0) if self.limits else len(raw)
        to.wfile.write(raw[start:start + most])
        if self.hold and most < len(raw) - start:
            to.wfile.flush()
            self.hold.wait(60)


@pytest.fixture
def server():
    made = Server()
    yield made
    made.http.shutdown()
    made.http.server_close()


RAW = bytes(range(256)) * 1000
QUIET = dict(pause=0, progress=False)
SHA = 'sha256:' + hashlib.sha256(RAW).hexdigest()


def test_what_has_come_is_not_asked_for_again(server, tmp_path):
    file = server.file('a.bin', RAW, size=len(RAW), digest=SHA)
    server.limits = [100_000, 100_000]
    assert fetch_file(file, tmp_path/'new', **QUIET).read_bytes() == RAW
    assert [start for _, start in server.asked] == [0, 100_000, 200_000]
    assert [p.name for p in (tmp_path/'new').iterdir()] == ['a.bin']
    assert fetch_file(file, tmp_path/'new', **QUIET) == tmp_path/'new/a.bin' and len(server.asked) == 3


def test_a_server_without_ranges(server, tmp_path):
    server.ranges, server.limits = False, [1000]
    assert fetch_file(server.file('a.bin', RAW, digest=SHA), tmp_path, **QUIET).read_bytes() == RAW
    server.limits = [5000] * 99
    with pytest.raises(OSError, match='the line broke after 5000 of 256000 bytes'):
        fetch_file(server.file('b.bin', RAW), tmp_path, tries=3, **QUIET)
    assert [start for name, start in server.asked if name == 'b.bin'] == [0, 0, 0, 0], 'the first one brought something'


def test_a_file_that_changes_on_the_server(server, tmp_path):
    "Two halves of different files are never put together."
    server.limits = [1000, 0, 0]
    with pytest.raises(OSError, match='goes on from there'): fetch_file(server.file('a.bin', b'x' * 5000), tmp_path, tries=1, **QUIET)
    server.tag, server.limits = 2, []
    assert fetch_file(server.file('a.bin', b'y' * 5000), tmp_path, **QUIET).read_bytes() == b'y' * 5000


def test_a_file_that_is_shorter_now(server, tmp_path):
    (tmp_path/'a.bin.part').write_bytes(b'x' * 9000)
    assert fetch_file(server.file('a.bin', b'y' * 5000), tmp_path, **QUIET).read_bytes() == b'y' * 5000


def test_a_part_that_is_whole(server, tmp_path):
    (tmp_path/'a.bin.part').write_bytes(RAW)
    assert fetch_file(server.file('a.bin', size=len(RAW), digest=SHA), tmp_path, **QUIET).read_bytes() == RAW
    assert server.asked == []


def test_what_is_not_what_was_published(server, tmp_path):
    with pytest.raises(OSError, match="a.bin' has the sha256 .*, expected .*; what came is kept as 'a.bin.damaged'"):
        fetch_file(server.file('a.bin', RAW[:-1], digest=SHA), tmp_path, **QUIET)
    assert sorted(p.name for p in tmp_path.iterdir()) == ['a.bin.damaged']
    with pytest.raises(OSError, match='the server has 255999 bytes, expected 256000'):
        fetch_file(server.file('b.bin', RAW[:-1], size=len(RAW)), tmp_path, tries=1, **QUIET)
    (tmp_path/'c.bin').write_bytes(b'by hand')
    with pytest.raises(OSError, match='c.bin. has 7 bytes, expected 256000.*remove this one'):
        fetch_file(server.file('c.bin', RAW, size=len(RAW)), tmp_path, **QUIET)
    assert (tmp_path/'c.bin').read_bytes() == b'by hand'


def test_the_next_address(server, tmp_path):
    file = PublishedFile((server.url('gone.bin'), 'http://127.0.0.1:9/a.bin', server.url('a.bin')), digest=SHA)
    server.file('a.bin', RAW)
    assert fetch_file(file, tmp_path, tries=1, **QUIET).name == 'gone.bin'
    assert [name for name, _ in server.asked] == ['gone.bin', 'a.bin'], 'what is not there is not asked for twice'
    with pytest.raises(OSError, match='(?s)no.bin could not be fetched.*404'): fetch_file(server.file('no.bin'), tmp_path, **QUIET)


def test_a_full_disk_is_not_tried_again(server, tmp_path, monkeypatch):
    file, real, tried = server.file('a.bin', RAW), open, []
    def full(path, mode='r', *args, **options):
        if str(path).endswith('.part') and mode == 'wb':
            tried.append(path)
            raise OSError(errno.ENOSPC, 'No space left on device')
        return real(path, mode, *args, **options)
    monkeypatch.setattr('builtins.open', full)
    with pytest.raises(OSError, match='No space left'): fetch_file(file, tmp_path, **QUIET)
    assert len(tried) == 1


def test_killed_while_fetching(server, tmp_path):
    "SIGKILL half way: the next process asks for the rest alone."
    server.hold, server.limits = threading.Event(), [150_000]
    file = server.file('a.bin', RAW, digest=SHA)
    code = ('from lstm_video_repr.actions import PublishedFile, fetch_file\n'
            f'fetch_file(PublishedFile({file.urls!r}), {str(tmp_path)!r}, progress=False)')
    child = subprocess.Popen([sys.executable, '-c', code], cwd=Path(actions.__file__).parent.parent)
    part = tmp_path/'a.bin.part'
    end = time.monotonic() + 60
    while not (part.exists() and part.stat().st_size > 2**16) and time.monotonic() < end: time.sleep(.01)
    child.send_signal(signal.SIGKILL)
    child.wait()
    server.hold.set()
    came = part.stat().st_size
    assert fetch_file(file, tmp_path, **QUIET).read_bytes() == RAW and server.asked[-1] == ('a.bin', came)


def test_one_at_a_time(server, tmp_path):
    from lstm_video_repr.core.files import lock_file
    with lock_file(tmp_path/'a.bin'), pytest.raises(BlockingIOError): fetch_file(server.file('a.bin', RAW), tmp_path, **QUIET)


@pytest.mark.parametrize('options, said', [
    (dict(urls=()), 'urls'), (dict(urls='http://x.org/a'), 'urls'), (dict(urls=('ftp://x.org/a',)), 'urls'),
    (dict(urls=('file:///etc/passwd',)), 'urls'), (dict(urls=('http://x.org/',)), 'urls'), (dict(size=-1), 'size'),
    (dict(size=1.5), 'size'), (dict(digest='abc'), 'digest'), (dict(digest='md5:xyz'), 'digest'), (dict(digest=None), 'digest')])
def test_published_files_that_are_none(options, said):
    with pytest.raises(ValueError, match=f'^{said} is'): PublishedFile(**dict(urls=('http://x.org/a.zip',)) | options)


# ---- archives

def make_zip(files):
    with zipfile.ZipFile(raw := io.BytesIO(), 'w', zipfile.ZIP_DEFLATED) as archive:
        for name, text in files.items(): archive.writestr(name, text)
    return raw.getvalue()


def make_rar(files, links=()):
    "A rar of the old kind, in which files are stored as they are."
    def block(kind, flags, body, data=b''):
        head = struct.pack('<BHH', kind, flags, 7 + len(body)) + body
        return struct.pack('<H', zlib.crc32(head) & 0xffff) + head + data
    raw = b'Rar!\x1a\x07\0' + block(0x73, 0, bytes(6))
    for name, text in files.items():
        text, name = text if isinstance(text, bytes) else text.encode(), name.encode()
        mode = 0o120777 if name.decode() in links else 0o100644
        body = struct.pack('<IIBIIBBHI', len(text), len(text), 3, zlib.crc32(text), 0x5a21_0000, 20, 0x30, len(name), mode)
        raw += block(0x74, 0x8000, body + name, text)
    return raw + block(0x7b, 0x4000, b'')


KINDS = {'zip': make_zip, 'rar': make_rar}


@pytest.fixture(params=KINDS)
def pack(request, tmp_path):
    "Writes an archive, zip or rar: its path."
    if request.param == 'rar': pytest.importorskip('rarfile', reason='needs rarfile')
    def write(files, **options):
        (tmp_path/f'a.{request.param}').write_bytes(KINDS[request.param](files, **options))
        return tmp_path/f'a.{request.param}'
    return write


def below(folder): return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob('*') if p.is_file()}


def test_unpacking(pack, tmp_path):
    files = {'x/a [1]!.avi': b'one', 'x/y/ b+.avi': b'two' * 9999, 'empty.avi': b''}
    path, out = pack(files), tmp_path/'out'
    assert unpack_archive(path, out, progress=False) == 3 and below(out) == files
    stamp = (out/'x/a [1]!.avi').stat().st_mtime_ns
    (out/'x/y/ b+.avi').write_bytes(b'cut')
    (out/'empty.avi').unlink()
    assert unpack_archive(path, out, progress=False) == 3 and below(out) == files
    assert (out/'x/a [1]!.avi').stat().st_mtime_ns == stamp, 'what is there is not written again'
    assert unpack_archive(path, tmp_path/'some', rename=lambda n: n[2:] if n[:2] == 'x/' else None, progress=False) == 2
    assert set(below(tmp_path/'some')) == {'a [1]!.avi', 'y/ b+.avi'}


@pytest.mark.parametrize('name', ['../b', 'x/../../b', '/abs', '..', 'x/..', './x', 'x//y', 'C:/x', '..\\b', 'x\\..\\b'])
def test_names_that_lead_out(pack, tmp_path, name):
    "Nothing at all is unpacked of such an archive; in a rar some are made harmless by their reader."
    path, out = pack({'good.avi': 'fine', name: 'bad'}), tmp_path/'in'/'out'
    try: unpack_archive(path, out, progress=False)
    except OSError as e: assert 'nothing was unpacked' in str(e) and str(path) in str(e)
    else: assert path.suffix == '.rar' and '..' not in name
    if path.suffix == '.zip': assert below(tmp_path/'in') == {}
    assert {p.name for p in tmp_path.iterdir()} == {'in', path.name} and {p.name for p in (tmp_path/'in').iterdir()} == {'out'}


def test_links_in_archives(tmp_path):
    info = zipfile.ZipInfo('link')
    info.external_attr, info.create_system = 0o120777 << 16, 3
    with zipfile.ZipFile(tmp_path/'a.zip', 'w') as archive: archive.writestr(info, '/etc')
    archives = [tmp_path/'a.zip']
    try: import rarfile
    except ImportError: pass
    else: archives += [tmp_path/'a.rar']; (tmp_path/'a.rar').write_bytes(make_rar({'link': '/etc'}, links=['link']))
    for path in archives:
        with pytest.raises(OSError, match="'link', a link; nothing was unpacked"): unpack_archive(path, tmp_path/'out', progress=False)
        assert list((tmp_path/'out').iterdir()) == []


def test_links_in_the_folder(pack, tmp_path):
    (tmp_path/'out').mkdir()
    (tmp_path/'out/x').symlink_to('..')
    with pytest.raises(OSError, match="'x' in it is a link that leads out"): unpack_archive(pack({'x/a': 'b'}), tmp_path/'out', progress=False)
    assert not (tmp_path/'a').exists()


def test_two_for_one_place(pack, tmp_path):
    with pytest.raises(OSError, match="'x' twice"): unpack_archive(pack({'a': '1', 'b': '2'}), tmp_path/'out', rename=lambda n: 'x', progress=False)
    with pytest.raises(ValueError, match="rename is '../x'"): unpack_archive(pack({'a': '1'}), tmp_path/'out', rename=lambda n: '../x', progress=False)


def test_damaged_archives(pack, tmp_path):
    "Whatever byte is wrong or missing: an `OSError` that names the archive, or the file as it was; never half a file."
    files = {'a.avi': b'first', 'b.avi': bytes(range(256)) * 4}
    path = pack(files)
    raw = path.read_bytes()
    for k in range(0, len(raw), 7):
        for hurt in (raw[:k], raw[:k] + bytes([raw[k] ^ 0x55]) + raw[k + 1:]):
            path.write_bytes(hurt)
            shutil.rmtree(tmp_path/'out', ignore_errors=True)
            try: unpack_archive(path, tmp_path/'out', progress=False)
            except OSError as e: assert str(path) in str(e)
            for content in below(tmp_path/'out').values() if (tmp_path/'out').exists() else (): assert content in (*files.values(), b'')


def test_archives_that_are_none(tmp_path):
    for raw in (b'', b'PK', b'hello', b'Rar!'):
        (tmp_path/'a.zip').write_bytes(raw)
        with pytest.raises(OSError, match='a.zip'): unpack_archive(tmp_path/'a.zip', tmp_path/'out', progress=False)
    with pytest.raises(FileNotFoundError, match='^path is'): unpack_archive(tmp_path/'no.zip', tmp_path)
    with pytest.raises(ValueError, match='^rename is'): unpack_archive(tmp_path/'a.zip', tmp_path, rename=3)


def test_a_rar_without_its_library(tmp_path, monkeypatch):
    (tmp_path/'a.rar').write_bytes(make_rar({'a': 'b'}))
    monkeypatch.setitem(sys.modules, 'rarfile', None)
    with pytest.raises(ImportError, match=r"need rarfile: pip install 'lstm-video-repr\[percepts\]'"): unpack_archive(tmp_path/'a.rar', tmp_path)


def test_a_rar_without_a_program(pack, tmp_path, monkeypatch):
    "A compressed one needs unrar or its like, and the error says so."
    if (path := pack({'a.avi': 'x' * 50})).suffix == '.zip': pytest.skip('of rar alone')
    import rarfile
    def open_it(*_): raise rarfile.RarCannotExec('Cannot find working tool')
    monkeypatch.setattr(rarfile.RarFile, 'open', open_it)
    with pytest.raises(OSError, match="'a.avi', needs one of the programs unrar"): unpack_archive(path, tmp_path/'out', progress=False)


def test_no_room(pack, tmp_path, monkeypatch):
    path = pack({'a': 'b' * 100})
    monkeypatch.setattr(shutil, 'disk_usage', lambda _: SimpleNamespace(free=99))
    with pytest.raises(OSError, match='100 bytes are needed, and 99 are free'): unpack_archive(path, tmp_path/'out', progress=False)


# ---- whole sets

def small_ucf(server, kind='zip', n=32, **options):
    "A set like UCF-101 on the server: all videos in one folder, as one of its archives has them."
    folder = write_ucf(Path(options.pop('at')))
    names = [name.replace('v_Handst', 'v_HandSt') for name in films(*CLASSES)]
    server.file(f'films.{kind}', KINDS[kind]({f'UCF101/{name.split("/")[1]}': name for name in names} | {'UCF101/READ ME': 'no'}))
    server.file('lists.zip', make_zip({f'lists/{p.name}': p.read_bytes() for p in folder.iterdir()}))
    return PublishedVideos(**dict(title='Small', licence='free as air', page='no page', reader=UCF101, count=n, gigabytes=1e-5,
                                  videos=(server.file(f'films.{kind}'),), lists=(server.file('lists.zip'),)) | options)


def test_a_set_is_fetched_once(server, tmp_path):
    said, what = [], small_ucf(server, at=tmp_path/'l')
    found = fetch_videos(what, tmp_path/'set', say=lambda text: said.append((text, len(server.asked))), **QUIET)
    assert isinstance(found, UCF101) and len(found) == 32 and found.missing == () and found.root == tmp_path/'set/UCF-101'
    assert found.paths[0].read_text() == found.names[0]
    (text, asked), = said
    assert asked == 0 and 'free as air' in text and 'GB on the disk' in text, 'said before anything is asked for'
    assert sorted(p.name for p in (tmp_path/'set').iterdir()) == ['UCF-101', 'ucfTrainTestlist']
    n = len(server.asked)
    assert fetch_videos(what, tmp_path/'set', say=said.append).describe() == found.describe() and len(server.asked) == n
    assert len(said) == 1


def test_a_set_goes_on(server, tmp_path):
    "After a broken line, and after a stop while unpacking."
    what, said = small_ucf(server, at=tmp_path/'l'), []
    server.limits = [10**6, 500, 0, 0]
    with pytest.raises(OSError, match='goes on from there'): fetch_videos(what, tmp_path/'set', say=said.append, tries=1, **QUIET)
    server.limits, count = [], []
    def stop(path, *args, _real=os.replace):
        if str(args[0]).endswith('.avi') and len(count) == 7: raise KeyboardInterrupt
        count.append(1) if str(args[0]).endswith('.avi') else None
        return _real(path, *args)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(os, 'replace', stop)
        fetch_videos(what, tmp_path/'set', say=said.append, **QUIET)
    assert len(list((tmp_path/'set').rglob('*.avi'))) == 7 and server.asked[-1] == ('films.zip', 500)
    n = len(server.asked)
    assert len(fetch_videos(what, tmp_path/'set', say=said.append, keep=True, **QUIET)) == 32 and len(server.asked) == n
    assert {'films.zip', 'lists.zip'} < {p.name for p in (tmp_path/'set').iterdir()}


def test_another_archive(server, tmp_path):
    "Where one cannot be had the next one is taken; one that was begun is not given up; one from elsewhere is used."
    good = small_ucf(server, at=tmp_path/'l')
    gone = PublishedFile((server.url('gone.zip'),))
    what = small_ucf(server, at=tmp_path/'l', videos=(gone, *good.videos))
    assert len(fetch_videos(what, tmp_path/'a', say=str, **QUIET)) == 32
    lost = small_ucf(server, at=tmp_path/'l', videos=(gone,))
    with pytest.raises(OSError, match='(?s)404.*If you have gone.zip from elsewhere: put it into'): fetch_videos(lost, tmp_path/'b', say=str, **QUIET)
    (tmp_path/'b/gone.zip').write_bytes(server.files['/films.zip'])
    assert len(fetch_videos(lost, tmp_path/'b', say=str, **QUIET)) == 32


def test_a_set_that_is_not_whole(server, tmp_path):
    with pytest.raises(OSError, match='32 videos; expected 33'): fetch_videos(small_ucf(server, at=tmp_path/'l', n=33), tmp_path/'a', say=str, **QUIET)
    assert (tmp_path/'a/films.zip').exists(), 'what was fetched is kept'
    server.file('films.zip', make_zip({'UCF101/v_Archery_g01_c01.avi': 'x'}))
    what = small_ucf(server, at=tmp_path/'l')
    server.files['/films.zip'] = make_zip({'UCF101/v_Archery_g01_c01.avi': 'x'})
    with pytest.raises(OSError, match='31 videos of 4 classes are missing'): fetch_videos(what, tmp_path/'b', say=str, **QUIET)


def test_a_rar_of_rars(server, tmp_path):
    pytest.importorskip('rarfile', reason='needs rarfile')
    inner = {f'{name}.rar': make_rar({f'{name}/{file}.avi': file for row, file, _ in REELS if row == name}) for name in ('climb', 'climb_stairs')}
    lists = write_hmdb(tmp_path/'l')
    what = PublishedVideos('Small', 'free', 'none', (server.file('org.rar', make_rar(inner)),), (server.file(
        'lists.rar', make_rar({f'testTrainMulti_7030_splits/{p.name}': p.read_bytes() for p in lists.iterdir()})),), HMDB51, 6, 1e-5)
    found = fetch_videos(what, tmp_path/'set', say=str, **QUIET)
    assert isinstance(found, HMDB51) and len(found) == 6 and found.root == tmp_path/'set/hmdb51_org'
    assert sorted(p.name for p in (tmp_path/'set').iterdir()) == ['hmdb51_org', 'testTrainMulti_7030_splits']


def test_room_is_asked_for_first(server, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, 'disk_usage', lambda _: SimpleNamespace(free=10**10))
    with pytest.raises(OSError, match=r'14.0 GB are needed, and 10.0 GB are free'): fetch_videos('ucf101', tmp_path/'a', say=str, **QUIET)
    assert list((tmp_path/'a').iterdir()) == [] and server.asked == []


@pytest.mark.parametrize('options, said', [
    (dict(what='ucf50'), "what is 'ucf50'; expected one of 'ucf101', 'hmdb51'"), (dict(keep=1), 'keep is'), (dict(progress=None), 'progress is'),
    (dict(say=None), 'say is'), (dict(folder=3), 'path is 3')])
def test_sets_that_cannot_be_fetched(tmp_path, options, said):
    with pytest.raises(ValueError, match=said): fetch_videos(**dict(what='ucf101', folder=tmp_path) | options)


def test_what_is_published():
    for name, what in PUBLISHED.items():
        assert what.licence and what.page.startswith('https://') and what.count in (13_320, 6_766), name
        assert all(file.digest and file.urls[0].startswith('https://') for file in what.videos + what.lists)
    assert 'no open licence' in PUBLISHED['ucf101'].licence and 'CC BY 4.0' in PUBLISHED['hmdb51'].licence


def test_from_the_command_line(server, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(PUBLISHED, 'ucf101', small_ucf(server, at=tmp_path/'l'))
    assert main(['download', 'ucf101', '--folder', str(tmp_path/'set')]) == 0
    said = capsys.readouterr().out
    assert said.startswith('Small: free as air.') and '32 videos, 4 classes, 16 groups' in said
    assert said.rstrip().endswith(str(tmp_path/'set'/'UCF-101'))
    assert main(['download', 'mnist', '--folder', 'x']) == 2 and '--folder is' in capsys.readouterr().err
    monkeypatch.setattr('pooch.os_cache', lambda name: tmp_path/'cache')
    assert main(['download', 'ucf101']) == 0 and (tmp_path/'cache/ucf101/UCF-101/Archery').is_dir()
