"""The whole system in minutes on a laptop: IPCL on windows of the built-in photographs.

    python experiments/train.py --config ipcl_smoke

Data: 19 photographs that ship inside scikit-image and scikit-learn, cut into windows of their
left part (training) and right part (validation).
"""

from ipcl_jax.config import Data, Model, Monitor, Objective, Optim, Schedule, Train, Views

config = Train(
    name="ipcl_smoke",
    model=Model(fc_dim=1024),
    objective=Objective(queue_size=512),
    views=Views(size=64),
    data=Data(source="sample", canvas=(64, 64), threads=2),
    optim=Optim(lr=1e-3, clip_norm=1.0),
    schedule=Schedule(pct_start=0.3, div_factor=25),
    monitor=Monitor(baseline=True),
    epochs=8,
    batch_size=24,
    accumulate=1,
)
