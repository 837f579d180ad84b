"Encoders, flow, feature files that survive whatever happens, projections and clips of features."
import numpy as np
import pytest

from lstm_video_repr.percepts import FeatureClips, Projection


def test_clips_of_a_projection():
    rng = np.random.default_rng(0)
    films = [rng.standard_normal((40, 10)).astype(np.float32) for _ in range(3)]
    p = Projection.fit(films, 4)
    past, future = FeatureClips([p(film) for film in films], past=5, future=2).batch(6)
    assert past.shape == (6, 5, 4) and future.shape == (6, 2, 4)
