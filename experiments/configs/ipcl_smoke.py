"""A small test run in minutes on a laptop: IPCL on windows of the built-in photographs.

    python experiments/train.py --config ipcl_smoke

Data: 14 photographs that ship inside scikit-image and scikit-learn, cut into 896 windows of their
left part (training) and 336 of their right part (validation); a window's class is its photograph.
Published: none. See the README for what to expect.
Cost: 124,320 views of 64 pixels in 1,036 batches; five minutes on two cores (measured, CPU).

Differences from the paper's recipe: 64-pixel views and narrow fc6 and fc7, for speed; a short queue and
clipped gradients, since with long queues the loss rose and the kNN score fell for hundreds of batches;
an optimizer step after every batch; and smaller changes of hue, since so few photographs differ mainly
in colour. Queue, hue and photographs were chosen by the held-out score, in single trials that often
changed more than one of them.
"""

from ipcl_jax.config import Data, Model, Monitor, Objective, Optim, Schedule, Train, Views

config = Train(
    name="ipcl_smoke",
    model=Model(fc_dim=1024),
    objective=Objective(queue_size=96),
    views=Views(size=64, hue=0.1),
    data=Data(source="sample", canvas=(64, 64), threads=2),
    optim=Optim(lr=1e-3, clip_norm=1.0),
    schedule=Schedule(pct_start=0.3, div_factor=25),
    monitor=Monitor(baseline=True),
    epochs=28,
    batch_size=24,
    accumulate=1,
)
