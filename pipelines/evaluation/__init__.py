"""Evaluation of codecs and generators: metrics with uncertainty, baselines, results that can be compared, reports.

Needs the extra ``eval``. The modules:
    statistics   bootstrap intervals and tests over items
    distances    Frechet and kernel distances between two sets of embeddings
    embeddings   the embedding models, by name
    listening    ViSQOL, loudness, stereo width, silence and clipping
    musical      tempo, key and instruments as measured in audio
    agreement    do generated pieces have what was asked for, more than by chance?
    novelty      diversity, memorisation, seams
    systems      codecs and baselines under test
    probes       linear probes on frozen features
    results      the JSON, its comparison
    report       the HTML page, with ``figures``
"""

import os

# numba's OpenMP layer, which ViSQOL and librosa would use, changes the number of torch's threads, and with it its sums
os.environ.setdefault("NUMBA_THREADING_LAYER", "workqueue")


import importlib.util

_NEEDED = ("jinja2", "librosa", "mir_eval", "onnxruntime", "pyloudnorm", "scipy", "sklearn", "visqol")
_missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
if _missing:
    raise ModuleNotFoundError(f"evaluation needs {', '.join(_missing)}: pip install 'music2latent-kit[eval]'")
